"""Files that are either whole or not there: written beside their place, synchronised, then renamed."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lattok.checks import LattokError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; on success it replaces `path`, on any failure it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a fixed name: what a killed process left behind is overwritten by the next one
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # a read-only file system refuses this too
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


def lock(file: IO[Any], wait: bool) -> bool:
    """Lock an open file until it is closed; whether that was possible. The lock of a killed process is gone with it."""
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, "this system has no file locks") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def held_alone(file: IO[Any], path: Path) -> bool:
    """Lock the open lock file at `path` until it is closed, without waiting; whether nobody else has it.

    Where the file system has no locks, that is no reason to refuse.
    """
    try:
        held = lock(file, wait=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        held = True
    return held and same_file(file, path)


def same_file(file: IO[Any], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def check_writable(folder: Path) -> None:
    """Make `folder` and write into it, before hours of work go there. Raises `LattokError` with the reason."""
    try:
        with whole_file(folder / ".writable") as probe:
            probe.write_bytes(b"0" * 4096)
        (folder / ".writable").unlink()
    except OSError as error:
        raise LattokError(f"cannot write into {folder}: {error.strerror}. Choose another --out.") from None


def sync_files(folder: Path) -> None:
    """Make the contents of all files below `folder` survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one file system change places.

    Linux does it in one step. Elsewhere `other` is missing for a moment; if the process dies then, it lies beside `one`
    and `finish_exchange` puts it right.
    """
    if _renameat2(one, other):
        return
    aside = _aside(one)
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def finish_exchange(one: Path, other: Path) -> None:
    """Finish an `exchange` of the same two folders that was killed half-way; without one, nothing happens."""
    aside = _aside(one)
    if not aside.exists():
        return
    if not other.exists():
        os.rename(one if one.exists() else aside, other)
    if aside.exists():
        os.rename(aside, one)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".aside")


def _renameat2(one: Path, other: Path) -> bool:
    """Exchange by Linux's own call; False where there is none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    here, exchange_flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange_flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system that cannot
        return False
    raise OSError(code, os.strerror(code), str(other))


def write_text(path: Path, text: str) -> None:
    """Write `text` as a whole file."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write strict JSON as a whole file; numbers that are not finite become null, since JSON has none."""
    write_text(path, json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing or broken file is a `LattokError` that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LattokError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise LattokError(f"{path} is not valid JSON ({error}). Copy the file again.") from None
    if not isinstance(value, dict):
        raise LattokError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and infinity, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def first_line(error: Exception) -> str:
    """What an exception says, as one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
