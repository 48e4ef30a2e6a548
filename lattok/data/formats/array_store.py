"""A file, or a folder, that holds arrays by path: what HDF5, zarr and npz have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lattok.data.formats.array_frames import with_frames
from lattok.utils.checks import LattokError, first_line, is_our_fault
from lattok.utils.untrusted import copy_again

CHANGED = "is not as it was when the dataset was opened. Open it again."


class Store(ABC):
    """A file, or a folder, that holds arrays by path, open for reading. Paths have "/" between names; "" is the top."""

    path: Path
    errors: ClassVar[tuple[type[Exception], ...]] = (Exception,)  # that the library raises over damage

    @classmethod
    def way_out(cls, path: Path, text: str) -> str:
        """Return what to do about a damaged file, of which the library says `text`."""
        return copy_again(path)

    @classmethod
    @contextmanager
    def guarded(cls, path: Path, where: str = "") -> Iterator[None]:
        """Whatever a damaged file makes the library raise becomes one line that names the file and `where`."""
        try:
            yield
        except LattokError:
            raise
        except cls.errors as error:
            if is_our_fault(error):
                raise
            text = first_line(error)
            raise LattokError(f"cannot read {path}{where} ({text}). {cls.way_out(path, text)}") from None

    @abstractmethod
    def check(self) -> None:
        """Refuse a file that leads elsewhere; asked once, when it is listed."""

    def reading(self, where: str) -> AbstractContextManager[None]:
        """Guard the reading of a part of the file."""
        return self.guarded(self.path, where)

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.path.stem

    @abstractmethod
    def members(self, group: str) -> list[str]:
        """List the names directly below a group."""

    @abstractmethod
    def is_group(self, path: str) -> bool:
        """Return whether there is a group."""

    def arrays(self, group: str) -> dict[str, Any]:
        """Arrays below a group, at any depth, by path from it: with `shape`, `dtype` and rows by slice or indices."""
        return with_frames(self.single_arrays(group))

    @abstractmethod
    def single_arrays(self, group: str) -> dict[str, Any]:
        """Return the arrays as they are stored."""

    @abstractmethod
    def array(self, path: str) -> Any:
        """Return the array that is stored at a path from the top."""

    @abstractmethod
    def attributes(self, path: str) -> Mapping[str, Any]:
        """Return the attributes of a group."""

    def chunks_not_stored(self, path: str) -> int:
        """Count the chunks of the array at a path that no file holds: they read as zeros."""
        return 0

    @abstractmethod
    def stored_bytes(self, array: Any, where: str) -> int:
        """Count the bytes that an array takes in the file; an error if they are in other files."""


class FlatStore(Store):
    """A store whose nodes are known by their paths: arrays, and groups where these have entries of their own."""

    @abstractmethod
    def nodes(self) -> Mapping[str, bool]:
        """Return all nodes by path; whether each is an array."""

    def members(self, group: str) -> list[str]:
        return list(dict.fromkeys(path.split("/")[0] for path in self._below(group)))

    def is_group(self, path: str) -> bool:
        nodes = self.nodes()
        return not nodes[path] if path in nodes else not path or any(each.startswith(f"{path}/") for each in nodes)

    def single_arrays(self, group: str) -> dict[str, Any]:
        start = f"{group}/" if group else ""
        return {path: self.array(start + path) for path in self._below(group) if self.nodes()[start + path]}

    def _below(self, group: str) -> list[str]:
        start = f"{group}/" if group else ""
        return [path.removeprefix(start) for path in self.nodes() if path.startswith(start) and path != group]


def plain(value: Any) -> Any:
    """Return a number of numpy, such as h5py reads, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def known(found: Mapping[str, Any], path: str, file: Path) -> Any:
    """Return the array at a path that was listed before."""
    if path not in found:
        raise LattokError(f"{file}: `{path}` {CHANGED}")
    return found[path]
