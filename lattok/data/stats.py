"""Figures of numeric columns and pixels: what inspection says of rows, and an episode's as LeRobot stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.utils.findings import Finding

WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SAMPLE_ROWS = 2**18  # that quantiles are taken of
NAMED = 8  # dimensions named in a finding


class Rows(NamedTuple):
    """Rows of several episodes, one after the other."""

    episodes: np.ndarray  # [n] int64, episode of each row
    frames: np.ndarray  # [n] int64, its frame in the episode
    columns: dict[str, np.ndarray]  # by key [n] or [n, ...]

    def place(self, row: int) -> str:
        return f"episode {self.episodes[row]}, frame {self.frames[row]}"


class Dimension(NamedTuple):
    """Summary of one dimension of a vector column."""

    key: str
    name: str
    minimum: float
    mean: float
    std: float
    maximum: float


def column_figures(key: str, names: Sequence[str], rows: Rows) -> Iterator[Dimension | Finding]:
    """Sum up the dimensions of a column that hold any finite value, and report what is odd in them."""
    values = rows.columns[key].reshape(len(rows.frames), -1)
    unknown = _unknown(key, rows.episodes, values)
    if unknown.any():
        episodes = np.unique(rows.episodes[unknown])
        yield problems.UNKNOWN_ACTIONS.finding(column=key, count=len(episodes), first=episodes[0])
    constant, wild = [], []
    for name, column in zip(names, values.T, strict=True):
        finite = np.isfinite(column)
        bad, known = np.flatnonzero(~finite & ~unknown), np.flatnonzero(finite)
        if len(bad):
            facts = {"column": key, "dimension": name, "count": len(bad)}
            yield problems.NOT_FINITE.finding(**facts, place=rows.place(int(bad[0])))
        if not len(known):
            continue
        numbers = column[known].astype(np.float64)
        low, high = int(numbers.argmin()), int(numbers.argmax())
        yield Dimension(key, name, numbers[low], numbers.mean(), numbers.std(), numbers[high])
        if numbers[low] == numbers[high]:
            constant.append(name)
        elif found := _wild(numbers, low, high):
            facts = {"column": key, "dimension": name, "place": rows.place(int(known[found.pop("at")]))}
            wild.append(problems.WILD.finding(**facts, **found))
    if constant:
        problem = problems.CONSTANT_ACTIONS if key.startswith("action") else problems.CONSTANT
        shown = ", ".join([*constant[:NAMED], *["…"] * (len(constant) > NAMED)])
        yield problem.finding(column=key, count=len(constant), all=len(names), names=shown)
    yield from wild


def _unknown(key: str, episodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Tell which rows [n] are of episodes whose actions nobody knows: NaN in all of them."""
    if "action" not in key:
        return np.zeros(len(values), dtype=bool)
    return ~np.isin(episodes, episodes[~np.isnan(values).all(axis=1)])


def _wild(numbers: np.ndarray, low: int, high: int) -> dict[str, Any]:
    """Look for values far outside the bulk, in units of its spread; of their ends `low` and `high` one is the worst."""
    first, middle, last = np.quantile(numbers[:: len(numbers) // SAMPLE_ROWS + 1], [0.01, 0.5, 0.99])
    # the wider of two robust scales: the MAD alone is zero or tiny for grippers and resting joints
    away = np.abs(numbers - middle)
    scale = max(1.4826 * float(np.median(away)), (last - first) / 4.65)
    at = high if numbers[high] - middle > middle - numbers[low] else low
    if scale <= 0 or away[at] <= WILD_Z * scale:
        return {}
    count = int((away > WILD_Z * scale).sum())
    return {"at": at, "count": count, "worst": numbers[at], "away": away[at] / scale, "median": middle}


Stats = dict[str, np.ndarray]  # "min", "max", "mean", "std", "count", "q01" ... "q99"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def column_stats(values: np.ndarray) -> Stats:
    """Statistics over the first axis of [T, ...]; scalars [T] give arrays of one value."""
    values = values.reshape(len(values), -1) if values.ndim == 1 else values
    real = values.astype(np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": real.mean(0), "std": real.std(0)}
    stats |= {"count": np.array([len(values)])}
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
            both = (int(rank), math.ceil(rank))
            low, high = (value[[np.searchsorted(end, r, side="right") for end in ends]] for r in both)
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
