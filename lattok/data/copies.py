"""Episodes that equal others of the same dataset: saved twice, or merged from datasets that share some.

Equal are their actions, the robot's state and what some frames show, or, where actions say nothing, the bytes of their
video files. What equal episodes have in common without a look at rows (length, statistics of actions in meta/, size of
a record or file) comes first: in a dataset without copies hardly any rows are read. Found once for an open dataset.
"""

from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from lattok.data import problems
from lattok.data.content import digests
from lattok.data.problems import Rows
from lattok.data.schema import RobotDataset
from lattok.data.views import unwrap
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.findings import Finding

Groups = tuple[tuple[int, ...], ...]  # episodes that equal each other, ascending, by their first
Looks = list[np.ndarray]  # of each camera the cells of some frames

MOST_FRAMES = (2**18, 2**25)  # that are read for it, where columns lie among images and where they do not
SHOWN = 4  # groups in a sentence
CELL, LEVELS = 8, 12.0  # pixels of a cell; how far its means may be apart in a picture that was encoded twice
MOST_CELLS = 8  # on a side
MOST_SEEN = 256  # episodes with the actions and states of others whose pictures are compared
STRETCH, LEAST_SHARED = 16, 0.5  # rows of actions; the share from which two episodes are said to have them in common
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

_shown: "WeakKeyDictionary[RobotDataset, dict[int, Looks]]" = WeakKeyDictionary()  # one episode is compared with many
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
    shown = [" = ".join(map(str, group[:SHOWN])) + (" = …" if len(group) > SHOWN else "") for group in groups[:SHOWN]]
    more = [f"{len(groups) - SHOWN} more groups"] if len(groups) > SHOWN else []
    episodes = checks.counted(len(dataset.episodes), "episode")
    return f"{sum(map(len, groups))} of {episodes} equal each other ({', '.join(shown + more)})"


def known_to_differ(dataset: RobotDataset, one: int, other: int) -> bool:
    """Return whether the states or the pictures of two episodes with the same actions show that these are two."""
    states = digests(dataset, (one, other), "states")[0]
    if states.get(one) != states.get(other):
        return True
    return _look_different(*(_looks(dataset, index) for index in (one, other)))


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
    if sum(map(len, groups)) <= MOST_SEEN and source.files.commit is None:  # on the Hub, whole videos would be fetched
        groups = [part for group in groups for part in _by_looks(source, group)]
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


def _by_looks(source: RobotDataset, group: Sequence[int]) -> list[tuple[int, ...]]:
    """Divide episodes with the same numbers, as of an expert that repeats itself, by what their pictures show."""
    parts: list[tuple[Looks, list[int]]] = []
    for index in group:
        looks = _looks(source, index)
        mine = next((members for other, members in parts if not _look_different(looks, other)), None)
        if mine is None:
            parts.append((looks, [index]))
        else:
            mine.append(index)
    return [tuple(members) for _, members in parts if len(members) > 1]


def _looks(dataset: RobotDataset, index: int) -> Looks:
    """Return what three frames of an episode show, in cells; nothing where they cannot be read."""
    known = _shown.setdefault(dataset, {})
    if index not in known:
        where = sorted({0, dataset.length(index) // 2, dataset.length(index) - 1})
        try:
            known[index] = [_cells(dataset.frames(index, [camera], where)) for camera in dataset.cameras]
        except checks.LattokError:
            known[index] = []
    return known[index]


def _look_different(looks: Looks, others: Looks) -> bool:
    return any(a.shape == b.shape and np.abs(a - b).max() > LEVELS for a, b in zip(looks, others, strict=False))


def _cells(frames: np.ndarray) -> np.ndarray:
    """Average frames [n, 1, H, W, 3] over the cells of a grid."""
    counts = (min(MOST_CELLS, max(1, side // CELL)) for side in frames.shape[2:4])
    starts = zip(frames.shape[2:4], counts, strict=True)
    rows, columns = (np.linspace(0, side, count, endpoint=False, dtype=int) for side, count in starts)
    sums = np.add.reduceat(np.add.reduceat(frames.astype(np.float64), rows, axis=2), columns, axis=3)
    sizes = [np.diff([*starts, side]) for starts, side in zip((rows, columns), frames.shape[2:4], strict=True)]
    return sums / np.multiply.outer(*sizes)[..., None]


def shared_stretches(actions: np.ndarray, episodes: np.ndarray) -> list[tuple[int, int, float]]:
    """Return pairs of episodes with equal stretches of actions, and the share of the shorter one that these are.

    `actions` [F, m] and `episodes` [F] are rows in order. A stretch of `STRETCH` rows, most of which differ from the
    one before, is one number, as in fingerprints of text (Manber, 1994). Less than `LEAST_SHARED` is left out.
    """
    row = np.zeros(len(actions), dtype=np.uint64)
    for column in np.ascontiguousarray(actions, dtype=np.float32).T:
        row = (row ^ column.view(np.uint32)) * _FACTOR
        row ^= row >> np.uint64(29)
    if len(row) <= STRETCH:
        return []
    moved = np.cumsum(np.append(False, row[1:] != row[:-1]))
    first, last = np.arange(len(row) - STRETCH + 1), np.arange(STRETCH - 1, len(row))
    kept = first[(episodes[first] == episodes[last]) & (2 * (moved[last] - moved[first]) > STRETCH)]
    stretch = np.zeros(len(kept), dtype=np.uint64)
    for step in range(STRETCH):
        stretch = (stretch ^ row[kept + step]) * _FACTOR
    of = episodes[kept]
    order = np.lexsort((of, stretch))
    stretch, sorted_of = stretch[order], of[order]
    same = (stretch[1:] == stretch[:-1]) & (sorted_of[1:] != sorted_of[:-1])
    pairs, counts = np.unique(np.stack([sorted_of[:-1][same], sorted_of[1:][same]], 1), axis=0, return_counts=True)
    sizes = dict(zip(*(each.tolist() for each in np.unique(of, return_counts=True)), strict=True))
    shares = [(a, b, n / min(sizes[a], sizes[b])) for (a, b), n in zip(pairs.tolist(), counts.tolist(), strict=True)]
    return [found for found in shares if found[2] >= LEAST_SHARED]


def cut_episodes(dataset: RobotDataset, rows: Rows) -> Iterator[Finding]:
    """Name pairs of episodes that have most of their actions in common and are not equal: one may be cut from the
    other, or the same actions were carried out again."""
    if "action" in rows.columns:
        first = first_of_copies(dataset)
        actions = rows.columns["action"].reshape(len(rows.episodes), -1)
        found = [
            (a, b, n) for a, b, n in shared_stretches(actions, rows.episodes) if first.get(a, a) != first.get(b, b)
        ]
        if found:
            pairs = ", ".join(f"{one} and {other}" for one, other, _ in found[:SHOWN])
            pairs += f", {len(found) - SHOWN:,} more pairs" if len(found) > SHOWN else ""
            yield problems.SHARED.finding(
                {i for pair in found for i in pair[:2]}, pairs=pairs, share=min(share for _, _, share in found)
            )
