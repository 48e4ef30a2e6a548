"""Demonstrations in .npz files of numpy: arrays by name, an episode in each file."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import D4RL, NAMED_ARRAYS
from lattok.data.formats.array_listing import Store
from lattok.data.formats.array_reader import ArrayDataset
from lattok.utils.checks import LattokError, first_line
from lattok.utils.untrusted import copy_again


@contextmanager
def _reading(path: Path, where: str = "") -> Iterator[None]:
    """Whatever numpy raises over a damaged file becomes one line that names it."""
    try:
        yield
    except LattokError:
        raise
    except Exception as error:  # numpy reads headers as Python's own text: damage is many things
        raise LattokError(f"cannot read {path}{where} ({first_line(error)}). {copy_again(path)}") from None


class NpzArray:
    """An array of a file, of which only the header is read until rows are asked for."""

    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._archive, self._name = archive, name
        self.stored = archive.getinfo(name).compress_size
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, _, self.dtype = read(file)

    def __getitem__(self, rows: Any) -> Any:
        with self._archive.open(self._name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)[rows]  # pickles may run what is in them


class NpzStore(Store):
    """An open .npz file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        names = (each.filename for each in archive.infolist() if each.filename.endswith(".npy"))
        self._members = {name.removesuffix(".npy"): name for name in names}

    def members(self, group: str) -> list[str]:
        return list(dict.fromkeys(path.split("/")[0] for path in self.arrays(group)))

    def is_group(self, path: str) -> bool:
        return not path or any(each.startswith(f"{path}/") for each in self._members)

    def arrays(self, group: str) -> dict[str, Any]:
        start = f"{group}/" if group else ""
        paths = (path for path in self._members if path.startswith(start))
        return {path.removeprefix(start): self.array(path) for path in paths}

    def array(self, path: str) -> Any:
        return NpzArray(self._archive, self._members[path])

    def attributes(self, path: str) -> Mapping[str, Any]:
        return {}

    def stored_bytes(self, array: Any, where: str) -> int:
        return array.stored

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        with _reading(self.path, where):
            yield


class NpzDataset(ArrayDataset):
    """Files of numpy, or a folder of them: `action` or `actions`, `state` and pictures by name, an episode a file.

    Several episodes may follow each other in a file with `episode_ends`, or `terminals`, `timeouts` or `dones`.
    """

    kind = "npz"
    text = "npz (.npz files of numpy with an array `action`)"
    suffixes = (".npz",)
    layouts = (D4RL, NAMED_ARRAYS)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if any(path.suffix.lower() in cls.suffixes for path in folder.iterdir()) else ()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        if not path.is_file():
            raise LattokError(f"missing data file {path}. Download or copy it again.")
        with _reading(path, where), zipfile.ZipFile(path) as archive:
            yield NpzStore(path, archive)
