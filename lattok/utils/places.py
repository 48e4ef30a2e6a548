"""Where the files of a dataset or model may lie: below its folder, also after links are followed.

Both come from anybody, so what they say about files is checked before they are touched. One rule for all paths:
they lead to plain files and folders below the root. The root may be a link itself, as the user named it. Beyond it
only two places count as inside:

- of a snapshot in the Hub's cache (.../snapshots/COMMIT), whose files are links, the folder `blobs` of the same
  repository: only files of that repository are there; and the folder `blobs` of the whole cache, which newer clients
  let those be links to, so that files of several repositories are stored once;
- folders that the user names in the environment variable LATTOK_DATA, separated as in PATH, such as a large drive that
  the videos of a dataset are linked to, or the base model that a policy was trained on (`hub/networks.py`).
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lattok.utils.checks import LattokError

TRUSTED = "LATTOK_DATA"
SHARED = ".huggingface-shared-blobs"  # by which the Hub's client knows the `blobs` of its whole cache
MOST_LEVELS = 100  # of folders: Python's own tools for them recurse
MOST_LINKS = 16  # to one folder of a dataset
NAME_BYTES = 200  # of a file name; systems take 255, and endings are added
_SEPARATORS = re.compile(r"[/\\]")


def inside(root: Path, relative: Any, what: str) -> Path:
    """Return the file that something in a dataset calls `relative`: text without `..` that stays below `root`.

    `what` names file and field in errors. The file need not be there.
    """
    text = os.fspath(relative) if isinstance(relative, str | os.PathLike) else None
    if not isinstance(text, str) or not _is_relative(text):
        raise LattokError(f"{what}: expected a path below {root}, got {relative!a:.80}.")
    return followed(root, root / text, what)


def followed(root: Path, path: Path, what: str) -> Path:
    """Return `path`, which must be below `root` after links are followed, and no device or pipe. It need not exist."""
    try:
        real = os.path.realpath(path)
        plain = os.path.normcase(real)
        if not any(plain == area or plain.startswith(area.rstrip(os.sep) + os.sep) for area in _areas(root)):
            got = f"got {path}" if real == os.path.abspath(path) else f"but {path} leads to {real}"
            way_out = f"Move it there, or name the folder that may be read as well: {TRUSTED}={os.path.dirname(real)}"
            raise LattokError(f"{what}: expected a path below {root}, {got}. {way_out} (environment).")
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path  # whoever reads it says that it is missing
    except OSError as error:
        raise LattokError(f"{what}: cannot read {str(path)[:200]} ({error.strerror}).") from None
    except ValueError as error:
        if isinstance(error, LattokError):
            raise
        raise LattokError(f"{what}: expected a path, got {str(path)!a:.80}.") from None  # NUL
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise LattokError(f"{what}: expected a plain file, but {path} is a device or a pipe. Remove it.")
    return path


def walk(root: Path, skip: Callable[[Path], bool], once: bool = False) -> Iterator[Path]:
    """Yield paths of all files below a folder, relative to it: those of a folder by name, then those of its folders.

    Links are followed where they stay inside. A folder that is linked into itself is passed over there; one to which
    many links lead comes with all of them, or is entered `once`. `skip` sees relative paths of files and folders.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(), (os.path.realpath(root),))]
    entered = Counter[str]()
    while waiting:
        folder, above = waiting.pop()
        below: list[tuple[Path, tuple[str, ...]]] = []
        for entry in _entries(root / folder):
            path = folder / entry.name
            if skip(path):
                continue
            if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
                followed(root, root / path, str(root / path))
            if not entry.is_dir():
                yield path
                continue
            real = os.path.realpath(root / path) if entry.is_symlink() or once else os.path.join(above[-1], entry.name)
            entered[real] += entry.is_symlink() or once
            if real in above or (once and entered[real] > 1):
                continue
            if len(path.parts) > MOST_LEVELS:
                raise LattokError(f"{root}: expected at most {MOST_LEVELS} folders in each other, got more.")
            if entered[real] > MOST_LINKS:
                raise LattokError(f"{root / path}: more than {MOST_LINKS} links lead to {real}. Remove some.")
            below.append((path, (*above, real)))
        waiting += reversed(below)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        way_out = "Check its permissions, or move it elsewhere."
        raise LattokError(f"cannot read {str(folder)[:200]} ({error.strerror}). {way_out}") from None


def is_file_name(text: str) -> bool:
    """Tell whether a name out of a dataset can be the name of a file or folder, on every system."""
    odd = any(not character.isprintable() for character in text) or set(text) & set('/\\<>:"|?*')
    return not odd and text.strip(". ") != "" and len(text.encode()) <= NAME_BYTES


def _is_relative(text: str) -> bool:
    path = Path(text)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        return False
    down = bool(path.parts) and not path.anchor and ".." not in _SEPARATORS.split(text)
    return down and "\0" not in text and len(path.parts) <= MOST_LEVELS


def _areas(root: Path) -> Iterator[str]:
    real = Path(os.path.realpath(root))
    yield os.path.normcase(real)
    for folder in (real, *real.parents):
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent
            yield os.path.normcase(repository / "blobs")
            if (repository.parent / "blobs" / SHARED).is_file():
                yield os.path.normcase(repository.parent / "blobs")
    for trusted in filter(None, os.environ.get(TRUSTED, "").split(os.pathsep)):
        yield os.path.normcase(os.path.realpath(os.path.expanduser(trusted)))
