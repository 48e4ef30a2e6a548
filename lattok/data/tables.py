"""Parquet tables as numpy arrays, with errors that name the file."""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lattok.data.schema import Feature
from lattok.hub.fetching import LocalFiles
from lattok.utils.checks import LattokError, first_line, refuse
from lattok.utils.untrusted import copy_again

MISSING_ROWS = "Download or copy it again, or let `lattok repair` leave its episodes out."
AGAIN = "Copy the file again, or write it again."
CACHE_BYTES = 256 * 2**20  # row groups kept in memory by a reader
OPEN_FILES = 16
MEGABYTE = 2**20
LANGUAGE = "language"  # LeRobot's dtype of lists of messages, subtasks and the like in a cell
# What a file may claim to hold is measured by its size, generously: columns of one value take next to no room.
NUMBERS = ("episode_index", "frame_index")
SHORT = 2**14  # rows of a file whose columns are not worth several threads
FEW_ROWS, ROWS_PER_BYTE = 2**20, 16
FEW_VALUES, VALUES_PER_BYTE = 2**27, 64  # of a column in a row group
FEW_BYTES, EXPANSION = 2**28, 100  # of a column in a row group when it is unpacked
# what pyarrow raises over damaged files; a flipped bit in a name is a UnicodeDecodeError, or no column at all
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError)
NULL_LISTS = "It holds null in lists of fixed size, which pyarrow reads from 26 on: pip install 'pyarrow>=26'"


def open_table(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, whose page checksums are checked on reading; missing or truncated is a `LattokError`."""
    if not path.is_file():
        raise LattokError(f"missing data file {path}. {copy_again(path, MISSING_ROWS)}")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        names = Counter(file.schema_arrow.names)  # a damaged name is no text
    except DAMAGE:
        raise LattokError(f"{path} is no complete Parquet file: truncated or damaged. {copy_again(path)}") from None
    for name, count in names.items():
        if count > 1:
            raise LattokError(f"{path}: expected every column once, got `{name[:80]}` {count} times. {AGAIN}")
    check_rows(path, file.metadata.num_rows, path.stat().st_size)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    for group in (each for each in groups if each.total_byte_size > FEW_BYTES or each.num_rows > FEW_ROWS):
        for column in (group.column(number) for number in range(group.num_columns)):
            stored = column.total_compressed_size
            values, unpacked = column.num_values, column.total_uncompressed_size
            if values > max(FEW_VALUES, VALUES_PER_BYTE * stored) or unpacked > max(FEW_BYTES, EXPANSION * stored):
                got = f"{values:,} values and {unpacked:,} bytes of `{column.path_in_schema[:60]}` in {stored:,} bytes"
                raise LattokError(f"{path}: expected no more than its size allows, got {got}. {AGAIN}")
    return file


def check_rows(path: Path, rows: int, size: int, few: int = FEW_ROWS) -> None:
    """Refuse a claim of more rows than a file of `size` bytes holds: what reads it would make room for all of them."""
    if rows > max(few, ROWS_PER_BYTE * size):
        refuse(path, f"at most {ROWS_PER_BYTE * size:,} rows in {size:,} bytes", f"{rows:,}", AGAIN)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table, or the named columns of it, all of which must be there."""
    file = open_table(path)
    if missing := [name for name in columns or () if name not in file.schema_arrow.names]:
        raise LattokError(f"{path}: missing column {', '.join(missing)}. Write the dataset again with LeRobot v3.")
    try:
        return file.read(columns=None if columns is None else list(columns)).replace_schema_metadata(None)
    except DAMAGE:
        raise LattokError(f"cannot read {path}: truncated or damaged. Copy it again.") from None


@contextmanager
def damaged_values(where: object) -> Iterator[None]:
    """Say where values are no values: text that is no UTF-8, times that no calendar has."""
    try:
        yield
    except (*DAMAGE, ArithmeticError):
        raise LattokError(f"{where}: expected values, got damaged ones. {AGAIN}") from None


def lengths_of(kind: pa.DataType, feature: Feature, where: str) -> tuple[int, ...]:
    """Lengths of the lists that a column of this type holds, outer first, once info.json declares such a column."""
    leaf, depth, shape = kind, 0, feature.shape
    while isinstance(leaf, pa.BaseExtensionType) or _is_list(leaf):
        leaf, depth = (leaf.value_type, depth + 1) if _is_list(leaf) else (leaf.storage_type, depth)
    leaf = leaf.value_type if pa.types.is_dictionary(leaf) else leaf
    if feature.dtype == "string":
        fits = pa.types.is_string(leaf) or pa.types.is_large_string(leaf) or pa.types.is_null(leaf)
    else:
        fits = pa.types.is_integer(leaf) or pa.types.is_boolean(leaf)
        fits |= pa.types.is_floating(leaf) and not feature.dtype.startswith(("int", "uint", "bool"))
    found = {0: (), 1: (math.prod(shape),), len(shape): shape}.get(depth)
    if pa.types.is_null(leaf) and feature.dtype.startswith("float"):  # a file in which nobody knows any value
        fits, found = True, (shape if math.prod(shape) > 1 else ()) if not depth else found
    if not fits or found is None or (math.prod(found) == 1 < math.prod(shape)):
        refuse(where, f"{feature.dtype[:20]} of shape {list(shape)} as info.json says", str(kind)[:60], AGAIN)
    return found


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def column_to_numpy(column: pa.ChunkedArray, feature: Feature, where: str) -> np.ndarray:
    """A column of T values as [T] (shape (1,)) or [T, *shape]. `where` names file and column in errors."""
    if feature.dtype == LANGUAGE:
        values = np.empty(len(column), dtype=object)
        with damaged_values(where):
            values[:] = column.to_pylist()
        return values
    shape, lengths = feature.shape, lengths_of(column.type, feature, where)
    parts = [_flat_values(chunk, lengths, feature, where) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.empty(0)
    return flat.reshape(len(column)) if shape == (1,) else flat.reshape(len(column), *shape)


def _flat_values(values: pa.Array, lengths: tuple[int, ...], feature: Feature, where: str) -> np.ndarray:
    """Unpack lists in lists, one after the other. A float that is empty, alone or with its row, is NaN: unknown."""
    if isinstance(values, pa.ExtensionArray):  # arrays of rank 2 and more, as `datasets` stores them
        values = values.storage
    width, floats = math.prod(lengths), feature.dtype.startswith("float")
    if values.null_count and not floats and (lengths or feature.dtype != "string"):
        raise LattokError(f"{where}: expected a value in every row, got {values.null_count} empty. {AGAIN}")
    if values.null_count * width > FEW_VALUES:  # which take no room in the file
        refuse(where, f"at most {FEW_VALUES:,} empty values", f"{values.null_count * width:,}", AGAIN)
    if floats and pa.types.is_null(values.type):  # what pandas writes where there is no value at all
        return np.full(len(values) * width, np.nan, dtype=np.float32)
    if not lengths:
        with damaged_values(where):
            return values.to_numpy(zero_copy_only=False)
    rows = values.drop_null() if values.null_count else values
    if odd := [count for count in pc.list_value_length(rows).unique().to_pylist() if count != lengths[0]]:  # type: ignore[attr-defined]
        refuse(where, f"lists of {lengths[0]} values (shape {list(feature.shape)})", f"one of {odd[0]}", AGAIN)
    found = _flat_values(rows.flatten(), lengths[1:], feature, where)
    if not values.null_count:
        return found
    flat = np.full((len(values), width), np.nan, dtype=np.result_type(found, np.float16))
    flat[values.is_valid().to_numpy(zero_copy_only=False)] = found.reshape(len(rows), width)
    return flat.reshape(-1)


def to_arrow(values: np.ndarray) -> pa.Array:
    """[T, ...] as a column: scalars where a row holds one value (LeRobot's shape (1,)), else fixed-size lists."""
    kind = pa.string() if values.dtype == object else None  # of texts that may all be missing
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    width = int(np.prod(values.shape[1:]))
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


class DataFile:
    """An open Parquet file: where its row groups start and which rows belong to which episode."""

    def __init__(self, path: Path):
        self.path, self._reading = path, Lock()
        self._file = open_table(path)
        self.schema = self._file.schema_arrow
        self.names = self.schema.names
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        together = self._numbers()
        self.rows = self._rows(together)  # episode index -> rows [first, last), in the file's order
        self.disordered = self._disordered(together)  # episodes whose frame_index does not increase

    def check_types(self, features: Mapping[str, Feature]) -> None:
        """Refuse columns whose type is not what info.json declares, before any of their values is read."""
        for key, feature in features.items():
            if feature.dtype != LANGUAGE:
                lengths_of(self.schema.field(key).type, feature, f"{self.path}: `{key}`")

    def read(self, group: int, key: str) -> pa.ChunkedArray:
        rows, columns = self.starts[group + 1] - self.starts[group], [key]
        return self._checked(columns, rows, lambda: self._file.read_row_group(group, columns).select(columns)).column(0)

    def whole(self, keys: Sequence[str]) -> pa.Table:
        rows, columns = self.starts[-1], list(keys)
        return self._checked(keys, rows, lambda: self._file.read(columns=columns, use_threads=rows > SHORT))

    def _checked(self, keys: Sequence[str], rows: int, read: Callable[[], pa.Table]) -> pa.Table:
        names = ", ".join(keys)
        try:
            with self._reading:  # two threads that read one ParquetFile can wait for each other for ever
                table = read()
        except DAMAGE as error:
            why = first_line(error)
            way_out = NULL_LISTS if "Expected all lists to be of size" in why else "Copy it again."
            raise LattokError(f"cannot read `{names}` from {self.path} ({why}). {way_out}") from None
        if len(table) != rows:
            raise LattokError(f"{self.path} is damaged: rows of `{names}` are missing. {AGAIN}")
        return table

    def _numbers(self) -> pa.Table | None:
        """Read both columns that number rows at once, where both can be read: of short files it is most of the work."""
        try:
            return self.whole(NUMBERS) if {*NUMBERS} <= {*self.names} else None
        except LattokError:  # of one of them, which is said where it is read by itself
            return None

    def _rows(self, together: pa.Table | None) -> dict[int, tuple[int, int]]:
        if "episode_index" not in self.names:
            raise LattokError(f"{self.path}: missing column episode_index. {AGAIN}")
        column = (together or self.whole(NUMBERS[:1]))["episode_index"]
        if not pa.types.is_integer(column.type) or column.null_count:
            raise LattokError(f"{self.path}: `episode_index`: expected a whole number in every row. {AGAIN}")
        episodes = column.to_numpy()
        borders = np.concatenate([[0], np.flatnonzero(np.diff(episodes)) + 1, [len(episodes)]])
        spans = [(a, b) for a, b in pairwise(borders.tolist()) if b > a]
        rows = {int(episodes[a]): (a, b) for a, b in spans}
        if len(rows) != len(spans):
            raise LattokError(f"{self.path}: the rows of an episode are not together. Write the dataset again.")
        return rows

    def _disordered(self, together: pa.Table | None) -> frozenset[int]:
        """Find them, where the column can be read: what is damaged says so where it is asked for."""
        with suppress(LattokError, ValueError, KeyError):
            if pa.types.is_integer(self.schema.field("frame_index").type):
                steps = np.diff((together or self.whole(NUMBERS[1:]))["frame_index"].to_numpy())
                return frozenset(index for index, (a, b) in self.rows.items() if (steps[a : b - 1] <= 0).any())
        return frozenset()


class ColumnReader:
    """Reads rows of columns from many files, keeping the last row groups (256 MB) and files (16) at hand; of all files,
    where episodes lie in them, and `column`s. Threads may share it; pickled, it starts empty."""

    def __init__(self, files: LocalFiles | None = None):
        self._at = files or LocalFiles()
        self._lock = RLock()
        self._files: OrderedDict[Path, DataFile] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int, str], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0
        self._rows: dict[Path, dict[int, tuple[int, int]]] = {}
        self._disordered: dict[Path, frozenset[int]] = {}
        self._columns: dict[tuple[Path, str], pa.ChunkedArray | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ColumnReader, (self._at,)

    def file(self, path: Path) -> DataFile:
        with self._lock:
            if (found := self._files.get(path)) is not None:
                self._files.move_to_end(path)
                return found
        with self._at.at_hand(path) as place, self._lock:  # while it is fetched, others read
            if path not in self._files:
                self._files[path] = DataFile(place)  # open, it can lose no more than its name
                self._rows[path], self._disordered[path] = self._files[path].rows, self._files[path].disordered
                if len(self._files) > OPEN_FILES:
                    self._files.popitem(last=False)
            return self._files[path]

    def rows(self, path: Path) -> dict[int, tuple[int, int]]:
        """Return the rows [first, last) of every episode in a file, in the file's order."""
        return self._rows[path] if path in self._rows else self.file(path).rows

    def disordered(self, path: Path) -> frozenset[int]:
        """Return the episodes of a file whose frame_index does not increase."""
        return self._disordered[path] if path in self._disordered else self.file(path).disordered

    def column(self, path: Path, key: str) -> pa.ChunkedArray | None:
        """Read a whole column, a narrow one, once; None where a part of it cannot be read."""
        if (path, key) not in self._columns:
            try:
                found = self.file(path).whole([key]).combine_chunks()[key]
            except LattokError:
                found = None
            self._columns[path, key] = found
        return self._columns[path, key]

    def read(self, path: Path, key: str, first: int, last: int) -> pa.ChunkedArray:
        starts = self.file(path).starts
        low = int(np.searchsorted(starts, first, side="right")) - 1
        high = int(np.searchsorted(starts, last, side="left"))
        with self._lock:
            chunks = [chunk for group in range(low, high) for chunk in self._group(path, group, key).chunks]
        return pa.chunked_array(chunks).slice(first - int(starts[low]), last - first)

    def _group(self, path: Path, group: int, key: str) -> pa.ChunkedArray:
        entry = (path, group, key)
        if entry not in self._groups:
            self._groups[entry] = self.file(path).read(group, key)
            self._bytes += self._groups[entry].nbytes
            while self._bytes > CACHE_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(entry)
        return self._groups[entry]


class RollingTables:
    """Parquet files of one kind, one row group per write, rolled over by size."""

    def __init__(self, folder: Path, pattern: str, chunk_files: int, limit_mb: float):
        self._folder, self._pattern = folder, pattern
        self._chunk_files, self._limit = chunk_files, limit_mb * MEGABYTE
        self._number = 0  # of the current file, over all folders
        self._open: tuple[pa.NativeFile, pq.ParquetWriter] | None = None

    def next_place(self) -> tuple[int, int]:
        """(chunk, file) of the next write; a full file is closed first."""
        if self._open is not None and self._open[0].tell() >= self._limit:
            self.close()
            self._number += 1
        return divmod(self._number, self._chunk_files)

    def write(self, table: pa.Table) -> tuple[int, int]:
        """Append a row group and return the (chunk, file) it is in."""
        chunk, file = self.next_place()
        if self._open is None:
            path = self._folder / self._pattern.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            sink = pa.OSFile(str(path), "wb")
            self._open = sink, pq.ParquetWriter(sink, table.schema, compression="snappy", write_page_checksum=True)
        self._open[1].write_table(table, row_group_size=table.num_rows)
        return chunk, file

    def close(self) -> None:
        if self._open is not None:
            sink, writer = self._open
            writer.close()
            sink.close()
        self._open = None


def common_types(key: str, schemas: Mapping[Path, pa.Schema]) -> pa.DataType:
    """The type that holds a column of all files: where one has only empty lists, another says what is in them."""
    fields = [pa.schema([schema.field(key)]) for schema in schemas.values() if key in schema.names]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(key).type
    except (pa.ArrowException, LookupError):
        got = ", ".join(dict.fromkeys(str(schema.field(0).type)[:60] for schema in fields)) or "no such column"
        raise LattokError(f"`{key}`: expected one type in all data files, got {got}. Write it with one.") from None


def of_type(key: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast the column `key` to the type that `common_types` found."""
    if column.type == kind:
        return column
    try:  # Arrow casts between types, and adds what is missing in a struct, where there is no extension in them
        plain = pa.table({"column": column.cast(_plain(column.type))})
        empty = pa.schema([("column", _plain(kind))]).empty_table()
        return pa.concat_tables([empty, plain], promote_options="permissive")["column"].cast(kind)
    except pa.ArrowException as error:
        expected, got = (f"{str(each)[:200]}" for each in (kind, column.type))
        way_out = "Write the dataset again with one type."
        raise LattokError(
            f"`{key}`: expected {expected}, as in other data files, got {got} ({first_line(error)}). {way_out}"
        ) from None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type with what its extensions are stored as."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_plain(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind
