"""What is wrong with the pictures of episodes: cameras that show nothing, stand still or are swapped. Evenly spread
frames are averaged over the cells of a grid, in which noise and compression cancel out, and motion does not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.flaws import held, rows_between
from lattok.data.schema import RobotDataset
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.findings import Finding
from lattok.utils.spread import evenly_spread

BLANK_LEVELS = 8  # between the darkest and the brightest value of a frame that shows nothing, after compression
EPISODES_LOOKED_AT, FRAMES_LOOKED_AT = 32, 9  # per camera, and per episode
FILMS, LONGEST_FILM = 4, 120  # episodes and frames whose motion is looked at
GRID, PIXELS = 16, 128  # cells on a side, and pixels that are enough for them
SAME_LEVELS = 1.5  # between the means of a cell in two pictures of one scene, after compression
FROZEN = 3  # frames in a row that show the same
FEWEST, CLOSER, MOST = 4, 0.6, 0.75  # episodes; how much closer to another scene they are; of how many one can tell
OTHERWISE: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # [g, g, 3]
    "upside down": lambda cells: cells[::-1],
    "mirrored": lambda cells: cells[:, ::-1],
    "turned by 180 degrees": lambda cells: cells[::-1, ::-1],
    "with red and blue swapped": lambda cells: cells[..., ::-1],
}
BEGINNINGS, LEAP = 8, 1.4  # episodes whose beginning is looked at; steps, that a stale picture is away from the next
REPEATED = 0.1  # of what usually changes, below which a picture is the one before
APART = 6.0  # levels between what two cameras usually show, below which they are not told apart


class Viewed(NamedTuple):  # what frames of one episode show
    frames: np.ndarray  # [k] int64, ascending
    blank: np.ndarray  # [k] bool
    cells: np.ndarray  # [k, g, g, 3] float32


def look(
    dataset: RobotDataset, chosen: Sequence[Episode], key: str, unread: dict[int, checks.LattokError]
) -> dict[int, Viewed]:
    """Look at evenly spread frames of evenly spread episodes; those that cannot be read are added to `unread`."""
    found = dict[int, Viewed]()
    for episode in (each for each in evenly_spread(chosen, EPISODES_LOOKED_AT) if each.length > 2):
        at = np.unique(np.linspace(0, episode.length - 1, FRAMES_LOOKED_AT).round().astype(int))
        try:
            pictures = dataset.frames(episode.index, [key], indices=at)[:, 0]
        except checks.LattokError as error:
            unread.setdefault(episode.index, error)
            continue
        blank = np.ptp(pictures, axis=(1, 2, 3)) <= BLANK_LEVELS
        found[episode.index] = Viewed(at, blank, _cells(pictures))
    return found


def _cells(pictures: np.ndarray) -> np.ndarray:
    """Average pictures [k, H, W, 3] over a grid; of large ones every n-th pixel."""
    pictures = pictures[:, :: max(1, pictures.shape[1] // PIXELS), :: max(1, pictures.shape[2] // PIXELS)]
    sides = [np.linspace(0, side, min(GRID, side), endpoint=False, dtype=int) for side in pictures.shape[1:3]]
    sums = pictures.astype(np.float32)
    for axis, starts in enumerate(sides, 1):
        width = np.diff([*starts, pictures.shape[axis]]).astype(np.float32)
        sums = np.add.reduceat(sums, starts, axis=axis) / np.expand_dims(width, tuple(range(1, 4 - axis)))
    return sums


def check_pictures(key: str, seen: Mapping[int, Viewed], still: Mapping[int, np.ndarray]) -> Iterator[Finding]:
    """Find episodes whose frames show nothing, or the same for longer than the robot rests: `still` has by episode
    which of its rows change no number [T]."""
    blank = {index: int(each.frames[each.blank][0]) for index, each in seen.items() if each.blank.any()}
    frozen = {
        index: at - 1 for index, each in seen.items() if index not in blank and (at := _frozen(each, still.get(index)))
    }
    if blank and not all(each.blank.all() for each in seen.values()):  # otherwise it is said of the camera
        yield problems.BLANK_EPISODES.finding((), blank.items(), camera=key, all=len(seen))
    if frozen and len(frozen) < len(seen):
        problem = problems.FROZEN_EPISODES if still else problems.FROZEN_FILMS
        yield problem.finding((), frozen.items(), camera=key, all=len(seen))


def _frozen(seen: Viewed, still: np.ndarray | None) -> int:
    """Return 1 + the frame from which on several show the same though the robot moves, or 0."""
    same = np.abs(np.diff(seen.cells, axis=0)).max((1, 2, 3)) <= SAME_LEVELS
    if still is not None:
        rests = [still[a + 1 : b + 1].all() for a, b in zip(seen.frames[:-1], seen.frames[1:], strict=True)]
        same &= ~np.array(rests, dtype=bool)
    run = 1
    for i, each in enumerate(same):
        run = run + 1 if each else 1
        if run >= (len(seen.frames) if still is None else min(FROZEN, len(seen.frames))):
            return int(seen.frames[i + 2 - run]) + 1
    return 0


def picture_moves(dataset: RobotDataset, chosen: Sequence[Episode], key: str) -> dict[int, np.ndarray]:
    """Return how much pictures change from frame to frame [T - 1], in some episodes from their beginning."""
    found = dict[int, np.ndarray]()
    for episode in (each for each in evenly_spread(chosen, FILMS) if each.length > 2):
        try:
            pictures = dataset.frames(episode.index, [key], indices=np.arange(min(episode.length, LONGEST_FILM)))
        except checks.LattokError:
            continue  # said elsewhere
        found[episode.index] = np.abs(np.diff(_cells(pictures[:, 0]), axis=0)).mean((1, 2, 3))
    return found


def check_repeated(
    key: str, moves: Mapping[int, np.ndarray], still: Mapping[int, np.ndarray], fps: float
) -> Iterator[Finding]:
    """Find that a camera is slower than the rows: while the robot moves its pictures, of which `moves` [T - 1] tell how
    much they change, do so at a lower rate."""
    changes, breaks = list[np.ndarray](), list[np.ndarray]()
    for index, each in moves.items():
        rests = still[index][1 : len(each) + 1] if index in still else np.zeros(len(each), dtype=bool)
        changes.append(each > REPEATED * np.quantile(each, 0.9))
        breaks.append(rests | (np.arange(len(each)) == 0))
    gaps = rows_between(np.concatenate(changes), np.concatenate(breaks)) if changes else None
    if gaps is not None:
        facts = {"held": held(gaps), "stride": int(np.ceil(gaps.mean()))}
        yield problems.REPEATED_PICTURES.finding(camera=key, rate=fps / gaps.mean(), **facts)


def check_shown_otherwise(key: str, seen: Mapping[int, Viewed]) -> Iterator[Finding]:
    """Find episodes that show the scene of most others turned, mirrored, or with red and blue swapped."""
    if len(seen) < FEWEST or len({each.cells.shape[1:] for each in seen.values()}) > 1:
        return
    means = np.stack([each.cells.mean(0) for each in seen.values()])  # [episodes, g, g, 3]
    usual = np.median(means, axis=0)
    own = np.abs(means - usual).mean((1, 2, 3))
    for how, change in OTHERWISE.items():
        far = np.abs(means - change(usual)).mean((1, 2, 3))
        apart = np.abs(change(usual) - usual).mean() >= APART
        if apart and (episodes := _taken_for_another([*seen], own, far)):
            yield problems.SHOWN_OTHERWISE.finding(episodes, camera=key, how=how, all=len(means))


def _taken_for_another(episodes: Sequence[int], own: np.ndarray, other: np.ndarray) -> list[int]:
    """Return the few episodes that are closer to another scene than to their own, by how far [E] they are from each;
    none where it cannot be told of most."""
    wrong = other < CLOSER * own
    told = wrong | (own < CLOSER * other)
    if wrong.sum() >= len(wrong) / 3 or told.mean() < MOST:
        return []
    return [index for index, each in zip(episodes, wrong, strict=True) if each]


def check_stale(dataset: RobotDataset, chosen: Sequence[Episode], key: str) -> Iterator[Finding]:
    """Find first pictures that are the last ones of the episodes before, while the next ones are not."""
    after = [pair for pair in pairwise(chosen) if min(each.length for each in pair) > 2]
    stale, looked_at = list[int](), 0
    for before, episode in evenly_spread(after, BEGINNINGS):
        try:
            last = dataset.frames(before.index, [key], indices=[before.length - 1])[:, 0]
            begins = dataset.frames(episode.index, [key], indices=[0, 1, 2])[:, 0]
        except checks.LattokError:
            continue  # said elsewhere
        if last.shape[1:] != begins.shape[1:]:
            continue
        (old,), cells = _cells(last), _cells(begins)
        looked_at += 1
        off, leap, step = (np.abs(one - two).mean() for one, two in ((cells[0], old), cells[:2], cells[1:]))
        if leap > max(LEAP * step, SAME_LEVELS) and off < CLOSER * leap:
            stale.append(episode.index)
    if len(stale) >= max(FEWEST - 1, looked_at / 2):
        yield problems.STALE_FIRST.finding(stale, camera=key, all=looked_at)


def check_swapped(seen: Mapping[str, Mapping[int, Viewed]]) -> Iterator[Finding]:
    """Find episodes in which two cameras show what the other one shows in most."""
    keys = list(seen)
    for i, one in enumerate(keys):
        for other in keys[i + 1 :]:
            both = [index for index in seen[one] if index in seen[other]]
            pairs = [(seen[one][index], seen[other][index]) for index in both]
            if len(pairs) < FEWEST or len({each.cells.shape[1:] for pair in pairs for each in pair}) > 1:
                continue
            means = np.stack([[each.cells.mean(0) for each in pair] for pair in pairs])  # [episodes, 2, g, g, 3]
            usual = np.median(means, axis=0)
            far = np.abs(means[:, :, None] - usual[None, None]).mean((3, 4, 5))  # [episodes, camera, usual]
            own, swapped = far[:, 0, 0] + far[:, 1, 1], far[:, 0, 1] + far[:, 1, 0]
            apart = np.abs(usual[0] - usual[1]).mean() >= APART
            if apart and (episodes := _taken_for_another(both, own, swapped)):
                yield problems.SWAPPED.finding(episodes, one=one, other=other, all=len(both))
