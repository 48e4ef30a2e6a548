"""The files of a dataset on this machine, and a hash that tells whether they changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lattok.places import walk

SKIPPED = (".git", ".cache")  # of a clone or of the Hub's client, no part of the dataset
META_BYTES = 2**28  # of a file of meta/ whose content counts; larger ones by size and time


def dataset_files(root: Path) -> Iterator[Path]:
    """Paths of all files of a dataset, relative to its root, sorted by folder; a dataset may be one file."""
    if root.is_file():
        return iter([Path()])
    return walk(root, lambda path: len(path.parts) == 1 and path.name in SKIPPED and (root / path).is_dir())


def fingerprint(root: Path, linked: bool = False) -> str:
    """Hash of a dataset on this machine: contents of meta/, size and modification time of everything else.

    Of a copy with `linked` videos these count by name only: they change with those of the source.
    """
    digest = hashlib.sha256()
    for path in dataset_files(root):
        name = os.fsencode(path.as_posix())  # which may be no text
        if linked and path.parts[:1] == ("videos",):
            digest.update(name)
        elif path.parts[:1] == ("meta",) and (root / path).is_file() and (root / path).stat().st_size <= META_BYTES:
            content = (root / path).read_bytes()
            digest.update(name + f" {len(content)}".encode() + content)
        else:
            digest.update(name + f" {file_facts(root / path)}".encode())
    return digest.hexdigest()


def file_facts(path: Path) -> str:
    """Tell size and modification time of a file, or why they cannot be told."""
    try:
        facts = path.stat()
    except OSError as error:  # missing: it is said where it is read
        return str(error.strerror)
    return f"{facts.st_size} {facts.st_mtime_ns}"
