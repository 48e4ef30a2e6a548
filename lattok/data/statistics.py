"""Whether statistics of a LeRobot dataset, in meta/stats.json and by episode in meta/episodes, are those of its rows:
after a merge they may be of something else."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.tables import DAMAGE, Stats, column_stats, merge_stats, open_table
from lattok.utils import checks
from lattok.utils.files import whole_file

MOST_DIMENSIONS = 256  # of a column that is compared
PARTS_PER_MERGE = 256
# how far statistics may be off: of the range of a dimension, and of a standard deviation
OF_RANGE, OF_MEAN, OF_STD = 1e-3, 1e-2, 0.05
ROUNDED = 1e-3  # of the largest value: LeRobot sums float32 row by row, so a constant gets another mean, and some std


class WrongStatistic(NamedTuple):
    dimension: int
    name: str  # min, max, mean or std
    stored: float
    measured: float


def misfit(stored: Any, measured: Mapping[str, np.ndarray], whole: bool) -> WrongStatistic | None:
    """Compare min, max, mean and std [m] of a column with those of its rows; unless these are all (`whole`), only
    whether they lie within. What is stored as something else, or is not finite, is not compared."""
    spread = measured["max"].astype(np.float64) - measured["min"]
    summed = ROUNDED * np.maximum(np.abs(measured["min"]), np.abs(measured["max"]))
    allowed = {"min": OF_RANGE * spread, "max": OF_RANGE * spread, "mean": OF_MEAN * spread + summed}
    allowed["std"] = OF_RANGE * spread + OF_STD * measured["std"] + summed
    for name in allowed if whole else ("min", "max"):
        try:
            said = np.asarray(stored[name], dtype=np.float64).reshape(len(spread))
        except (TypeError, ValueError, KeyError, OverflowError):
            continue
        off = (said - measured[name]) * (1 if whole or name == "min" else -1)
        with np.errstate(invalid="ignore"):
            wrong = (np.abs(off) if whole else off) > allowed[name] + 1e-6 * np.abs(measured[name])
        if (wrong & np.isfinite(said)).any():
            dimension = int((wrong & np.isfinite(said)).argmax())
            return WrongStatistic(dimension, name, float(said[dimension]), float(measured[name][dimension]))
    return None


def right_statistics(dataset: LeRobotV3, stored: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Measure the columns whose statistics do not fit the rows, as meta/stats.json has them."""
    keys = [key for key in _compared(dataset) if key in stored]
    parts: dict[str, list[Stats]] = {key: [] for key in keys}
    whole = True
    for _, columns in dataset.columns_of(dataset.episodes, keys) if keys else ():
        whole &= not isinstance(columns, checks.LattokError)
        for key, values in {} if isinstance(columns, checks.LattokError) else columns.items():
            rows = values.reshape(len(values), -1)
            if len(known := rows[np.isfinite(rows).all(1)]):
                kept = [*parts[key], column_stats(known)]
                parts[key] = kept if len(kept) < PARTS_PER_MERGE else [merge_stats(kept)]
    merged = {key: merge_stats(found) for key, found in parts.items() if found}
    wrong = [key for key, measured in merged.items() if misfit(stored[key], measured, whole)]
    return {key: {name: value.tolist() for name, value in merged[key].items()} for key in wrong}


def _compared(dataset: LeRobotV3) -> list[str]:
    vectors = {key: f for key, f in dataset.features.items() if f.dtype.startswith("float") and len(f.shape) == 1}
    return [key for key, feature in vectors.items() if feature.shape[0] <= MOST_DIMENSIONS]


def renew_episodes(dataset: LeRobotV3, written: Collection[str], changed: Mapping[str, set[int]]) -> dict[str, int]:
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


def _renewed(dataset: LeRobotV3, table: pa.Table, changed: Mapping[str, set[int]], wrong: Counter[str]) -> pa.Table:
    """Return a table of meta/episodes with statistics of its rows; count the `wrong` ones."""
    keys = dict.fromkeys([*_compared(dataset), *(key for key in changed if key in dataset.features)])
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
            if here or misfit(stored, measured, len(known) == len(rows)):
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
