"""Numeric columns of many episodes in one pass: range, moments, what is not finite, what is far outside the bulk.

They come in blocks of rows. All figures are exact except quantiles, which come from at most 262,144 rows drawn with a
fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lattok.data.schema import RobotDataset
from lattok.types import Episode
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding, Severity

ROWS = 16_384  # about so many in a block
VALUES = 2**20  # and no more numbers than about these
WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SAMPLE_ROWS, SAMPLE_VALUES = 2**18, 2**23
NAMED = 8  # dimensions named in a finding
LEAVE_OUT = "Leave those episodes out (`episodes`), or repair them."


class Block(NamedTuple):
    """Rows of several episodes, one after the other."""

    episodes: np.ndarray  # [n] int64, episode of each row
    frames: np.ndarray  # [n] int64, its frame in the episode
    columns: dict[str, np.ndarray]  # by key [n] or [n, ...]


class Unreadable(NamedTuple):
    """An episode that was left out, and why."""

    episode_index: int
    reason: str


def scan(dataset: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str]) -> Iterator[Block | Unreadable]:
    """All rows of `episodes` under `keys`; an episode that cannot be read comes as `Unreadable`.

    Memory is one block, or one file where a format reads that as a whole, for a dataset of any size.
    """
    width = sum(int(np.prod(dataset.features[key].shape)) for key in keys)
    limit = int(np.clip(VALUES // max(1, width), 256, ROWS))
    parts, rows = dict[int, dict[str, np.ndarray]](), 0
    for index, columns in dataset.columns_of(episodes, keys):
        if isinstance(columns, LattokError):
            yield Unreadable(index, str(columns))
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


class Running:
    """Figures of one column [n, D] over blocks; D dimensions side by side."""

    def __init__(self, key: str, names: tuple[str, ...], rows: int):
        self.key, self.names = key, names
        width = len(names)
        wanted = min(SAMPLE_ROWS, SAMPLE_VALUES // width)
        self._share, self._draw = min(1.0, wanted / max(1, rows)), np.random.default_rng(0)
        self._sample: list[np.ndarray] = []
        self.count, self.bad = np.zeros(width), np.zeros(width, dtype=np.int64)
        self.mean, self._squares = np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self.low_at, self.high_at, self.bad_at = (np.zeros((width, 2), dtype=np.int64) for _ in range(3))

    def add(self, block: Block) -> None:
        """Take in the rows of a block."""
        values = block.columns[self.key].reshape(len(block.frames), -1)
        self._sample.append(values if self._share == 1 else values[self._draw.random(len(values)) < self._share])
        values = values.astype(np.float64)
        finite = np.isfinite(values)
        where = np.stack([block.episodes, block.frames], axis=1)  # n 2
        if not finite.all():
            first = np.argmin(finite, axis=0)
            fresh = (self.bad == 0) & ~finite.all(axis=0)
            self.bad_at[fresh] = where[first[fresh]]
            self.bad += (~finite).sum(axis=0)
        for least, at, signed in ((self.low, self.low_at, values), (self.high, self.high_at, -values)):
            sign = 1 if least is self.low else -1
            signed = np.where(finite, signed, np.inf)
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

    def dimensions(self) -> Iterator[Dimension]:
        """Sum up the dimensions that hold any finite value."""
        std = np.sqrt(self._squares / np.maximum(self.count, 1))
        for d in np.flatnonzero(self.count).tolist():
            figures = (float(values[d]) for values in (self.low, self.mean, std, self.high))
            yield Dimension(self.key, self.names[d], *figures)

    def plain_findings(self) -> Iterator[Finding]:
        """Values that are not finite, and dimensions that never change."""
        for d in np.flatnonzero(self.bad).tolist():
            what = f"`{self.key}` ({self.names[d]}) holds {self.bad[d]} values that are not finite, "
            yield Finding("error", what + f"first in {_where(self.bad_at[d])}.", LEAVE_OUT)
        constant = [self.names[d] for d in np.flatnonzero((self.count > 0) & (self.low == self.high)).tolist()]
        if constant:
            severity: Severity = "warning" if self.key.startswith("action") else "note"
            what = f"`{self.key}`: {len(constant)} of {len(self.names)} dimensions never change "
            what += f"({', '.join(constant[:NAMED])}{', …' if len(constant) > NAMED else ''})."
            yield Finding(severity, what, "They carry nothing; a tokenizer need not spend codes on them.")

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
            what = f"`{self.key}` ({self.names[d]}) holds {count}wild values, the worst {worst:.4g} in {_where(at)} "
            what += f"({abs(worst - middle) / scale:.0f} robust standard deviations from the median {middle:.4g})."
            yield Finding("warning", what, "Look at it; leave the episode out, or normalise with quantiles.")


def _where(at: np.ndarray) -> str:
    return f"episode {at[0]}, frame {at[1]}"
