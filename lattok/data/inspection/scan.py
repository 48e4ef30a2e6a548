"""Numeric columns of many episodes in blocks of rows: file by file and column-wise where the format allows it."""

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
from lattok.types import Episode

ROWS = 16_384  # about so many in a block
VALUES = 2**20  # and no more numbers than about these


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
    """One data file in one pass; where that fails, the rest episode by episode, which says what is damaged."""
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
    """Blocks of a file, each with the number of the file's rows up to its end."""
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
        columns = {
            key: column_to_numpy(pa.chunked_array([batch[key]]), dataset.features[key], f"{path}: `{key}`")
            for key in keys
        }
        if not chosen.all():
            at, row, columns = at[chosen], row[chosen], {key: values[chosen] for key, values in columns.items()}
        if len(row):
            yield done, Block(index[at], row - first[at], columns)


def _one_by_one(
    dataset: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str], seen: Mapping[int, int] | None = None
) -> Iterator[Block | Unreadable]:
    """Episode by episode, joined into blocks of some size. `seen`: frames of episodes that have come already."""
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
    return Block(
        np.concatenate([part.episodes for part in parts]),
        np.concatenate([part.frames for part in parts]),
        {key: np.concatenate([part.columns[key] for part in parts]) for key in keys},
    )


def _rows_per_block(dataset: RobotDataset, keys: Sequence[str]) -> int:
    width = sum(int(np.prod(dataset.features[key].shape)) for key in keys)
    return int(np.clip(VALUES // max(1, width), 256, ROWS))
