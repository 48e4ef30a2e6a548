"""Files that are either whole or not there: written next to their place, synchronised, then renamed."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lattok.utils.checks import LattokError
from lattok.utils.untrusted import COPY, JSON_BYTES, parse_json

# temporary files of ours: no other program gives such names, and a process that writes one holds its lock
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.lattok-tmp")
_SWEPT: set[tuple[int, Path]] = set()  # folders that this process has looked through


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; on success it replaces `path`, on any failure it is gone.

    Its name is new each time, so that two processes never write into one file; what killed ones left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary_in(path.parent) as place:
            yield place
            sync(place)
            os.replace(place, path)
    except OSError as error:
        if error.filename is not None and TEMPORARY.fullmatch(Path(os.fsdecode(error.filename)).name):
            error.filename, error.filename2 = str(path), None  # which somebody asked for
        raise
    sync(path.parent)


@contextmanager
def _temporary_in(folder: Path) -> Iterator[Path]:
    """Yield a new temporary file in `folder`, locked as long as this process lives; gone in the end, if not renamed."""
    if (os.getpid(), folder) not in _SWEPT:
        _SWEPT.add((os.getpid(), folder))
        sweep(folder)
    while True:
        place = folder / f".{secrets.token_hex(8)}.lattok-tmp"
        with open(place, "xb") as file:
            if held_alone(file, place):  # otherwise somebody swept between these two lines
                try:
                    yield place
                finally:
                    with suppress(OSError):  # a read-only file system refuses this too
                        place.unlink(missing_ok=True)
                return


def is_temporary(path: Path) -> bool:
    """Return whether this is a temporary file of ours, perhaps left by a process that was killed."""
    return TEMPORARY.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def sweep(folder: Path) -> None:
    """Remove temporary files in `folder` that no process writes any more."""
    with suppress(OSError):  # a folder that may not be listed or changed
        for path in [path for path in folder.iterdir() if is_temporary(path)]:
            with suppress(OSError), open(path, "rb") as file:
                if lock(file, wait=False):
                    path.unlink()


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


def lock(file: IO[Any], wait: bool, shared: bool = False) -> bool:
    """Lock an open file until it is closed; whether that was possible. The lock of a killed process is gone with it.

    Several may hold a `shared` one at once, and nobody another kind meanwhile.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, "this system has no file locks") from None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def held_alone(file: IO[Any], path: Path) -> bool:
    """Lock the open lock file at `path` until it is closed, without waiting; False where another process has it."""
    try:
        held = lock(file, wait=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:  # a file system without any is no reason to refuse
            raise
        held = True
    return held and same_file(file, path)


def same_file(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def check_writable(folder: Path, way_out: str = "out=FOLDER") -> None:
    """Write into `folder`, before hours of work go there, and leave nothing. Raises `LattokError` with the reason."""
    try:
        with made(folder):
            sweep(folder)
            with _temporary_in(folder) as probe:
                probe.write_bytes(b"0" * 4096)
                sync(probe)
    except OSError as error:
        raise LattokError(f"cannot write into {folder}: {error.strerror}. Choose another place: {way_out}") from None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make `folder` where it is not there, and remove it again, with parents that were made, if nothing is in it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):
            for each in missing:
                each.rmdir()


def make_room(error: BaseException) -> str:
    """Return what helps where a file cannot be written: neither permissions nor a limit on the size of files are a
    full disk."""
    ways_out = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Correct the permissions")
    ways_out[errno.EFBIG] = "Raise the limit on the size of files (ulimit -f)"
    return ways_out.get(getattr(error, "errno", None) or 0, "Free space")


def sync_files(folder: Path) -> None:
    """Make the contents of all files below `folder` survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def sync(path: Path) -> None:
    """Make what a file holds, or renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, indent: int = 2) -> None:
    """Write strict JSON as a whole file; numbers that are not finite become null, since JSON has none."""
    write_text(path, json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False))


def json_hash(value: object) -> str:
    """Return the SHA-256, in hexadecimal digits, of a value as JSON; keys count in alphabetical order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, hint: str = COPY, *, nan: bool = False) -> dict[str, Any]:
    """Read a JSON object; `LattokError` with `hint` for a missing, broken or hostile file (see `parse_json`)."""
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe or device that could be read without end
            raise OSError(errno.EINVAL, "it is not a file")
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
    except OSError as error:
        raise LattokError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError:  # a path that no system has
        raise LattokError(f"cannot read {str(path)!r}: it is not a path.") from None
    if not content.strip():
        raise LattokError(f"{path} is empty. {hint}")
    value = parse_json(content, str(path), hint, nan=nan)
    if not isinstance(value, dict):
        raise LattokError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def finite(value: object) -> Any:
    """Return `value` with None in place of NaN and infinity, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
