"""Whether statistics of a LeRobot dataset, in meta/stats.json and by episode in meta/episodes, are those of its rows:
after a merge they may be of something else, and quantiles are weighted means of those of episodes."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.data import problems
from lattok.data.problems import Dimension
from lattok.data.schema import RobotDataset
from lattok.data.summaries import QUANTILES, RowSample, Stats, column_stats, merge_stats
from lattok.data.tables import DAMAGE, open_table
from lattok.data.views import unwrap
from lattok.utils import checks
from lattok.utils.commands import DATASET
from lattok.utils.files import whole_file
from lattok.utils.findings import Finding
from lattok.utils.output import unused

MOST_DIMENSIONS = 256  # of a column that is compared
PARTS_PER_MERGE = 256
# how far statistics may be off: of the range of a dimension, and of a standard deviation
OF_RANGE, OF_MEAN, OF_STD = 1e-3, 1e-2, 0.05
# of the largest value: LeRobot sums float32 row by row, so a constant gets another mean, and some std
ROUNDED, ROUNDED_FLOAT64 = 1e-3, 1e-12
# the std is the root of a difference of such sums, of 20,000 rows off by this much
ROUNDED_STD, ROUNDED_STD_FLOAT64 = 0.03, 1e-6
STORED = ("min", "max", "mean", "std", "count")  # of an episode, whose statistics are compared
OF_PICTURES, CHANNELS = 0.1, ("red", "green", "blue")  # of the range of a pixel
OF_QUANTILE = 0.02  # of the range: a quantile is wrong if it is neither near nor between those of neighbouring ranks


class WrongStatistic(NamedTuple):
    dimension: int
    name: str  # min, max, mean, std or a quantile
    stored: float
    measured: float


def misfit(stored: Any, measured: Mapping[str, np.ndarray], whole: bool, dtype: str) -> WrongStatistic | None:
    """Compare min, max, mean and std [m] of a column with those of its rows; unless these are all (`whole`), only
    whether they lie within. What is stored as something else, or is not finite, is not compared."""
    spread = measured["max"].astype(np.float64) - measured["min"]
    largest = np.maximum(np.abs(measured["min"]), np.abs(measured["max"]))
    double, constant = dtype == "float64", spread == 0
    summed = largest * np.where(constant, ROUNDED, ROUNDED_FLOAT64 if double else ROUNDED)
    rooted = largest * constant * (ROUNDED_STD_FLOAT64 if double else ROUNDED_STD)
    allowed = {"min": OF_RANGE * spread, "max": OF_RANGE * spread, "mean": OF_MEAN * spread + summed}
    allowed["std"] = OF_RANGE * spread * (not double) + OF_STD * measured["std"] + np.maximum(summed, rooted)
    for name in allowed if whole else ("min", "max"):
        said = _said(stored, name, len(spread))
        off = (said - measured[name]) * (1 if whole or name == "min" else -1)
        with np.errstate(invalid="ignore"):
            wrong = (np.abs(off) if whole else off) > allowed[name] + 1e-6 * np.abs(measured[name])
        if (wrong & np.isfinite(said)).any():
            dimension = int((wrong & np.isfinite(said)).argmax())
            return WrongStatistic(dimension, name, float(said[dimension]), float(measured[name][dimension]))
    return None


def wrong_quantile(stored: Any, ranges: np.ndarray, spread: np.ndarray) -> WrongStatistic | None:
    """Compare the quantiles of a column with those of its rows, `ranges` [m, 5, 3] as of `quantile_ranges`. Return the
    one that is furthest off for the range `spread` [m] of its dimension."""
    found, worst = None, 0.0
    for name, (low, middle, high) in zip(QUANTILES, ranges.transpose(1, 2, 0), strict=True):
        said = _said(stored, name, len(spread))
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.where((said < low) | (said > high), np.abs(said - middle) / spread, 0.0)
        off = np.where(np.isfinite(off) & np.isfinite(said), off, 0.0)
        dimension = int(off.argmax())
        if off[dimension] > max(worst, OF_QUANTILE):
            worst = off[dimension]
            found = WrongStatistic(dimension, name, float(said[dimension]), float(middle[dimension]))
    return found


def _said(stored: Any, name: str, size: int) -> np.ndarray:
    """Return a statistic [m] as it is stored, NaN where it is something else."""
    try:
        return np.asarray(stored[name], dtype=np.float64).reshape(size)
    except (TypeError, ValueError, KeyError, OverflowError):
        return np.full(size, np.nan)


def overcounted(stored: Mapping[str, Any], frames: int) -> Iterator[tuple[str, int]]:
    """Yield columns of which more values were counted than there are frames: pixels of cameras, by which a merge of
    datasets then weighs means."""
    for key, entry in stored.items():
        if isinstance(entry, Mapping) and (count := _said(entry, "count", 1)[0]) > frames:
            yield key, int(count)


def check_statistics(dataset: RobotDataset, dimensions: Sequence[Dimension], whole: bool) -> Iterator[Finding]:
    """Compare the statistics that are stored with the rows that were read, all of them if `whole`."""
    try:
        for file, stored in dataset.all_statistics():
            yield from _check_stored(file, stored, dataset, dimensions, whole)
    except checks.LattokError as error:
        yield problems.UNREADABLE_STATISTICS.finding(error=error)


def _check_stored(
    file: str, stored: Mapping[str, Any], dataset: RobotDataset, dimensions: Sequence[Dimension], whole: bool
) -> Iterator[Finding]:
    told = {"file": file, "dataset": dataset.address or DATASET, "out": unused("exported")}
    averaged: dict[str, dict[str, Any]] = {}
    for key, group in groupby(dimensions, key=attrgetter("key")):
        found, feature = list(group), dataset.features[key]
        seen_otherwise = key in {*dataset.joined, *dataset.actions_as} or len(found) != math.prod(feature.shape)
        if key not in stored or seen_otherwise:
            continue
        names = {"min": "minimum", "mean": "mean", "std": "std", "max": "maximum"}
        measured = {short: np.array([getattr(d, name) for d in found]) for short, name in names.items()}
        if wrong := misfit(stored[key], measured, whole, feature.dtype):
            facts = wrong._asdict() | {"column": key, "dimension": found[wrong.dimension].name}
            yield problems.OTHER_STATISTICS.finding(**facts, **told)
            return
        ranges, spread = np.array([d.quantiles for d in found]), measured["max"] - measured["min"]
        if whole and (wrong := wrong_quantile(stored[key], ranges, spread)):
            averaged[key] = wrong._asdict() | {"column": key, "dimension": found[wrong.dimension].name}
    if averaged:
        first = averaged.get("action") or next(iter(averaged.values()))
        yield problems.OTHER_QUANTILES.finding(columns=checks.listed(list(averaged)), **first, **told)
    frames = sum(episode.length for episode in unwrap(dataset).episodes)
    if counted := dict(overcounted(stored, frames)):
        most = max(counted.values())
        yield problems.OVERCOUNTED.finding(columns=checks.listed(list(counted)), count=most, frames=frames, **told)


def check_picture_means(dataset: RobotDataset, key: str, cells: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Compare the stored mean of a camera with what some of its frames show, each as means of cells [k, g, g, 3] from 0
    to 255: the mean of all frames lies between those of single ones."""
    means = np.concatenate([each.mean((1, 2)) for each in cells]) / 255 if cells else np.zeros((0, 3))
    with suppress(checks.LattokError):  # which is said of all statistics
        for file, stored in dataset.all_statistics() if len(means) else ():
            said = _said(stored.get(dataset.original_camera(key)), "mean", 3)
            low, high = means.min(0) - OF_PICTURES, means.max(0) + OF_PICTURES
            with np.errstate(invalid="ignore"):
                wrong = (said < low) | (said > high)
            if wrong.any():
                channel = int(wrong.argmax())
                facts = {"stored": float(said[channel]), "measured": float(means[:, channel].mean())}
                yield problems.PICTURE_STATISTICS.finding(file=file, camera=key, channel=CHANNELS[channel], **facts)


def together(entries: Iterable[Any], keys: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return min, max, mean, std and count of columns over all rows, from `entries` of single episodes, as LeRobot v2.1
    stores and aggregates them; of columns among `keys` whose entries are numbers, of one shape."""
    found: dict[str, dict[str, np.ndarray]] = {}
    spoilt = set[str]()
    for entry in entries:
        for key in (key for key in keys if isinstance(entry, dict) and key in entry):
            try:
                stats = entry[key]
                own = {name: np.asarray(stats[name], np.float64).reshape(-1) for name in STORED}
                known = found.get(key, own)
                if {value.shape for value in known.values()} != {value.shape for value in own.values()}:
                    raise ValueError
                with np.errstate(over="ignore", invalid="ignore"):
                    found[key] = own if known is own else merge_stats([known, own])
            except (TypeError, ValueError, KeyError, OverflowError):
                spoilt.add(key)
    return {key: stats for key, stats in found.items() if key not in spoilt}


def measured_statistics(dataset: RobotDataset, keys: Iterable[str]) -> tuple[dict[str, Stats], bool]:
    """Return statistics of those rows of vectors that are finite, and whether all episodes could be read: also
    quantiles of all rows, or of every n-th where there are more than 4 million numbers."""
    parts: dict[str, list[Stats]] = {key: [] for key in keys}
    samples = {key: RowSample() for key in parts}
    whole = True
    for _, columns in dataset.columns_of(dataset.episodes, list(parts)) if parts else ():
        whole &= not isinstance(columns, checks.LattokError)
        for key, values in {} if isinstance(columns, checks.LattokError) else columns.items():
            rows = values.reshape(len(values), -1)
            if len(known := rows[np.isfinite(rows).all(1)]):
                kept = [*parts[key], column_stats(known)]
                parts[key] = kept if len(kept) < PARTS_PER_MERGE else [merge_stats(kept)]
                samples[key].add(known)
    return {key: merge_stats(found) | samples[key].quantiles() for key, found in parts.items() if found}, whole


def right_statistics(
    dataset: RobotDataset, stored: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Measure the columns whose statistics do not fit the rows, as meta/stats.json has them: those of other rows, and
    those of which only quantiles differ, as LeRobot averages quantiles of episodes."""
    merged, whole = measured_statistics(dataset, [key for key in compared(dataset) if key in stored])
    kinds = {key: dataset.features[key].dtype for key in merged}
    wrong = [key for key, found in merged.items() if misfit(stored[key], found, whole, kinds[key])]
    averaged = [key for key in merged if whole and key not in wrong and _other_quantiles(stored[key], merged[key])]
    listed = {key: {name: value.tolist() for name, value in merged[key].items()} for key in (*wrong, *averaged)}
    return {key: listed[key] for key in wrong}, {key: listed[key] for key in averaged}


def compared(dataset: RobotDataset) -> list[str]:
    vectors = {key: f for key, f in dataset.features.items() if f.dtype.startswith("float") and len(f.shape) == 1}
    return [key for key, feature in vectors.items() if feature.shape[0] <= MOST_DIMENSIONS]


def renew_episodes(
    dataset: RobotDataset, written: Collection[str], changed: Mapping[str, Collection[int]]
) -> dict[str, int]:
    """Replace statistics in meta/episodes that do not fit the rows, and in any case those of columns in episodes that
    were `changed`; those of columns that were `written` anew go. Return in how many episodes others did not fit."""
    wrong = Counter[str]()
    for path in sorted((dataset.root / "meta" / "episodes").rglob("*.parquet")):
        try:
            table = open_table(path).read()
        except DAMAGE:  # it was copied as it is
            continue
        stale = {name: key for key in written for name in table.column_names if name.startswith(f"stats/{key}/")}
        wrong.update(dict.fromkeys(stale.values(), len(table)))
        renewed = _renewed(dataset, table.drop_columns([*stale]) if stale else table, changed, wrong)
        if renewed is not table:
            with whole_file(path) as temporary:
                pq.write_table(renewed, temporary)
    return dict(wrong)


def _renewed(
    dataset: RobotDataset, table: pa.Table, changed: Mapping[str, Collection[int]], wrong: Counter[str]
) -> pa.Table:
    """Return a table of meta/episodes with statistics of its rows; count the `wrong` ones."""
    keys = dict.fromkeys([*compared(dataset), *(key for key in changed if key in dataset.features)])
    names = {key: [name for name in table.column_names if name.startswith(f"stats/{key}/")] for key in keys}
    names = {key: own for key, own in names.items() if own}
    new = {name: table[name].to_pylist() for own in names.values() for name in own}
    places = {index: row for row, index in enumerate(table["episode_index"].to_pylist())} if names else {}
    episodes, touched = [each for each in dataset.episodes if each.index in places], set[str]()
    for index, columns in dataset.columns_of(episodes, [*names]) if episodes else ():
        for key, values in {} if isinstance(columns, checks.LattokError) else columns.items():
            rows, row = values.reshape(len(values), -1), places[index]
            if not len(known := rows[np.isfinite(rows).all(1)]):
                continue
            measured, here = column_stats(known), index in changed.get(key, ())
            stored = {name.rpartition("/")[2]: new[name][row] for name in names[key]}
            if here or misfit(stored, measured, len(known) == len(rows), dataset.features[key].dtype):
                wrong[key] += not here
                touched |= {*names[key]}
                for name in names[key]:
                    value = measured.get(name.rpartition("/")[2])  # none of what nobody can measure again
                    new[name][row] = None if value is None else value.tolist()
    for name in touched:
        place = table.column_names.index(name)
        try:
            table = table.set_column(place, table.field(place), pa.array(new[name], table.field(place).type))
        except (*DAMAGE, TypeError):  # no column of numbers
            table = table.remove_column(place)
    return table


def _other_quantiles(stored: Any, measured: Stats) -> bool:
    """Return whether any quantile that is stored is far from that of the rows."""
    spread = measured["max"].astype(np.float64) - measured["min"]
    return any(
        (np.abs(_said(stored, name, len(spread)) - measured[name]) > OF_QUANTILE * spread).any() for name in QUANTILES
    )
