"""The annotated dataset put together from labelled units: files with labels, info.json, statistics, provenance.

A LeRobot dataset gets labels as further columns of its data files, any other dataset as Parquet files of their own.
Unknown actions are filled in: a column of the dataset with what a model inferred where nobody measured anything.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.annotation.fills import Fill, fill_of, fill_record, flat, with_values
from lattok.annotation.labels import Identities, Work, cameras_of, versions
from lattok.annotation.units import Failures, Rows, Shapes, Staging, Unit
from lattok.data.content import MAX_DIGESTS, dataset_files, digests_to_json, file_digests
from lattok.data.exporting import portable_facts
from lattok.data.opening import source_of
from lattok.data.schema import INDEX_KEYS, PROVENANCE, SOURCE, Feature, readable
from lattok.data.summaries import RowSample, Stats, column_stats, merge_stats
from lattok.data.table_dataset import NewColumns, tables_of
from lattok.data.tables import DAMAGE, column_to_numpy, open_table, to_arrow
from lattok.labels.spec import spec_of
from lattok.types import VideoLabeller
from lattok.utils.checks import LattokError
from lattok.utils.devices import cores
from lattok.utils.files import read_json, whole_file, write_json
from lattok.utils.runs import run_of
from lattok.utils.untrusted import inside

# what comes of a file: what of the source could not be copied, and statistics of each unit by column
FileResult = tuple[list["UnreadableRows"], list[dict[str, Stats]]]


class Job(NamedTuple):
    work: Work
    identities: Identities
    staging: Staging
    fingerprint: str  # of the dataset, before anything was read


class UnreadableRows(NamedTuple):  # a column of a row group that cannot be read any more; the copy holds nulls there
    file: str
    first: int  # rows [first, last) of the file
    last: int
    column: str


def assemble(job: Job, units: Sequence[Unit], keys: Sequence[str], unlabelled: Failures) -> list[UnreadableRows]:
    """Write the output into the staging folder; return what of the source could not be copied into it."""
    staging, source = job.staging, tables_of(job.work.dataset)
    shapes, root, fill = _shapes(job, keys), job.work.dataset.root, fill_of(job.work)
    measured = source is not None and source.statistics() is not None
    unreadable, statistics = Assembly(root, staging, shapes, source is None, measured, fill).write_all(units, keys)
    labels = provenance(job.work, job.identities, shapes)
    for prefix, entry in labels.items():
        if prefix in unlabelled:
            entry["unlabelled"] = by_reason(job.work, unlabelled[prefix])
        if "fills" in entry:
            entry["fills"] |= fill_record(job.work, unlabelled.get(prefix, {}))
        if unreadable:
            entry["unreadable"] = [part._asdict() for part in unreadable]
    if source is None:
        indices = [episode.index for episode in job.work.dataset.episodes]
        if len(indices) <= MAX_DIGESTS and (found := file_digests(job.work.dataset, indices)):
            labels = {prefix: {**entry, "files": digests_to_json(found)} for prefix, entry in labels.items()}
        write_json(staging.made / PROVENANCE, labels, indent=4)
        if (opened := source_of(job.work.dataset, staging.place)) is not None:
            write_json(staging.made / SOURCE, opened, indent=4)
        return unreadable
    before = read_json(inside(root, PROVENANCE, str(root))) if (root / PROVENANCE).exists() else {}
    write_json(staging.made / PROVENANCE, before | labels, indent=4)
    new = _new_columns(job, labels, shapes, fill, statistics)
    written = {str(PROVENANCE), *(unit.file for unit in units), *source.declare(staging.made, new)}
    copy_other_files(root, staging.made, {*map(Path, written)})
    source.finish(staging.made, new)
    return unreadable


def _new_columns(
    job: Job, labels: Mapping[str, Any], shapes: Shapes, fill: Fill | None, statistics: Mapping[str, Any]
) -> NewColumns:
    """Say what the output has that the source has not."""
    features = {name: Feature(dtype, (int(np.prod(shape)),), None) for name, (dtype, shape) in shapes.items()}
    columns = () if fill is None else fill.columns
    for key, width in columns:
        features[key] = Feature("float32", (width,), (fill.names if fill else ()) or None)
    models = job.work.models
    notes = {f"{key}.valid": portable_facts(entry, bool(models[key].datasets)) for key, entry in labels.items()}
    runs = [entry["fills"]["filled"] for entry in labels.values() if "fills" in entry]
    filled = {e.index for e in job.work.dataset.episodes if any(run_of(e.index, each) is not None for each in runs)}
    return NewColumns(features, notes, statistics, {key: filled for key, _ in columns})


def provenance(work: Work, identities: Identities, shapes: Shapes) -> dict[str, Any]:
    """Return by prefix what labels were made from, by what, and their columns. No times, no paths."""
    labels, dataset = {}, work.dataset
    place = {
        "name": dataset.name,
        "kind": dataset.kind,
        "fps": dataset.fps,
        **({} if dataset.split is None else {"split": dataset.split}),
    }
    place |= {"episodes": len(dataset.episodes), "frames": sum(episode.length for episode in dataset.episodes)}
    for prefix, model in work.models.items():
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix + ".")}
        stride = cast(VideoLabeller, model).stride_frames(dataset.fps) if model.label_source == "video" else 0
        _, codes = own.get(f"{prefix}.codes", ("", (0,)))
        _, vectors = own.get(f"{prefix}.embedding", ("", (0, 0)))
        entry: dict[str, Any] = {"spec": spec_of(model, prefix, codes[0], vectors[0], vectors[1], stride).to_json()}
        seen = dataset.seen_as
        if model.label_source == "actions":
            key = work.options.action_key
            if key in seen["actions"]:
                entry["actions_as"] = seen["actions"][key]
        else:
            entry["cameras"] = cameras = list(cameras_of(work, cast(VideoLabeller, model)))
            originals = [seen["cameras"][key] for key in cameras]
            if originals != cameras:
                entry["original_cameras"] = originals
            entry["stride_seconds"] = stride / dataset.fps
            if work.options.fill:
                names = list(cast(Any, model).config.action_names)
                entry["fills"] = {"column": work.options.action_key, "names": names}
                if parts := dataset.joined.get(work.options.action_key):
                    entry["fills"]["parts"] = list(parts)
        entry |= {"dataset": place, "options": asdict(work.options), "versions": versions()}
        columns = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in own.items()}
        labels[prefix] = entry | {"model": identities[prefix], "columns": columns}
    return labels


def by_reason(work: Work, unlabelled: dict[int, str]) -> list[dict[str, Any]]:
    """Group episodes by why they have no labels; the folder of the dataset is no fact about the labels and left out."""
    grouped: dict[str, list[int]] = {}
    for index, reason in sorted(unlabelled.items()):
        root, reason = str(work.dataset.root), readable(reason)
        grouped.setdefault(reason.replace(f"{root}/", "").replace(root, work.dataset.name), []).append(index)
    return [{"episodes": episodes, "reason": reason} for reason, episodes in grouped.items()]


def _shapes(job: Job, keys: Sequence[str]) -> Shapes:
    """Return the shapes of all label columns, from the first units that have labels by each model."""
    found: dict[str, Shapes] = {}
    for key in keys:
        rows = job.staging.load(key).rows
        shapes: Shapes = {name: (str(values.dtype), values.shape[1:] or (1,)) for name, values in rows.items()}
        for prefix in job.work.models:
            own = {name: shape for name, shape in shapes.items() if name.startswith(prefix + ".")}
            if own:
                found.setdefault(prefix, own)
        if len(found) == len(job.work.models):
            break
    return {name: shape for prefix in job.work.models for name, shape in found[prefix].items()}


class Assembly(NamedTuple):  # what all files of the output have in common
    root: Path  # of the source
    staging: Staging
    shapes: Shapes
    sidecar: bool
    measured: bool  # whether the source has statistics, so that the labels get some
    fill: Fill | None

    def write_all(self, units: Sequence[Unit], keys: Sequence[str]) -> tuple[list[UnreadableRows], dict[str, Any]]:
        """Write every file with labels, several at once; return what comes of them, in the order of the units."""
        by_file: dict[str, list[tuple[Unit, str]]] = {}
        for unit, key in zip(units, keys, strict=True):
            by_file.setdefault(unit.file, []).append((unit, key))
        unreadable: list[UnreadableRows] = []
        parts: dict[str, list[Stats]] = {}
        pool = ThreadPoolExecutor(cores())
        try:
            for damage, measured in pool.map(self.write, by_file, by_file.values()):
                unreadable += damage
                for name, stats in (named for statistics in measured for named in statistics.items()):
                    kept = [*parts.get(name, []), stats]
                    parts[name] = kept if len(kept) < 256 else [merge_stats(kept)]
        finally:
            pool.shutdown(cancel_futures=True)
        merged = {name: merge_stats(stats) for name, stats in parts.items()}
        samples: dict[str, RowSample] = {}
        for file, members in by_file.items() if self.measured else ():  # again, as quantiles of units are none of all
            for rows in self._new_rows(file, [key for _, key in members]):
                for name, values in rows.items():
                    samples.setdefault(name, RowSample()).add(values)
        merged = {name: stats | samples[name].quantiles() for name, stats in merged.items()}
        return unreadable, {name: {k: np.asarray(v).tolist() for k, v in each.items()} for name, each in merged.items()}

    def write(self, file: str, members: Sequence[tuple[Unit, str]]) -> FileResult:
        """Write a file of the output; `members` are the units whose labels go into it, with their keys."""
        staging, damage = self.staging, list[UnreadableRows]()
        target = inside(staging.made, file, f"{staging.place}, a file of it")
        units, keys = zip(*members, strict=True)
        rows = staging.row_reader(units, keys, self.shapes)
        if self.sidecar:
            write_sidecar(target, self.shapes, units, rows)
        else:
            damage = append_columns(self.root / file, target, self.shapes, rows, self.fill)
        return [part._replace(file=file) for part in damage], self._measure(file, keys) if self.measured else []

    def _measure(self, file: str, keys: Sequence[str]) -> list[dict[str, Stats]]:
        """Return statistics of each unit's label columns, and of the columns filled."""
        new = self._new_rows(file, keys)
        return [{name: column_stats(values) for name, values in rows.items()} for rows in new]

    def _new_rows(self, file: str, keys: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield rows [n, k] of labels unit by unit, of episodes that have any, and of the columns filled."""
        for key in keys:
            yield {name: flat(values) for name, values in self.staging.load(key).rows.items()}
        for key, width in () if self.fill is None else self.fill.columns:
            column = open_table(self.staging.made / file).read(columns=[key]).column(0)
            values = flat(column_to_numpy(column, Feature("float32", (width,), None), f"{key} in {file}"))
            known = values[~np.isnan(values).any(1)]  # without those of damaged rows
            if len(known):
                yield {key: known}


def copy_other_files(source: Path, target: Path, without: set[Path]) -> None:
    """Put every file of `source` except `without` (relative paths) into `target`. Videos are hard links where the file
    system allows it, so that a copy takes no room for them. Everything else is copied, because LeRobot rewrites its
    metadata in place, and through a link that would change the source."""
    for path in dataset_files(source):
        place, original = target / path, (source / path).resolve()  # of links to blobs
        if path in without or not original.exists():  # whoever needs what was never fetched has said so
            continue
        if path.parts[0] == "videos":
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                os.link(original, place)
                continue
        with whole_file(place) as temporary:
            shutil.copyfile(original, temporary)


def append_columns(source: Path, target: Path, shapes: Shapes, rows: Rows, fill: Fill | None) -> list[UnreadableRows]:
    """Write `source` with new columns to `target`, row group by row group; old columns keep their values and types.
    `fill` gets what was inferred where nobody knows it. `shapes` gives dtype and true shape per value of each new
    column; `rows(first, last)` their arrays [n, *shape]. Return damaged rows of `source`: the copy has nulls there."""
    file = open_table(source)
    there, filled = file.schema_arrow.names, () if fill is None else fill.columns
    added: Shapes = {**{key: ("float32", (width,)) for key, width in filled if key not in there}, **shapes}
    schema = _with_labels(with_values(file.schema_arrow, filled), added)
    codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "snappy"
    damage: list[UnreadableRows] = []
    with whole_file(target) as temporary, _writer(temporary, schema, codec) as writer:
        first = 0
        for group in range(file.num_row_groups):
            table, unreadable = _read_group(file, group, source)
            last = first + len(table)
            damage += [UnreadableRows(source.name, first, last, name) for name in unreadable]
            new = rows(first, last)
            table = table if fill is None else fill.into(table, new)
            columns = [*table.columns, *(to_arrow(new[key]) for key in shapes)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(table)))
            first = last
    return damage


def write_sidecar(target: Path, shapes: Shapes, units: Sequence[Unit], rows: Rows) -> None:
    """Write the labels of a file's units with their episode_index and frame_index, one row group per unit."""
    schema = _with_labels(pa.schema([("episode_index", pa.int64()), ("frame_index", pa.int64())]), shapes)
    with whole_file(target) as temporary, _writer(temporary, schema, "snappy") as writer:
        for unit in units:
            new = rows(unit.first, unit.last)
            episode = np.repeat(np.array(unit.episodes, dtype=np.int64), unit.lengths)
            frame = np.concatenate([np.arange(length) for length in unit.lengths])
            columns = [pa.array(episode), pa.array(frame), *(to_arrow(new[key]) for key in shapes)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(episode)))


def _writer(path: Path, schema: pa.Schema, codec: str) -> pq.ParquetWriter:
    codec = "none" if codec == "uncompressed" else codec
    return pq.ParquetWriter(path, schema, compression=codec, write_page_checksum=True)


def _with_labels(schema: pa.Schema, shapes: Shapes) -> pa.Schema:
    for key, (dtype, shape) in shapes.items():
        schema = schema.append(pa.field(key, to_arrow(np.empty((0, *shape), dtype=dtype)).type))
    return schema


def _read_group(file: pq.ParquetFile, group: int, source: Path) -> tuple[pa.Table, list[str]]:
    """Read a row group; return also the columns of it that cannot be read, which are null."""
    try:
        return file.read_row_group(group), []
    except DAMAGE:
        pass
    columns, unreadable, rows = [], [], file.metadata.row_group(group).num_rows
    for field in file.schema_arrow:
        try:
            columns.append(file.read_row_group(group, columns=[field.name]).column(0))
        except DAMAGE:
            if field.name in INDEX_KEYS:
                raise _no_place(source, group, field.name) from None
            columns.append(pa.chunked_array([_nothing(rows, field.type)]))
            unreadable.append(field.name)
    return pa.Table.from_arrays(columns, schema=file.schema_arrow), unreadable


def _nothing(rows: int, kind: pa.DataType) -> pa.Array:
    """Return rows without a value. Lists of fixed size hold nulls: pyarrow below 26 cannot read null in their place."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.nulls(rows, kind)
    return pa.FixedSizeListArray.from_arrays(_nothing(rows * kind.list_size, kind.value_type), type=kind)


def _no_place(source: Path, group: int, name: str) -> LattokError:
    what = f"{source}: `{name}` of row group {group} is damaged. Without it rows have no place"
    return LattokError(f"{what}: copy the file again, or export the other episodes.")


def check_readable(work: Work) -> None:
    """Read what no output can be put together without before anything is labelled, which may take days."""
    if (source := tables_of(work.dataset)) is None:
        return
    source.check_copy(work.options.fill)
    fill = fill_of(work)
    for path in source.data_files():
        file = open_table(path)
        _check_places(path, file)
        if fill is not None:
            fill.check_type(path, file.schema_arrow)


def _check_places(path: Path, file: pq.ParquetFile) -> None:
    names = [name for name in INDEX_KEYS if name in file.schema_arrow.names]
    with suppress(*DAMAGE):
        file.read(columns=names)
        return
    for group in range(file.num_row_groups):
        for name in names:
            try:
                file.read_row_group(group, columns=[name])
            except DAMAGE:
                raise _no_place(path, group, name) from None
