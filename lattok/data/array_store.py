"""Arrays in a folder that many processes share: a file for each, whole or not there, and never more than a bound.

A file is a page with a header (JSON: shape, type, CRC-32 of the numbers) and then the numbers, read by memory mapping.
All that changes the folder happens under one lock: a writer claims the full size of its file before it has a number to
write, and where that would exceed the bound, the files that were least recently opened are removed first. A process
that has one of them open keeps it, and the disk gets its room back when that process ends.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from lattok.files import lock, same_file, whole_file

HEADER = 4096  # bytes: numbers begin on a page
LOCK = ".lock"  # its text is an upper bound of all sizes
OWN, WRITTEN = ".lattok-array", ".tmp"  # ends of names, the second while written: nothing else is counted or removed
SPARE = 0.05  # of the bound, freed beyond need, so that a full folder is not searched for every file


class Layout(NamedTuple):
    """What an array must be."""

    shape: tuple[int, ...]
    dtype: str  # a numpy name

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return HEADER + math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Busy(Exception):
    """Another process writes this very array."""


class ArrayStore:
    """Arrays by name, where a name is a relative path. Errors of the file system are `OSError`s."""

    def __init__(self, folder: Path, limit: int, check: bool = False):
        """At most `limit` bytes lie in `folder`. With `check`, checksums are compared at opening: all is read once."""
        self.folder, self.limit, self.check = folder, limit, check
        self._begun = time.time_ns()

    def open(self, name: str, layout: Layout) -> np.ndarray | None:
        """The array `name`, mapped read-only; None where there is none that is whole."""
        path = self.folder / f"{name}{OWN}"
        try:
            with path.open("rb") as file:
                checksum = _read_header(file, layout)
                if checksum is None:
                    return None
                values = _mapped(file, layout)
        except FileNotFoundError:
            return None
        if self.check and zlib.crc32(values.data) != checksum:
            return None
        with suppress(OSError):  # a read-only folder serves as well
            os.utime(path)  # lately used
        return values

    def taken(self, name: str) -> bool:
        """Whether there is an array, or somebody writes it: no reason to prepare it. It may still turn out damaged."""
        path = self.folder / f"{name}{OWN}"
        return path.exists() or _unfinished(path).exists()

    def add(self, name: str, layout: Layout, make: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
        """The array `name`, made and written unless another process was faster. Raises `Busy` if one is at it.

        `make` hands over runs of rows, in order; only one of them need be in memory.
        """
        path = self.folder / f"{name}{OWN}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            file = _begin(path)
            try:
                found = self.open(name, layout)
                if found is None:
                    path.unlink(missing_ok=True)  # damaged, or of another layout
                    self._make_room(layout.size, _unfinished(path))
                    _allocate(file, layout.size)
            except BaseException:
                _give_up(file, path)
                raise
            if found is not None:
                _give_up(file, path)
                return found
        with file, ExitStack() as placing, whole_file(path, _unfinished(path)):  # a claim ends when the file is closed
            _write(file, layout, make())
            placing.enter_context(self._locked())  # who adds up sizes meanwhile could miss a file that is renamed
            return _mapped(file, layout)  # also if it is removed at once, for other arrays

    def _make_room(self, size: int, unfinished: Path) -> None:
        """Count the bytes of an unfinished file, removing old files where they would be too many."""
        total = self._counted()
        if total is None or total + size > self.limit:
            files = sorted(facts for facts in self._files() if facts.path != unfinished)
            total = sum(facts.size for facts in files)
            must, should = self.limit - size, self.limit - size - int(SPARE * self.limit)
            removing = total > must
            for facts in files if removing else ():
                if total <= should or (total <= must and facts.used >= self._begun):
                    break
                if _remove(facts.path):
                    total -= facts.size
        if total + size > self.limit:
            raise OSError(errno.ENOSPC, f"no room for {size:,} bytes within the bound of {self.limit:,}")
        (self.folder / LOCK).write_text(f"{total + size}\n")

    def _counted(self) -> int | None:
        """What the files take at most, as counted so far; None where that is not known."""
        text = (self.folder / LOCK).read_text()
        return int(text) if text.endswith("\n") and text.strip().isdecimal() else None

    def _files(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name.endswith((OWN, OWN + WRITTEN)):
                    path = Path(folder) / name
                    with suppress(FileNotFoundError):  # given up by its writer just now
                        facts = path.stat()
                        yield _File(facts.st_mtime_ns, facts.st_size, path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / LOCK).open("ab") as file:
            lock(file, wait=True)
            yield


class _File(NamedTuple):
    used: int  # ns
    size: int
    path: Path


def _write(file: BinaryIO, layout: Layout, parts: Iterable[np.ndarray]) -> None:
    file.seek(HEADER)
    checksum = 0
    for part in parts:
        values = np.ascontiguousarray(part, dtype=layout.dtype)
        checksum = zlib.crc32(values.data, checksum)
        file.write(values.data)
    if file.tell() != layout.size:
        raise RuntimeError(f"expected {layout.size} bytes, got {file.tell()}")
    file.seek(0)
    file.write(json.dumps({"shape": layout.shape, "dtype": layout.dtype, "crc32": checksum}).encode().ljust(HEADER))
    file.flush()
    os.fsync(file.fileno())


def _mapped(file: BinaryIO, layout: Layout) -> np.ndarray:
    return np.asarray(np.memmap(file, layout.dtype, "r", HEADER, layout.shape))


def _read_header(file: BinaryIO, layout: Layout) -> int | None:
    """The checksum, if the file is whole and of this layout."""
    try:
        facts = json.loads(file.read(HEADER))
        same = tuple(facts["shape"]) == layout.shape and facts["dtype"] == layout.dtype
        return int(facts["crc32"]) if same and os.fstat(file.fileno()).st_size == layout.size else None
    except (ValueError, KeyError, TypeError):
        return None


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + WRITTEN)


def _begin(path: Path) -> BinaryIO:
    """The unfinished file of `path`, empty and locked; `Busy` while somebody else has it. Called under the lock."""
    unfinished = _unfinished(path)
    file = os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    if not (lock(file, wait=False) and same_file(file, unfinished)):
        file.close()
        raise Busy
    file.truncate(0)  # what a killed process left
    return file


def _give_up(file: BinaryIO, path: Path) -> None:
    _unfinished(path).unlink(missing_ok=True)
    file.close()


def _remove(path: Path) -> bool:
    """Remove a file, unless it is being written."""
    if path.suffix == WRITTEN:
        try:
            with path.open("rb") as file:
                if not lock(file, wait=False):
                    return False
        except FileNotFoundError:
            return False
    path.unlink(missing_ok=True)
    return True


def _allocate(file: BinaryIO, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not when hours have passed
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)
