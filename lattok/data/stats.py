"""Statistics of episodes as LeRobot stores them: min, max, mean, std, count and quantiles per dimension."""

from __future__ import annotations

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


def image_stats(frames: np.ndarray) -> Stats:
    """Statistics per channel, scaled to [0, 1] and shaped [3, 1, 1], of sampled pixels of frames [T, H, W, 3]."""
    count = min(len(frames), max(100, min(int(len(frames) ** 0.75), 10_000)))
    chosen = frames[np.round(np.linspace(0, len(frames) - 1, count)).astype(int)]
    coarse = max(1, max(chosen.shape[1:3]) // 150)
    stats = column_stats(chosen[:, ::coarse, ::coarse].reshape(-1, 3) / 255.0)
    return {key: value.reshape(3, 1, 1) for key, value in stats.items() if key != "count"} | {
        "count": np.array([count])
    }


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
