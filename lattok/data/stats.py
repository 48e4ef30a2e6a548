"""Statistics of episodes as LeRobot stores them: min, max, mean, std, count and quantiles per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Stats = dict[str, np.ndarray]  # "min", "max", "mean", "std", "count", "q01" ... "q99"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def column_stats(values: np.ndarray) -> Stats:
    """Statistics over the first axis of [T, ...]; scalars [T] give arrays of one value."""
    values = values.reshape(len(values), -1) if values.ndim == 1 else values
    real = values.astype(np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": real.mean(0), "std": real.std(0)}
    stats["count"] = np.array([len(values)])
    return stats | dict(zip(QUANTILES, np.quantile(real, list(QUANTILES.values()), axis=0), strict=True))


class ImageStats:
    """Statistics per channel, scaled to [0, 1] and shaped [3, 1, 1], of sampled pixels of T frames, block by block."""

    def __init__(self, length: int):
        count = min(length, max(100, min(int(length**0.75), 10_000)))
        self._wanted = np.round(np.linspace(0, length - 1, count)).astype(int)
        self._seen = 0
        self._counts = np.zeros((3, 256), dtype=np.int64)  # pixels by channel and value

    def add(self, frames: np.ndarray) -> None:
        """Take in the next frames, uint8 [n, H, W, 3]."""
        first, last = np.searchsorted(self._wanted, [self._seen, self._seen + len(frames)])
        coarse = max(1, max(frames.shape[1:3]) // 150)
        for index in self._wanted[first:last] - self._seen:
            for counts, channel in zip(self._counts, frames[index, ::coarse, ::coarse].reshape(-1, 3).T, strict=True):
                counts += np.bincount(channel, minlength=256)
        self._seen += len(frames)

    def result(self) -> Stats:
        """Return statistics of the frames that were added."""
        value = np.arange(256) / 255
        ends = self._counts.cumsum(1)
        total = int(ends[0, -1])

        def ranked(rank: float) -> np.ndarray:
            """Return the pixel of a rank in each channel, between two of them where it is no whole number."""
            low, high = (
                value[[np.searchsorted(end, r, side="right") for end in ends]] for r in (int(rank), math.ceil(rank))
            )
            return low + (rank - int(rank)) * (high - low)

        mean = self._counts @ value / total
        spread = (self._counts * (value - mean[:, None]) ** 2).sum(1) / total
        stats = {"min": ranked(0), "max": ranked(total - 1), "mean": mean, "std": np.sqrt(spread)}
        stats |= {name: ranked(q * (total - 1)) for name, q in QUANTILES.items()}
        sampled = int((self._wanted < self._seen).sum())
        return {name: part.reshape(3, 1, 1) for name, part in stats.items()} | {"count": np.array([sampled])}


def merge_stats(parts: Sequence[Stats]) -> Stats:
    """Statistics of all parts together. Quantiles are the weighted mean of the parts', as LeRobot aggregates them."""
    counts = np.array([int(part["count"][0]) for part in parts], dtype=np.float64)

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return np.tensordot(counts, np.stack(values), axes=1) / counts.sum()

    centre = mean([part["mean"] for part in parts])
    merged = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": centre,
        "std": np.sqrt(mean([part["std"] ** 2 + (part["mean"] - centre) ** 2 for part in parts])),
        "count": np.array([int(counts.sum())]),
    }
    return merged | {q: mean([part[q] for part in parts]) for q in QUANTILES}
