"""Statistics of columns as LeRobot stores them, and quantiles of all their rows."""

from collections.abc import Sequence

import numpy as np

Stats = dict[str, np.ndarray]  # "min", "max", "mean", "std", "count", "q01" ... "q99"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


OF_RANKS = 0.01  # that ranks of quantiles may be off
SAMPLED = 2**22  # numbers of a column that quantiles are taken of


def quantile_ranges(numbers: np.ndarray) -> np.ndarray:
    """Return q01 to q99 of numbers [n], each between those of lower and higher ranks: [5, 3]."""
    ranks = np.array([*QUANTILES.values()])
    low = np.quantile(numbers, (ranks - OF_RANKS).clip(0, 1), method="lower")
    high = np.quantile(numbers, (ranks + OF_RANKS).clip(0, 1), method="higher")
    return np.stack([low, np.quantile(numbers, ranks), high], 1)


class RowSample:
    """Every n-th row of a column [T, ...]: all of them up to 4 million numbers, beyond at least half as many."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._kept = self._seen = 0
        self._step = 1

    def add(self, values: np.ndarray) -> None:
        """Take in the next rows."""
        rows = values.reshape(len(values), -1) if values.ndim == 1 else values
        self._parts.append(rows[-self._seen % self._step :: self._step].copy())
        self._seen += len(rows)
        self._kept += len(self._parts[-1])
        while self._kept * max(1, int(np.prod(rows.shape[1:]))) > SAMPLED and self._kept > 1:
            self._parts = [np.concatenate(self._parts)[::2]]
            self._step, self._kept = 2 * self._step, len(self._parts[0])

    def quantiles(self) -> Stats:
        """Return q01 to q99 of the rows, each [...] as a row is shaped."""
        rows = np.concatenate(self._parts).astype(np.float64)
        return dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))


def column_stats(values: np.ndarray) -> Stats:
    """Statistics over the first axis of [T, ...]; scalars [T] give arrays of one value."""
    values = values.reshape(len(values), -1) if values.ndim == 1 else values
    real = values.astype(np.float64)
    values = real if values.dtype == np.uint64 else values  # Arrow infers int64
    with np.errstate(invalid="ignore"):  # of infinite ones
        stats = {"min": values.min(0), "max": values.max(0), "mean": real.mean(0), "std": real.std(0)}
    stats |= {"count": np.array([len(values)])}
    return stats | dict(zip(QUANTILES, np.quantile(real, list(QUANTILES.values()), axis=0), strict=True))


def merge_stats(parts: Sequence[Stats]) -> Stats:
    """Statistics of all parts together. Quantiles, where all parts have them, are only the weighted mean of the parts',
    as LeRobot aggregates them: those of rows are made by `RowSample`."""
    counts = np.array([int(part["count"][0]) for part in parts], dtype=np.float64)

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return np.tensordot(counts, np.stack(values), axes=1) / counts.sum()

    centre = mean([part["mean"] for part in parts])
    with np.errstate(invalid="ignore"):  # of infinite ones
        spread = np.sqrt(mean([part["std"] ** 2 + (part["mean"] - centre) ** 2 for part in parts]))
    merged = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": centre,
        "std": spread,
        "count": np.array([int(counts.sum())]),
    }
    known = [q for q in QUANTILES if all(q in part for part in parts)]
    return merged | {q: mean([part[q] for part in parts]) for q in known}
