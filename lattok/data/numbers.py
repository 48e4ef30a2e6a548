"""Numeric columns of many episodes in one pass: range, moments, what is not finite, what is far outside the bulk.

They come in blocks of rows, file by file and column-wise where the format allows it. All figures are exact except
quantiles, which come from at most 262,144 rows drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lattok.checks import LattokError
from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.schema import RobotDataset
from lattok.data.tables import column_to_numpy
from lattok.findings import Finding, Severity
from lattok.types import Episode

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

    Rows of it before the damage may have come already. Memory is one block, for a dataset of any size.
    """
    if isinstance(dataset, LeRobotV3):
        by_index = {episode.index: episode for episode in episodes}
        for path, indices in dataset.by_data_file(list(by_index)).items():
            yield from _file(dataset, path, [by_index[index] for index in indices], keys)
    else:
        yield from _one_by_one(dataset, episodes, keys)


def _file(dataset: LeRobotV3, path: Path, episodes: list[Episode], keys: Sequence[str]) -> Iterator[Block | Unreadable]:
    """Read one data file in one pass; where that fails, the rest episode by episode, which says what is damaged."""
    done, whole, seen = 0, list[Episode](), dict[int, int]()
    try:
        rows = dataset.episode_rows(path)
        whole = [e for e in episodes if e.index in rows and rows[e.index][1] - rows[e.index][0] == e.length]
        for after, block in _blocks(dataset, path, whole, keys):
            done = after
            yield block
        finished = {episode.index for episode in whole}
    except LattokError:
        seen = {episode.index: done - rows[episode.index][0] for episode in whole}
        finished = {episode.index for episode in whole if rows[episode.index][1] <= done}
    left = [episode for episode in episodes if episode.index not in finished]
    yield from _one_by_one(dataset, left, keys, seen)


def _blocks(
    dataset: LeRobotV3, path: Path, episodes: list[Episode], keys: Sequence[str]
) -> Iterator[tuple[int, Block]]:
    """Yield blocks of a file, each with the number of the file's rows up to its end."""
    rows = dataset.episode_rows(path)
    spans = sorted((*rows[episode.index], episode.index) for episode in episodes)
    if not spans:
        return
    first, last, index = np.array(spans, dtype=np.int64).T
    done = 0
    for batch in dataset.batches(path, keys, _rows_per_block(dataset, keys)):
        row = np.arange(done, done + batch.num_rows)
        done += batch.num_rows
        at = np.maximum(np.searchsorted(first, row, side="right") - 1, 0)
        chosen = (row >= first[at]) & (row < last[at])
        columns = {}
        for key in keys:
            values = column_to_numpy(pa.chunked_array([batch[key]]), dataset.features[key], f"{path}: `{key}`")
            columns[key] = values if chosen.all() else values[chosen]
        if chosen.any():
            yield done, Block(index[at[chosen]], (row - first[at])[chosen], columns)


def _one_by_one(
    dataset: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str], seen: Mapping[int, int] | None = None
) -> Iterator[Block | Unreadable]:
    """Read episode by episode, joined into blocks of some size. `seen`: frames of episodes that have come already."""
    parts: list[Block] = []
    limit = _rows_per_block(dataset, keys)
    for episode in episodes:
        try:
            columns = dataset.columns(episode.index, keys)
        except LattokError as error:
            yield Unreadable(episode.index, str(error))
            continue
        first = max(0, (seen or {}).get(episode.index, 0))
        frames = np.arange(first, episode.length)
        rest = {key: values[first:] for key, values in columns.items()}
        parts.append(Block(np.full(len(frames), episode.index), frames, rest))
        if sum(len(part.frames) for part in parts) >= limit:
            yield _joined(parts, keys)
            parts = []
    if parts:
        yield _joined(parts, keys)


def _joined(parts: list[Block], keys: Sequence[str]) -> Block:
    episodes, frames = (np.concatenate(each) for each in zip(*(part[:2] for part in parts), strict=True))
    return Block(episodes, frames, {key: np.concatenate([part.columns[key] for part in parts]) for key in keys})


def _rows_per_block(dataset: RobotDataset, keys: Sequence[str]) -> int:
    width = sum(int(np.prod(dataset.features[key].shape)) for key in keys)
    return int(np.clip(VALUES // max(1, width), 256, ROWS))


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
        """Report a dimension with `count` wild values."""
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
