"""Demonstrations in .npz files of numpy: arrays by name, an episode in each file."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import D4RL, NAMED_ARRAYS
from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import FlatStore, known
from lattok.data.schema import ARRAYS, FAR_BELOW, TABLES, holds
from lattok.data.video import SUFFIXES as VIDEOS
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import MISSING, copy_again


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


class NpzStore(FlatStore):
    """An open .npz file, whose headers numpy reads as Python's own text: damage raises errors of many kinds."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        names = (each.filename for each in archive.infolist() if each.filename.endswith(".npy"))
        self._members = {name.removesuffix(".npy"): name for name in names}

    def check(self) -> None:
        """A member of an archive leads nowhere."""

    def nodes(self) -> Mapping[str, bool]:
        return dict.fromkeys(self._members, True)

    def array(self, path: str) -> Any:
        return NpzArray(self._archive, known(self._members, path, self.path))

    def attributes(self, path: str) -> Mapping[str, Any]:
        return {}

    def stored_bytes(self, array: Any, where: str) -> int:
        return array.stored


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
        files = [*folder.iterdir()]
        arrays = {path.with_suffix("") for path in files if path.suffix.lower() in cls.suffixes}
        films = {path.with_suffix("") for path in files if path.suffix.lower() in VIDEOS}
        return [folder] if arrays and not arrays < films else ()  # films of which some have numbers: video reads both

    @classmethod
    def hint(cls, folder: Path) -> str:
        written = "Write arrays as a dataset first, with lattok.data.LeRobotWriter: docs/howto/own_dataset.md."
        return written if holds(folder, (*ARRAYS, *TABLES), FAR_BELOW) else ""

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[NpzStore]:
        if not path.is_file():
            raise LattokError(f"missing data file {path}. {copy_again(path, MISSING)}")
        with NpzStore.guarded(path, where), zipfile.ZipFile(path) as archive:
            yield NpzStore(path, archive)
