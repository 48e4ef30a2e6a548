"""A copy of a dataset in which the actions of most episodes are unknown: `hide(dataset, out, keep="2 per task")`.

It tells what few known actions would be worth, before anybody relies on it: the copy is what a dataset looks like whose
other actions were never recorded.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattok.annotation.assembly import append_columns, copy_other_files
from lattok.annotation.fills import Fill, flat
from lattok.data import RobotDataset, as_dataset, select_episodes
from lattok.data.carried import Piece
from lattok.data.episodes import EpisodeSpec, unmeasured
from lattok.data.exporting import check_export, plan_export, write_pieces
from lattok.data.schema import Feature, vector_key
from lattok.data.summaries import Stats, column_stats
from lattok.data.table_dataset import NewColumns, TableDataset, tables_of
from lattok.data.tables import open_table
from lattok.data.video import codec_for
from lattok.data.views import ColumnsView
from lattok.labels.spec import provenance_of
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.files import sync_files, write_json
from lattok.utils.output import Output
from lattok.utils.runs import index_runs

RECORD = Path("meta") / "hidden.json"
HIDDEN = "hidden"


class HideResult(NamedTuple):
    """Path of the copy, and its episodes with known and with hidden actions."""

    path: Path
    known: tuple[int, ...]
    hidden: tuple[int, ...]


def hide(
    dataset: RobotDataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    keep: EpisodeSpec,
    *,
    tasks: Sequence[str] = (),
    action_key: str = "action",
) -> HideResult:
    """Write a copy of `dataset` to the new folder `out` in which `action_key` is NaN except in the episodes `keep`.

    `keep` as in `select_episodes`: "2 per task", "10%", "0,3,5:9" or indices; with `tasks`, those of them that have one
    of these instructions. All else is the same: of Parquet files (LeRobot) rows keep their values and types, and videos
    are hard links; other formats become LeRobot v3, as `export` writes it. The dataset is only read. Raises
    `LattokError` where no known action is left or none would be hidden, where actions are integers, which cannot be
    NaN, and where labels reveal the actions to hide.
    """
    dataset, out = as_dataset(dataset), Path(out).expanduser()
    feature = vector_key(dataset, "action_key", action_key)
    _check_tells_nothing(dataset, action_key)
    every = {episode.index for episode in dataset.episodes}
    unknown = unmeasured(dataset, action_key, every)
    chosen = {episode.index for episode in _of_tasks(dataset, keep, tasks, every - unknown)}
    known = sorted(chosen - unknown)
    hidden = [episode.index for episode in dataset.episodes if episode.index not in chosen | unknown]
    if not known or not hidden:
        got = f"{len(known)} known and {len(hidden)} to hide, of {checks.counted(len(dataset.episodes), 'episode')}"
        hint = 'A number names an episode; two of each task are "2 per task".'
        checks.fail("keep", "episodes with known actions, and others to hide", got, hint)
    parts = dataset.joined.get(action_key, (action_key,))
    part = dataset.parts.get(action_key)
    columns = {(part.column if part else key): dataset.features.get(key, feature) for key in parts}
    for key, each in columns.items():
        if not each.dtype.startswith("float"):
            checks.fail(key, "floats, which can be NaN", each.dtype, "Write it as floats.")
    record = {"column": action_key, "known": index_runs(known), "hidden": index_runs(hidden)}
    if (source := tables_of(dataset)) is None:
        view = _Hidden(dataset, {action_key, *parts}, hidden)
        writer = check_export(view, out, "lerobot", "auto", None)
        plan = plan_export(view, view.episodes, "auto", None)
        codec = codec_for(camera.feature.shape for camera in plan.cameras)
        write_pieces(writer, out, plan, [*map(Piece.whole, view.episodes)], codec, {RECORD.name: record})
    else:
        check_export(source, out, "lerobot", "auto", None)
        source.files.fetch_all()
        _copy(source, out, {key: source.features[key] for key in columns}, {*hidden}, record)
    return HideResult(out, tuple(known), tuple(hidden))


def _of_tasks(dataset: RobotDataset, keep: EpisodeSpec, tasks: Sequence[str], known: set[int]) -> list[Episode]:
    chosen = select_episodes(dataset, keep, drawn_from=known)
    for task in tasks:
        checks.one_of("tasks", task, dataset.tasks)
    return [episode for episode in chosen if not tasks or {*tasks} & {*episode.tasks}]


def _check_tells_nothing(dataset: RobotDataset, key: str) -> None:
    """Refuse labels that were made from actions, or are actions."""
    for prefix, entry in provenance_of(dataset).items():
        if entry.get("spec", {}).get("target") == "chunk" or f"{prefix}.action" in dataset.features:
            hint = "Hide the actions of the dataset that was annotated."
            checks.fail("dataset", f"labels that do not tell `{key}`", f"`{prefix}.*`, which were made from it", hint)


class _Hidden(ColumnsView):
    def __init__(self, dataset: RobotDataset, keys: Collection[str], hidden: Collection[int]):
        super().__init__(dataset)
        self._keys, self._hidden_episodes = {*keys}, {*hidden}

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        return [*keys]

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if episode_index not in self._hidden_episodes:
            return {**read}
        return {**read, **{key: np.full_like(read[key], np.nan) for key in self._keys.intersection(keys)}}


def _copy(
    source: TableDataset, out: Path, columns: Mapping[str, Feature], hidden: set[int], record: Mapping[str, object]
) -> None:
    """Write the copy of a dataset of Parquet files; it takes its place when all of it is there."""
    fill = Fill(tuple((key, int(np.prod(each.shape))) for key, each in columns.items()), HIDDEN, ())
    width = sum(each for _, each in fill.columns)
    with Output(out) as output:
        try:
            written = set[str]()
            for file, episodes in source.label_layout():
                rows = np.zeros(open_table(source.root / file).metadata.num_rows, dtype=bool)
                for index, first, last in episodes:
                    rows[first:last] = index in hidden

                def unknown(first: int, last: int, rows: np.ndarray = rows) -> dict[str, np.ndarray]:
                    nothing = np.full((last - first, width), np.nan, np.float32)
                    return {f"{HIDDEN}.action": nothing, f"{HIDDEN}.filled": rows[first:last]}

                fill.check_type(source.root / file, open_table(source.root / file).schema_arrow)
                (output.made / file).parent.mkdir(parents=True, exist_ok=True)
                append_columns(source.root / file, output.made / file, {}, unknown, fill)
                written.add(file)
            stored = source.statistics()
            statistics = {} if stored is None else _statistics(source, columns, hidden)
            new = NewColumns(dict(columns), {}, statistics, dict.fromkeys(columns, hidden))
            written |= {*map(str, source.declare(output.made, new))}
            copy_other_files(source.root, output.made, {*map(Path, written)})
            source.finish(output.made, new)
            write_json(output.made / RECORD, record)
            sync_files(output.made)
            output.publish()
        finally:
            output.remove()


def _statistics(source: TableDataset, columns: Mapping[str, Feature], hidden: set[int]) -> dict[str, Stats]:
    """Measure what is known of columns."""
    episodes = [episode for episode in source.episodes if episode.index not in hidden]
    found: dict[str, list[np.ndarray]] = {key: [] for key in columns}
    for _, read in source.columns_of(episodes, [*columns]):
        if isinstance(read, checks.LattokError):
            raise read
        for key, values in read.items():
            found[key].append(flat(values))
    rows = {key: np.concatenate(parts) for key, parts in found.items()}
    known = {key: values[~np.isnan(values).any(1)] for key, values in rows.items()}
    return {
        key: {name: np.asarray(value).tolist() for name, value in column_stats(v).items()} for key, v in known.items()
    }
