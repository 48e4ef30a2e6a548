"""Figures of numeric columns and pixels: those of an episode as LeRobot stores them, and a dataset's in one pass.

That pass takes blocks of rows of many episodes: range, moments, what is not finite, what is far outside the bulk. Its
figures are exact except quantiles, which come from at most 262,144 rows drawn with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.schema import Damage, RobotDataset
from lattok.types import Episode
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding

BLOCK_ROWS = 16_384  # about so many in a block
BLOCK_VALUES = 2**20  # and no more numbers than about these
WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SAMPLE_ROWS, SAMPLE_VALUES = 2**18, 2**23
NAMED = 8  # dimensions named in a finding


class Block(NamedTuple):
    """Rows of several episodes, one after the other."""

    episodes: np.ndarray  # [n] int64, episode of each row
    frames: np.ndarray  # [n] int64, its frame in the episode
    columns: dict[str, np.ndarray]  # by key [n] or [n, ...]


def scan(dataset: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str]) -> Iterator[Block | Damage]:
    """All rows of `episodes` under `keys`; an episode that cannot be read comes as `Damage`.

    Memory is one block, or one file where a format reads that as a whole, for a dataset of any size.
    """
    width = sum(int(np.prod(dataset.features[key].shape)) for key in keys)
    limit = int(np.clip(BLOCK_VALUES // max(1, width), 256, BLOCK_ROWS))
    parts, rows = dict[int, dict[str, np.ndarray]](), 0
    for index, columns in dataset.columns_of(episodes, keys):
        if isinstance(columns, LattokError):
            yield Damage(index, str(columns))
            continue
        parts[index] = columns
        rows += len(columns[keys[0]])
        if rows >= limit:
            yield _joined(parts, keys)
            parts, rows = {}, 0
    if parts:
        yield _joined(parts, keys)


def _joined(parts: Mapping[int, dict[str, np.ndarray]], keys: Sequence[str]) -> Block:
    lengths = np.array([len(columns[keys[0]]) for columns in parts.values()])
    frames = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = {key: np.concatenate([columns[key] for columns in parts.values()]) for key in keys}
    return Block(np.repeat(list(parts), lengths), frames, columns)


class Dimension(NamedTuple):
    """Summary of one dimension of a vector column."""

    key: str
    name: str
    minimum: float
    mean: float
    std: float
    maximum: float


class RunningFigures:
    """Figures of one column [n, D] over blocks; D dimensions side by side."""

    def __init__(self, key: str, names: tuple[str, ...], rows: int):
        self.key, self.names = key, names
        width = len(names)
        wanted = min(SAMPLE_ROWS, SAMPLE_VALUES // width)
        self._share, self._draw = min(1.0, wanted / max(1, rows)), np.random.default_rng(0)
        self._sample: list[np.ndarray] = []
        self.count, self.bad = np.zeros(width), np.zeros(width, dtype=np.int64)
        self.mean, self._squares = np.zeros(width), np.zeros(width)
        self.unknown: list[int] = []  # episodes
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self.low_at, self.high_at, self.bad_at = (np.zeros((width, 2), dtype=np.int64) for _ in range(3))

    def add(self, block: Block) -> None:
        values = block.columns[self.key].reshape(len(block.frames), -1)
        self._sample.append(values if self._share == 1 else values[self._draw.random(len(values)) < self._share])
        values = values.astype(np.float64)
        finite = np.isfinite(values)
        where = np.stack([block.episodes, block.frames], axis=1)  # n 2
        if not finite.all():
            good = finite | self._unknown(block.episodes, values)[:, None]
            fresh = (self.bad == 0) & ~good.all(axis=0)
            self.bad_at[fresh] = where[np.argmin(good, axis=0)[fresh]]
            self.bad += (~good).sum(axis=0)
        for sign, least, at in ((1, self.low, self.low_at), (-1, self.high, self.high_at)):
            signed = np.where(finite, sign * values, np.inf)
            row = signed.argmin(axis=0)
            found = signed[row, np.arange(len(row))]
            better = found < sign * least
            least[better], at[better] = sign * found[better], where[row[better]]
        count = finite.sum(axis=0)
        mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(finite, values - mean, 0) ** 2).sum(axis=0)
        total, step = np.maximum(self.count + count, 1), mean - self.mean  # moments of both parts together
        self._squares += squares + step**2 * self.count * count / total
        self.mean += step * count / total
        self.count += count

    def _unknown(self, episodes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Tell which rows [n] are of episodes whose actions nobody knows: NaN in all of them."""
        if "action" not in self.key:
            return np.zeros(len(values), dtype=bool)
        some = np.unique(episodes[~np.isnan(values).all(axis=1)])
        rows = ~np.isin(episodes, some)
        self.unknown += np.unique(episodes[rows]).tolist()
        return rows

    def dimensions(self) -> Iterator[Dimension]:
        """Sum up the dimensions that hold any finite value."""
        std = np.sqrt(self._squares / np.maximum(self.count, 1))
        for d in np.flatnonzero(self.count).tolist():
            figures = (float(values[d]) for values in (self.low, self.mean, std, self.high))
            yield Dimension(self.key, self.names[d], *figures)

    def plain_findings(self) -> Iterator[Finding]:
        """Values that are not finite or not known, and dimensions that never change."""
        if self.unknown:
            facts = {"column": self.key, "count": len(self.unknown), "first": self.unknown[0]}
            yield problems.UNKNOWN_ACTIONS.finding(**facts)
        for d in np.flatnonzero(self.bad).tolist():
            facts = {"column": self.key, "dimension": self.names[d], "place": _where(self.bad_at[d])}
            yield problems.NOT_FINITE.finding(count=self.bad[d], **facts)
        if constant := [self.names[d] for d in np.flatnonzero((self.count > 0) & (self.low == self.high)).tolist()]:
            problem = problems.CONSTANT_ACTIONS if self.key.startswith("action") else problems.CONSTANT
            names = ", ".join([*constant[:NAMED], *["…"] * (len(constant) > NAMED)])
            yield problem.finding(column=self.key, count=len(constant), all=len(self.names), names=names)

    def wild_findings(self) -> Iterator[Finding]:
        """Report values far outside the bulk, in units of its spread; they are counted where no row was left out."""
        sample = np.concatenate(self._sample) if self._sample else np.empty((0, len(self.names)))
        for d in np.flatnonzero((self.count > 0) & (self.low < self.high)).tolist():
            values = sample[:, d][np.isfinite(sample[:, d])].astype(np.float64)
            if not len(values):
                continue
            low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
            # the wider of two robust scales: the MAD alone is zero or tiny for grippers and resting joints
            away = np.abs(values - middle)
            scale = max(1.4826 * float(np.median(away)), (high - low) / 4.65)
            above = self.high[d] - middle > middle - self.low[d]
            worst, at = (self.high[d], self.high_at[d]) if above else (self.low[d], self.low_at[d])
            if scale <= 0 or abs(worst - middle) <= WILD_Z * scale:
                continue
            count = f"{(away > WILD_Z * scale).sum()} " if self._share == 1 else ""
            facts = {"column": self.key, "dimension": self.names[d], "count": count, "place": _where(at)}
            yield problems.WILD.finding(worst=worst, away=abs(worst - middle) / scale, median=middle, **facts)


def _where(at: np.ndarray) -> str:
    return f"episode {at[0]}, frame {at[1]}"


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
