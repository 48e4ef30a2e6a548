"""A copy of a LeRobot dataset with more columns: the units in which they are made, files kept as they are,
new columns appended to the data files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.checks import LattokError
from lattok.data.lerobot import LeRobotV3
from lattok.data.tables import open_table, to_arrow
from lattok.files import whole_file

Labels = dict[str, np.ndarray]  # column name -> [F, *shape]
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # column name -> dtype and shape of one row
SKIPPED = (".git", ".cache")  # of a clone or of the Hub's client, no part of the dataset


class Unit(NamedTuple):
    """A run of whole episodes in one data file, the unit of work."""

    number: int
    file: Path
    first: int  # rows [first, last) of the file
    last: int
    episodes: tuple[int, ...]  # in the file's order


def plan_units(dataset: LeRobotV3, frames: int) -> list[Unit]:
    """Runs of whole episodes of at most `frames` (a longer episode is a unit of its own), file by file."""
    files: dict[Path, set[int]] = {}
    for episode in dataset.episodes:
        files.setdefault(dataset.data_file(episode.index), set()).add(episode.index)
    orphans = sorted(set((dataset.root / "data").rglob("*.parquet")) - set(files))
    if orphans:
        raise LattokError(f"{orphans[0]} belongs to no episode of meta/episodes. Remove it, or copy the dataset again.")
    units: list[Unit] = []
    for file, expected in files.items():
        rows = dataset.episode_rows(file)
        if set(rows) != expected:
            odd = min(set(rows) ^ expected)
            raise LattokError(f"{file} and meta/episodes disagree on episode {odd}. Copy the dataset again.")
        group: list[int] = []
        for index, (_, last) in rows.items():
            if group and last - rows[group[0]][0] > frames:
                units.append(_unit(len(units), file, rows, group))
                group = []
            group.append(index)
        units.append(_unit(len(units), file, rows, group))
    return units


def _unit(number: int, file: Path, rows: dict[int, tuple[int, int]], group: list[int]) -> Unit:
    return Unit(number, file, rows[group[0]][0], rows[group[-1]][1], tuple(group))


def dataset_files(root: Path) -> Iterator[Path]:
    """Paths of all files of a dataset, relative to its root, sorted by folder."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(folder) != root or name not in SKIPPED)
        for name in sorted(names):
            yield (Path(folder) / name).relative_to(root)


def fingerprint(root: Path) -> str:
    """Hash of a dataset on this machine: contents of meta/, size and modification time of everything else."""
    digest = hashlib.sha256()
    for path in dataset_files(root):
        facts = (root / path).stat()
        digest.update(f"{path.as_posix()} {facts.st_size}".encode())
        if path.parts[0] == "meta":
            digest.update((root / path).read_bytes())
        else:
            digest.update(f" {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def copy_other_files(source: Path, target: Path, without: set[Path]) -> None:
    """Put every file of `source` except `without` (relative paths) into `target`; files already there are kept.

    Videos are hard links where the file system allows it. Everything else is copied, because LeRobot rewrites its
    metadata in place, and through a link that would change the source.
    """
    for path in dataset_files(source):
        if path in without or (target / path).exists():
            continue
        original = (source / path).resolve()  # the Hub's cache keeps links to blobs
        if path.parts[0] == "videos" and _linked(original, target / path):
            continue
        with whole_file(target / path) as temporary:
            shutil.copyfile(original, temporary)


def _linked(original: Path, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original, target)
    except OSError:
        return False
    return True


def append_columns(source: Path, target: Path, shapes: Shapes, rows: Callable[[int, int], Labels]) -> None:
    """Write `source` with new columns to `target`, row group by row group; old columns keep their values and types.

    `shapes` gives dtype and true shape per value of each new column; `rows(first, last)` their arrays [n, *shape].
    """
    file = open_table(source)
    schema = file.schema_arrow
    for key, (dtype, shape) in shapes.items():
        schema = schema.append(pa.field(key, _arrow_type(dtype, shape)))
    schema = schema.with_metadata(_metadata(file.schema_arrow.metadata, shapes))
    codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "snappy"
    compression = {"uncompressed": "none"}.get(codec, codec)
    with whole_file(target) as temporary, pq.ParquetWriter(temporary, schema, compression=compression) as writer:
        first = 0
        for group in range(file.num_row_groups):
            table = _read_group(file, group, source)
            new = rows(first, first + len(table))
            columns = [*table.columns, *(to_arrow(new[key]) for key in shapes)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(table)))
            first += len(table)


def feature_entry(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Entry of a flattened column in info.json."""
    return {"dtype": dtype, "shape": [int(np.prod(shape))], "names": None}


def _read_group(file: pq.ParquetFile, group: int, source: Path) -> pa.Table:
    try:
        return file.read_row_group(group)
    except (pa.ArrowException, OSError):
        raise LattokError(f"cannot read {source}: truncated or damaged. Copy it again.") from None


def _arrow_type(dtype: str, shape: tuple[int, ...]) -> pa.DataType:
    width = int(np.prod(shape))
    value = pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(np.dtype(dtype))
    return value if width == 1 else pa.list_(value, width)


def _metadata(old: dict[bytes, bytes] | None, shapes: Shapes) -> dict | None:
    """Schema metadata with the new columns added where Hugging Face `datasets` describes the old ones."""
    if not old or b"huggingface" not in old:
        return old
    described = json.loads(old[b"huggingface"])
    features = described.get("info", {}).get("features")
    if features is not None:
        # `datasets` calls fixed-size lists Sequence before version 4 and List since: follow the file
        kinds = {entry.get("_type") for entry in features.values() if isinstance(entry, dict)}
        kind = "Sequence" if "Sequence" in kinds else "List"
        for key, (dtype, shape) in shapes.items():
            width = int(np.prod(shape))
            value = {"dtype": dtype, "_type": "Value"}
            features[key] = value if width == 1 else {"feature": value, "length": width, "_type": kind}
        described.pop("fingerprint", None)  # of the old table
    return {**old, b"huggingface": json.dumps(described).encode()}
