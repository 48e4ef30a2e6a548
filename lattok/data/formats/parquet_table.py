"""Parquet tables with a row for each step, as `datasets` of Hugging Face writes them: train-00000-of-00002.parquet."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from threading import RLock
from typing import Any

import numpy as np
import pyarrow as pa

from lattok.data.formats.array_layouts import D4RL, NAMED_ARRAYS
from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import FlatStore, known
from lattok.data.schema import Feature
from lattok.data.tables import CACHE_BYTES, column_to_numpy, open_table
from lattok.utils.checks import LattokError, few_of, refuse
from lattok.utils.untrusted import copy_again, safe_path

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")  # of a split; an episode may go on in the next one
OF_LEROBOT = "chunk-"  # folders of its files, which mean nothing without meta/
MOST_KNOWN = 4096  # files whose sizes are kept in memory
TEXT, OTHER = np.dtype("U1"), np.dtype(object)
COUNTED = ("index", "frame_index", "task_index")
STEPS = NAMED_ARRAYS._replace(
    name="a table of steps",
    columns={**NAMED_ARRAYS.columns, **{f"{kind}.*": f"{kind}.*" for kind in ("action", "observation", "next")}},
    left_out={**NAMED_ARRAYS.left_out, **dict.fromkeys(COUNTED, "it counts rows")},
)


class TableColumn:
    """A column of a table as an array [T, ...] of numbers, texts or encoded pictures."""

    def __init__(self, table: "TableStore", name: str):
        self._table, self._name = table, name
        kind = leaf = table.schema.field(name).type
        while isinstance(leaf, pa.BaseExtensionType) or _is_list(leaf):
            leaf = leaf.value_type if _is_list(leaf) else leaf.storage_type
        self._pictures = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        self.dtype, inner = OTHER, ()
        if pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf):
            self.dtype = np.dtype(leaf.to_pandas_dtype())
            inner = self.shape_of(0) if leaf is not kind and table.rows else ()
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self.dtype = TEXT
        self.shape = (table.rows, *inner)

    def shape_of(self, row: int) -> tuple[int, ...]:
        """Return the shape of one row, which may be a whole episode of its own length."""
        return self._cell(row).shape

    def _cell(self, row: int) -> np.ndarray:
        group = int(np.searchsorted(self._table.starts, row, side="right")) - 1
        column = self._table.read(group, self._name)[row - int(self._table.starts[group])]
        return np.asarray(column.as_py(), self.dtype)

    def __getitem__(self, rows: Any) -> Any:
        rows, *inner = rows if isinstance(rows, tuple) else (rows,)
        if isinstance(rows, int) and len(self.shape) > 1:
            return self._cell(rows)[tuple(inner)]
        chosen = np.arange(self.shape[0])[rows]
        groups = np.searchsorted(self._table.starts, np.atleast_1d(chosen), side="right") - 1
        parts = [np.empty((0, *self.shape[1:]), self.dtype)]
        for group in np.unique(groups).tolist():
            wanted = np.atleast_1d(chosen)[groups == group] - self._table.starts[group]
            parts.append(self._values(self._table.read(group, self._name).take(pa.array(wanted))))
        found = np.concatenate(parts[1:] or parts)[(slice(None), *inner)]
        return found if np.ndim(chosen) else found[0]

    def _values(self, column: pa.ChunkedArray) -> np.ndarray:
        where = f"{self._table.path}: `{self._name}`"
        if self.dtype not in (TEXT, OTHER):
            return column_to_numpy(column, Feature(self.dtype.name, self.shape[1:] or (1,), None), where)
        cells = column.to_pylist()
        if self.dtype == TEXT:
            return np.array([cell or "" for cell in cells])
        if self._pictures:
            cells = [(cell or {}).get("bytes") for cell in cells]
            if None in cells:
                refuse(where, "pictures", "names of files", "Write them into the table: Dataset.push_to_hub does.")
        values = np.empty(len(cells), OTHER)
        values[:] = cells
        return values


class TableStore(FlatStore):
    """The files of one split, one after the other."""

    def __init__(self, path: Path, files: Sequence[Path]):
        self.path = path
        sizes = [(file, number, size) for file in files for number, size in enumerate(_sizes(file, _stamp(file)))]
        self._groups = [(file, number) for file, number, _ in sizes]
        self.starts = np.cumsum([0, *(size for *_, size in sizes)])
        self.rows = int(self.starts[-1])
        self.schema: pa.Schema = open_table(files[0]).schema_arrow
        if other := next((file for file in files if open_table(file).schema_arrow.names != self.schema.names), None):
            refuse(other, f"the columns of {files[0].name}", "others", "Write the files again together.")

    def check(self) -> None:
        """A table leads nowhere."""

    @property
    def name(self) -> str:
        match = SHARD.fullmatch(self.path.name)
        return match[1] if match else self.path.stem

    def nodes(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.schema.names, True)

    def array(self, path: str) -> TableColumn:
        known(self.nodes(), path, self.path)
        return TableColumn(self, path)

    def attributes(self, path: str) -> Mapping[str, Any]:
        return {}

    def stored_bytes(self, array: Any, where: str) -> int:
        return array.dtype.itemsize * int(np.prod(array.shape))  # `open_table` compares it with the size of the file

    def read(self, group: int, name: str) -> pa.ChunkedArray:
        """Read a column of a row group."""
        return _groups.read(*self._groups[group], name)


class _Groups:
    """The columns of row groups that were read last. Threads may share them."""

    def __init__(self) -> None:
        self._lock, self._bytes = RLock(), 0
        self._found: OrderedDict[tuple[Path, tuple[int, int], int, str], pa.ChunkedArray] = OrderedDict()

    def read(self, file: Path, group: int, name: str) -> pa.ChunkedArray:
        entry = (file, _stamp(file), group, name)
        with self._lock:
            if entry not in self._found:
                self._found[entry] = open_table(file).read_row_group(group, [name]).column(0)
                self._bytes += self._found[entry].nbytes
                while self._bytes > CACHE_BYTES and len(self._found) > 1:
                    self._bytes -= self._found.popitem(last=False)[1].nbytes
            self._found.move_to_end(entry)
            return self._found[entry]


_groups = _Groups()


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _stamp(file: Path) -> tuple[int, int]:
    """Return what tells a file from another one that was at its place."""
    if not file.is_file():
        raise LattokError(f"missing data file {file}. {copy_again(file, 'Download or copy it again.')}")
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=MOST_KNOWN)
def _sizes(file: Path, stamp: tuple[int, int]) -> tuple[int, ...]:
    """Return the rows of each row group."""
    about = open_table(file).metadata
    return tuple(about.row_group(number).num_rows for number in range(about.num_row_groups))


def _is_shard(path: Path) -> bool:
    return SHARD.fullmatch(path.name) is not None


def files_of_split(path: Path) -> list[Path]:
    """Return all files of the split that a file is of.

    Raises:
        LattokError: one is missing.
    """
    if (match := SHARD.fullmatch(path.name)) is None:
        return [path]
    files = [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.parquet") for number in range(int(match[3]))]
    if missing := [file.name for file in files if not file.is_file()]:
        refuse(path.parent, f"the {len(files)} files of {match[1]}", f"none called {few_of(missing, 4)}", "Copy them.")
    return [safe_path(path.parent, file, str(file)) for file in files]


class ParquetDataset(ArrayDataset):
    """Tables of `datasets` or pandas with a row for each step: `action`, pictures `{bytes, path}`, `episode_index` and
    others by name. The files of a split are one table; files of other names are a table each."""

    kind = "parquet"
    text = "Parquet tables with a row for each step (Hugging Face's train-00000-of-00001.parquet)"
    suffixes = (".parquet",)
    layouts = (D4RL, STEPS)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.guess(folder) and any(map(_is_shard, cls.files_in(folder))) else ()

    @classmethod
    def guess(cls, folder: Path) -> bool:
        return not (folder / "meta").is_dir() and super().guess(folder)

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        return False

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        found = super().files_in(folder)
        shards = {path: match for path in found if (match := SHARD.fullmatch(path.name)) is not None}
        firsts = {(path.parent, match[1], match[3]): path for path, match in reversed(shards.items())}
        return [path for path in found if path not in shards or path in firsts.values()]

    @classmethod
    def is_file(cls, path: Path) -> bool:
        return path.is_file() and OF_LEROBOT not in path.parent.name

    @classmethod
    def split_of(cls, file: PurePath) -> tuple[str, ...]:
        match = SHARD.fullmatch(file.name)
        return (*file.parts[:-1], match[1] if match else file.stem)

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        file, *films = super().files_of(episode_index)
        return (*files_of_split(file), *films)

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[TableStore]:
        with TableStore.guarded(path, where):
            yield TableStore(path, files_of_split(path))
