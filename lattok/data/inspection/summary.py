"""Numeric columns in one pass of flat memory: range, moments, what is not finite, what is far outside the bulk.

Everything is exact except quantiles, which come from at most 262,144 rows drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from lattok.data.inspection.scan import Block
from lattok.findings import Finding, Severity

WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SAMPLE_ROWS, SAMPLE_VALUES = 2**18, 2**23
NAMED = 8  # dimensions named in a finding
LEAVE_OUT = "Leave those episodes out (`episodes`), or repair them."


class Dimension(NamedTuple):
    """Summary of one dimension of a vector column."""

    key: str
    name: str
    minimum: float
    mean: float
    std: float
    maximum: float


class Bulk(NamedTuple):
    """Where the bulk of a dimension lies."""

    middle: float
    scale: float


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
        """Summaries of the dimensions that hold any finite value."""
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

    def wild(self) -> dict[int, Bulk]:
        """Dimensions with a value far outside the bulk, in units of the spread of the bulk."""
        found: dict[int, Bulk] = {}
        sample = np.concatenate(self._sample) if self._sample else np.empty((0, len(self.names)))
        for d in np.flatnonzero((self.count > 0) & (self.low < self.high)).tolist():
            values = sample[:, d][np.isfinite(sample[:, d])].astype(np.float64)
            if not len(values):
                continue
            low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
            # the wider of two robust scales: the MAD alone is zero or tiny for grippers and resting joints
            scale = max(1.4826 * float(np.median(np.abs(values - middle))), (high - low) / 4.65)
            if scale > 0 and max(self.high[d] - middle, middle - self.low[d]) > WILD_Z * scale:
                found[d] = Bulk(float(middle), scale)
        return found

    def wild_finding(self, d: int, bulk: Bulk, count: int) -> Finding:
        """One dimension with `count` wild values."""
        above = self.high[d] - bulk.middle > bulk.middle - self.low[d]
        worst, at = (self.high[d], self.high_at[d]) if above else (self.low[d], self.low_at[d])
        what = f"`{self.key}` ({self.names[d]}) holds {count} wild values, the worst {worst:.4g} in {_where(at)} "
        what += f"({abs(worst - bulk.middle) / bulk.scale:.0f} robust standard deviations from the median "
        advice = "Look at it; leave the episode out, or normalise with quantiles."
        return Finding("warning", what + f"{bulk.middle:.4g}).", advice)


def count_wild(block: Block, bulks: Mapping[str, Mapping[int, Bulk]], counts: dict[tuple[str, int], int]) -> None:
    """Add a block's values beyond the bulk to `counts` by key and dimension."""
    for key, dimensions in bulks.items():
        values = block.columns[key].reshape(len(block.frames), -1)
        for d, bulk in dimensions.items():
            far = np.abs(values[:, d].astype(np.float64) - bulk.middle) > WILD_Z * bulk.scale
            counts[key, d] = counts.get((key, d), 0) + int((far & np.isfinite(values[:, d])).sum())


def _where(at: np.ndarray) -> str:
    return f"episode {at[0]}, frame {at[1]}"
