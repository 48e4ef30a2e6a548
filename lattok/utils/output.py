"""Where results go: may lattok write there, who is at work, and what becomes of what a killed process left.

Whoever makes a file or a folder does it in one of three ways:

- new: `check_new` and `filled` put files into a new or empty folder, all or none.
- continue: the work goes on where it was, alone under a lock that is gone with its holder (`locked`). What is to appear
  as a whole is put together in a hidden folder next to the place, which also keeps finished parts for the next attempt:
  `hold`, `publish`, `remove`.
- replace own: `check_own` lets only results of lattok be replaced, those about the same.
"""

import ctypes
import errno
import os
import shlex
import shutil
import sys
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from typing_extensions import Self

from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import check_writable, held_alone, is_temporary, made, same_file, sweep, sync, write_text

LOCK, DONE = "lock", "done"  # in the hidden folder: either says that it is ours; the second goes last
MARK = "lattok works here. The folder is removed when it has finished.\n"
UNFINISHED = ".lattok-unfinished"
_BEGUN = "lattok was writing this folder. The same command begins again.\n"


class Busy(LattokError):
    """Somebody else has the place, for now or for good."""


def is_free(folder: Path) -> bool:
    """Return whether `folder` is new, or holds nothing but what killed processes left of temporary files."""
    return not os.path.lexists(folder) or (folder.is_dir() and all(map(is_temporary, folder.iterdir())))


def is_unfinished(folder: Path) -> bool:
    """Return whether `Output.filled` was killed while it filled this folder."""
    mark = folder / UNFINISHED
    try:
        return not mark.is_symlink() and mark.read_text(encoding="utf-8") == _BEGUN
    except (OSError, ValueError):
        return False


def unused(name: str, taken: Callable[[str], bool] = os.path.lexists, mark: str = "-") -> str:
    """Return a name that is not taken, by default by nothing in the current folder: this one, or with a number."""
    return next(each for each in chain([name], (f"{name}{mark}{i}" for i in count(2))) if not taken(each))


class Output:
    """The file or folder `place`, which errors call `argument`; .NAME.`kind` next to it is its hidden folder."""

    def __init__(self, place: str | Path, argument: str = "out", kind: str = "partial"):
        self.place, self.argument = Path(place).expanduser(), argument  # "--out=~/x", which a shell may leave as it is
        named = self.place if self.place.name not in ("", "..") else self.place.resolve()  # "." has no name
        self.work = named.with_name(f".{named.name}.{kind}") if named.name else named / f".{kind}"
        self.made = self.work / "dataset"  # takes the place when it is finished
        self._release: Callable[[], object] | None = None
        self._parents: list[Path] = []  # that were made for the hidden folder

    # new

    def check_new(
        self,
        left: Callable[[Path], bool] = is_unfinished,
        hint: str = "Choose another folder.",
        holds: str = "something",
    ) -> None:
        """Require a new or empty folder, or one that holds what an earlier attempt `left`, and nothing else."""
        if not is_free(self.place) and not left(self.place):
            got = f"{self.place}, which holds {holds}" if self.place.is_dir() else f"the file {self.place}"
            checks.fail(self.argument, "a new or empty folder", got, hint)

    def check_absent(self, what: str = "folder") -> None:
        """Require that there is nothing where a new `what` goes."""
        if os.path.lexists(self.place):
            whole = what == "folder" and (self.place / "meta" / "info.json").is_file()  # which comes with all of it
            looked = f"It holds a whole dataset: {shlex.join(['lattok', 'inspect', str(self.place)])}. "
            hint = f"{looked * whole}Remove it or choose another, such as {unused(str(self.place).rstrip('/'))}."
            checks.fail(self.argument, f"a {what} that does not exist yet", str(self.place), hint)

    def check_outside(self, source: Path) -> None:
        """Require a place that is not in the dataset `source`, which is read."""
        if self.place.resolve().is_relative_to(source.resolve()):
            checks.fail(self.argument, "a folder outside the source dataset", str(self.place))

    @contextmanager
    def filled(self, own: Collection[str]) -> Iterator[None]:
        """Fill the folder, which `check_new` allows, with what is called `own`; on failure with none of it.

        A mark in it says so meanwhile: after a kill the next attempt removes what is there and begins again.
        """
        check_writable(self.place)
        mark = self.place / UNFINISHED
        if mark.exists():
            _clear(self.place, own)
        write_text(mark, _BEGUN)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # a disk that refuses
                _clear(self.place, own)
                mark.unlink()
                self.place.rmdir()
            raise
        mark.unlink()

    # continue

    @contextmanager
    def locked(self, lock: Path) -> Iterator[None]:
        """Hold the lock file, which is there only meanwhile; raises `Busy` where another process holds it."""
        while True:
            with made(lock.parent), open(lock, "ab") as file:
                if not held_alone(file, lock):
                    if same_file(file, lock):
                        raise self._busy()
                    continue  # its holder ended just now, and took it along
                try:
                    yield
                finally:
                    with suppress(OSError):
                        lock.unlink()
                return

    def hold(self) -> Self:
        """Make the hidden folder this process's own until `release`, or until the object is gone.

        Raises `Busy` where another process has it, and where it was not made by lattok, even if it has the name: what
        it holds may be somebody's work.
        """
        if os.path.lexists(self.work) and not _is_ours(self.work):
            raise Busy(f"{self.work} is in the way and was not made by lattok. Move it away.")
        self._parents = [each for each in self.work.parents if not each.exists()] or self._parents
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # nobody has asked for a hidden folder
            error.filename = str(self.place)
            raise
        file = open(self.work / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  as long as its holder wants
        try:
            if not held_alone(file, self.work / LOCK):
                raise self._busy()
            if not os.fstat(file.fileno()).st_size:
                file.write(MARK)
                file.flush()
            self._finish_exchange()
        except BaseException:
            file.close()
            raise
        self._release = weakref.finalize(self, file.close)
        return self

    @property
    def held(self) -> bool:
        return self._release is not None

    def release(self, *_: object) -> None:
        if self._release is not None:
            self._release()
            self._release = None

    __enter__, __exit__ = hold, release

    def publish(self) -> None:
        """Move `made` to its place; where something is there, let them change places. Survives a power cut."""
        if self.place.exists():
            exchange(self.made, self.place)
        else:
            os.rename(self.made, self.place)
        sync(self.place.parent)

    def remove(self, but: Collection[str] = ()) -> None:
        """Remove the folders in the hidden folder, `but` some, and then it, its marks last.

        Files of others, such as .DS_Store and .nfs*, stay, and the marks with them.
        """
        sweep(self.work)
        with suppress(OSError):  # not there, or a disk that refuses
            self._finish_exchange()
            for path in self.work.iterdir():
                if path.is_dir() and path.name not in but:
                    shutil.rmtree(path, ignore_errors=True)
            if {path.name for path in self.work.iterdir()} <= {LOCK, DONE}:
                for name in (LOCK, DONE):
                    (self.work / name).unlink(missing_ok=True)
                self.work.rmdir()
            for each in self._parents:  # that nothing is in
                each.rmdir()

    def _busy(self) -> Busy:
        hint = "Wait until it has finished, or choose another folder."
        return Busy(f"`{self.argument}`: another process is at work on {self.place}. {hint}")

    def _finish_exchange(self) -> None:
        """Finish an `exchange` that was killed half-way: either folder may lie at the place afterwards."""
        aside = _aside(self.made)
        if not aside.exists():
            return
        if not self.place.exists():
            os.rename(self.made if self.made.exists() else aside, self.place)
        if aside.exists():
            os.rename(aside, self.made)

    # replace own

    def check_own(
        self,
        readers: dict[str, Callable[[Path], Any]],
        about: object,
        what: str,
        other: str = "",
        overwrite: bool = False,
    ) -> None:
        """Require that what lies there under the names of `readers` is a `what` of lattok's, and about the same.

        A reader returns what a file is about, None for one that is not of lattok. With `overwrite` it may be about
        something else, which errors call `other`.
        """
        for name, read in readers.items():
            path = self.place / name
            if not os.path.lexists(path):
                continue
            found = None if path.is_symlink() else read(path)
            if found is None:
                raise LattokError(f"`{self.argument}`: {path} is not a {what} of lattok's. Choose another place.")
            if found != about and not overwrite:
                text = f"`{self.argument}`: {self.place} holds the {what} {other}"
                raise LattokError(f"{text}. Choose another folder, or remove that {what}.")


def _clear(folder: Path, own: Collection[str]) -> None:
    for path in [folder / name for name in own]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    """Return whether a file that begins with MARK, or says it, marks it, or nothing is in it, as after a kill."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    entries = list(folder.iterdir())
    if any(entry.is_symlink() for entry in entries):
        return False
    files = {entry.name: entry for entry in entries if entry.is_file()}
    for name in {LOCK, DONE} & files.keys():
        with files[name].open("rb") as file:
            if MARK.strip().encode() in file.read(len(MARK) + 100):
                return True
    return not entries or (len(entries) == 1 and LOCK in files and not files[LOCK].stat().st_size)


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one file system change places.

    Linux does it in one step. Elsewhere `other` is missing for a moment; if the process dies then, it lies next to
    `one`, and `Output.hold` puts it right.
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
