"""Episodes that equal others of the same dataset: saved twice, or merged from datasets that share some.

Equal are their actions and the robot's state, or, where actions say nothing, the bytes of their video files. What equal
episodes have in common without a look at rows (length, statistics of actions in meta/, size of a record or file) comes
first: in a dataset without copies hardly any rows are read. Found once for an open dataset.
"""

from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from lattok.data.content import digests
from lattok.data.schema import RobotDataset
from lattok.data.views import unwrap
from lattok.types import Episode
from lattok.utils import checks

Groups = tuple[tuple[int, ...], ...]  # episodes that equal each other, ascending, by their first

MOST_FRAMES = (2**18, 2**25)  # that are read for it, where columns lie among images and where they do not
SHOWN = 4  # groups in a sentence
CELL, LEVELS = 8, 12.0  # pixels of a cell; how far its means may be apart in a picture that was encoded twice
MOST_CELLS = 8  # on a side

_known: "WeakKeyDictionary[RobotDataset, tuple[Sequence[Episode], Groups | None]]" = WeakKeyDictionary()


def copies_of(dataset: RobotDataset) -> Groups | None:
    """Return the groups of equal episodes; None where too many rows would have to be read to tell."""
    source = unwrap(dataset)
    if source not in _known or _known[source][0] is not dataset.episodes:
        _known[source] = dataset.episodes, _found(source, dataset.episodes)
    return _known[source][1]


def first_of_copies(dataset: RobotDataset) -> dict[int, int]:
    """Return for every episode that equals others the first of these."""
    return {index: group[0] for group in copies_of(dataset) or () for index in group}


def with_copies(dataset: RobotDataset, indices: Iterable[int]) -> set[int]:
    """Return episodes and those that equal them."""
    wanted = set(indices)
    return wanted.union(*(group for group in copies_of(dataset) or () if not wanted.isdisjoint(group)))


def copies_text(dataset: RobotDataset) -> str:
    """Say which episodes equal each other; empty where none do."""
    if not (groups := copies_of(dataset)):
        return ""
    shown = [" = ".join(map(str, [*group[:SHOWN], *["…"] * (len(group) > SHOWN)])) for group in groups[:SHOWN]]
    more = [f"{len(groups) - SHOWN} more groups"] * (len(groups) > SHOWN)
    return f"{sum(map(len, groups))} of {len(dataset.episodes)} episodes equal each other ({', '.join(shown + more)})"


def known_to_differ(dataset: RobotDataset, one: int, other: int) -> bool:
    """Tell whether the states or the pictures of two episodes with the same actions show that these are two."""
    states = digests(dataset, (one, other), "states")[0]
    if states.get(one) != states.get(other):
        return True
    try:
        where = sorted({0, dataset.length(one) // 2, dataset.length(one) - 1})
        seen = [[dataset.frames(index, [camera], where) for camera in dataset.cameras] for index in (one, other)]
    except checks.LattokError:  # nothing is known of what cannot be read
        return False
    pairs = zip(*seen, strict=True)
    return any(a.shape == b.shape and np.abs(_cells(a) - _cells(b)).max() > LEVELS for a, b in pairs)


def _found(source: RobotDataset, episodes: Sequence[Episode]) -> Groups | None:
    outlines = source.outlines()
    likely = {i for group in _alike((e.index, (e.length, outlines.get(e.index))) for e in episodes) for i in group}
    frames = sum(episode.length for episode in episodes if episode.index in likely)
    if frames > MOST_FRAMES[source.columns_apart] or (frames and source.files.commit is not None and not outlines):
        return None
    actions = digests(source, likely, "actions")[0]
    same = [index for group in _alike(actions.items()) for index in group]
    states = digests(source, same, "states")[0]
    groups = _alike((index, (actions[index], states.get(index))) for index in same)
    still = likely - actions.keys()
    cameras = digests(source, still, "videos") if still else []
    groups += _alike((i, tuple(seen[i] for seen in cameras)) for i in still if cameras and all(i in s for s in cameras))
    return tuple(sorted(groups))


def _alike(keys: Iterable[tuple[int, object]]) -> list[tuple[int, ...]]:
    """Group what has the same key, if several have it."""
    found: dict[object, list[int]] = {}
    for index, key in keys:
        found.setdefault(key, []).append(index)
    return [tuple(sorted(group)) for group in found.values() if len(group) > 1]


def _cells(frames: np.ndarray) -> np.ndarray:
    """Average frames [n, 1, H, W, 3] over the cells of a grid."""
    counts = (min(MOST_CELLS, max(1, side // CELL)) for side in frames.shape[2:4])
    starts = zip(frames.shape[2:4], counts, strict=True)
    rows, columns = (np.linspace(0, side, count, endpoint=False, dtype=int) for side, count in starts)
    sums = np.add.reduceat(np.add.reduceat(frames.astype(np.float64), rows, axis=2), columns, axis=3)
    sizes = [np.diff([*starts, side]) for starts, side in zip((rows, columns), frames.shape[2:4], strict=True)]
    return sums / np.multiply.outer(*sizes)[..., None]
