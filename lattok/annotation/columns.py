"""Labels of a dataset: the units in which they are made, and the files they are written into.

A LeRobot dataset gets them as further columns of its data files, any other dataset as Parquet files of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.data.content import dataset_files, facts_of
from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.schema import INDEX_KEYS, RobotDataset
from lattok.data.tables import DAMAGE, open_table, to_arrow
from lattok.utils.checks import LattokError
from lattok.utils.files import whole_file
from lattok.utils.untrusted import followed, parse_json

Labels = dict[str, np.ndarray]  # column name -> [F, *shape]
Failures = dict[str, dict[int, str]]  # prefix -> episode -> why it has no labels
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # column name -> dtype and shape of one row
Rows = Callable[[int, int], Labels]  # rows [first, last) of a file
SIDECAR_PATH = "labels/file-{:03d}.parquet"
SIDECAR_ROWS = 2**20  # per file


class Unit(NamedTuple):
    """A run of whole episodes whose labels go into one file: the unit of work."""

    number: int
    file: str  # relative to the dataset: the data file with these rows, or the sidecar's
    first: int  # rows [first, last) of the file
    last: int
    episodes: tuple[int, ...]  # in the file's order
    lengths: tuple[int, ...]  # frames of each


class Labelled(NamedTuple):
    """Labels of a unit: by column the rows of the episodes that could be labelled, and why others were not."""

    rows: Labels
    failures: Failures
    strange: int = 0  # failures that say nothing about the data, such as a lost device


class UnreadableRows(NamedTuple):
    """A column of a row group that cannot be read any more; the copy holds nulls there."""

    file: str
    first: int  # rows [first, last) of the file
    last: int
    column: str


def plan_units(dataset: RobotDataset, frames: int) -> list[Unit]:
    """Return runs of whole episodes of at most `frames` (a longer one is a unit of its own), file by file."""
    layout = _lerobot_layout(cast(LeRobotV3, dataset)) if dataset.kind == "lerobot" else _sidecar_layout(dataset)
    units: list[Unit] = []
    for file, rows in layout:
        groups: list[list[tuple[int, int, int]]] = [[]]  # of episode, first row, last row
        for index, first, last in rows:
            if groups[-1] and last - groups[-1][0][1] > frames:
                groups.append([])
            groups[-1].append((index, first, last))
        for group in groups:
            episodes, starts, ends = zip(*group, strict=True)
            lengths = tuple(end - start for start, end in zip(starts, ends, strict=True))
            units.append(Unit(len(units), file, starts[0], ends[-1], episodes, lengths))
    return units


def _lerobot_layout(dataset: LeRobotV3) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield data files with the rows of their episodes, in their order, which must agree with meta/episodes."""
    lengths = {episode.index: episode.length for episode in dataset.episodes}
    files = {path: {index: lengths[index] for index in indices} for path, indices in dataset.by_data_file().items()}
    orphans = sorted(set((dataset.root / "data").rglob("*.parquet")) - set(files))
    if orphans:
        raise LattokError(f"{orphans[0]} belongs to no episode of meta/episodes. Remove it, or copy the dataset again.")
    for file, expected in files.items():
        rows = dataset.episode_rows(file)
        if {index: last - first for index, (first, last) in rows.items()} != expected:
            odd = min(i for i in {*rows, *expected} if i not in rows or np.diff(rows[i]) != expected.get(i))
            raise LattokError(f"{file} and meta/episodes disagree on episode {odd}. Copy the dataset again.")
        yield file.relative_to(dataset.root).as_posix(), [(index, *span) for index, span in rows.items()]


def _sidecar_layout(dataset: RobotDataset) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield files of about a million rows with their episodes, in order."""
    number, end, rows = 0, 0, []
    for episode in dataset.episodes:
        if end >= SIDECAR_ROWS:
            yield SIDECAR_PATH.format(number), rows
            number, end, rows = number + 1, 0, []
        rows.append((episode.index, end, end + episode.length))
        end += episode.length
    yield SIDECAR_PATH.format(number), rows


def unit_keys(dataset: RobotDataset, units: Sequence[Unit]) -> list[str]:
    """Hash the episodes of each unit, and size and modification time of the files they are read from.

    A file that is repaired changes the keys of its own units only, wherever their rows then are.
    """
    known: dict[Path, str] = {}
    keys = []
    for unit in units:
        files = dict.fromkeys(path for index in unit.episodes for path in dataset.files_of(index))
        for path in files:
            if path not in known:
                known[path] = facts_of(dataset, path)
        parts = [unit.episodes, unit.lengths, *(known[path] for path in files)]
        keys.append(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16])
    return keys


def copy_other_files(source: Path, target: Path, without: set[Path]) -> None:
    """Put every file of `source` except `without` (relative paths) into `target`; files already there are kept.

    Videos are hard links where the file system allows it, so that a copy takes no room for them. Everything else is
    copied, because LeRobot rewrites its metadata in place, and through a link that would change the source.
    """
    for path in dataset_files(source):
        if path in without:
            continue
        place, original = followed(target, target / path, str(target)), (source / path).resolve()  # of links to blobs
        if place.exists() or not original.exists():  # whoever needs what was never fetched has said so
            continue
        if path.parts[0] == "videos":
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                os.link(original, place)
                continue
        with whole_file(place) as temporary:
            shutil.copyfile(original, temporary)


def append_columns(source: Path, target: Path, shapes: Shapes, rows: Rows) -> list[UnreadableRows]:
    """Write `source` with new columns to `target`, row group by row group; old columns keep their values and types.

    `shapes` gives dtype and true shape per value of each new column; `rows(first, last)` their arrays [n, *shape].
    Where a column of the source is damaged, the copy has nulls, and it is among what comes back.
    """
    file = open_table(source)
    schema = _with_labels(file.schema_arrow, shapes).with_metadata(_metadata(file.schema_arrow.metadata, shapes))
    codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "snappy"
    damage: list[UnreadableRows] = []
    with whole_file(target) as temporary, _writer(temporary, schema, codec) as writer:
        first = 0
        for group in range(file.num_row_groups):
            table, unreadable = _read_group(file, group, source)
            last = first + len(table)
            damage += [UnreadableRows(source.name, first, last, name) for name in unreadable]
            new = rows(first, last)
            columns = [*table.columns, *(to_arrow(new[key]) for key in shapes)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(table)))
            first = last
    return damage


def write_sidecar(target: Path, shapes: Shapes, units: Sequence[Unit], rows: Rows) -> None:
    """Write the labels of a file's units with their episode_index and frame_index, one row group per unit."""
    index = pa.schema([("episode_index", pa.int64()), ("frame_index", pa.int64())])
    schema = _with_labels(index, shapes)
    with whole_file(target) as temporary, _writer(temporary, schema, "snappy") as writer:
        for unit in units:
            new = rows(unit.first, unit.last)
            episode = np.repeat(np.array(unit.episodes, dtype=np.int64), unit.lengths)
            frame = np.concatenate([np.arange(length) for length in unit.lengths])
            columns = [pa.array(episode), pa.array(frame), *(to_arrow(new[key]) for key in shapes)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(episode)))


def _writer(path: Path, schema: pa.Schema, codec: str) -> pq.ParquetWriter:
    compression = {"uncompressed": "none"}.get(codec, codec)
    return pq.ParquetWriter(path, schema, compression=compression, write_page_checksum=True)


def _with_labels(schema: pa.Schema, shapes: Shapes) -> pa.Schema:
    for key, (dtype, shape) in shapes.items():
        kind = to_arrow(np.empty((0, *shape), dtype=dtype)).type
        schema = schema.append(pa.field(key, kind))
    return schema


def _read_group(file: pq.ParquetFile, group: int, source: Path) -> tuple[pa.Table, list[str]]:
    """Read a row group; return also the columns of it that cannot be read, which are null."""
    try:
        return file.read_row_group(group), []
    except DAMAGE:
        pass
    columns, unreadable = [], []
    rows = file.metadata.row_group(group).num_rows
    for field in file.schema_arrow:
        try:
            columns.append(file.read_row_group(group, columns=[field.name]).column(0))
        except DAMAGE:
            if field.name in INDEX_KEYS:
                what = f"{source}: `{field.name}` of row group {group} is damaged. Without it rows have no place"
                raise LattokError(f"{what}: copy the file again, or export the other episodes.") from None
            columns.append(pa.chunked_array([pa.nulls(rows, field.type)]))
            unreadable.append(field.name)
    return pa.Table.from_arrays(columns, schema=file.schema_arrow), unreadable


def _metadata(old: dict[bytes, bytes] | None, shapes: Shapes) -> dict | None:
    """Return schema metadata with the new columns where Hugging Face `datasets` describes the old ones."""
    if not old or b"huggingface" not in old:
        return old
    try:
        described = parse_json(old[b"huggingface"], "huggingface")
        features = described.get("info", {}).get("features")
    except (ValueError, AttributeError):  # no description at all: `datasets` then goes by the types
        return {key: value for key, value in old.items() if key != b"huggingface"}
    if isinstance(features, dict):
        # `datasets` calls fixed-size lists Sequence before version 4 and List since: follow the file
        kinds = [entry.get("_type") for entry in features.values() if isinstance(entry, dict)]
        kind = "Sequence" if "Sequence" in kinds else "List"
        for key, (dtype, shape) in shapes.items():
            width = int(np.prod(shape))
            value = {"dtype": dtype, "_type": "Value"}
            features[key] = value if width == 1 else {"feature": value, "length": width, "_type": kind}
        described.pop("fingerprint", None)  # of the old table
    return {**old, b"huggingface": json.dumps(described).encode()}
