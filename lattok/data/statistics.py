"""Whether meta/stats.json of a LeRobot dataset is that of its rows: after a merge it may be of something else."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.tables import Stats, column_stats, merge_stats
from lattok.utils import checks

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
    vectors = {key: f for key, f in dataset.features.items() if f.dtype.startswith("float") and len(f.shape) == 1}
    keys = [key for key, feature in vectors.items() if key in stored and feature.shape[0] <= MOST_DIMENSIONS]
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
