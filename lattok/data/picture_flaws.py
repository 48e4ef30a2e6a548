"""What is wrong with the pictures of episodes: cameras that show nothing, stand still or are swapped. Evenly spread
frames are averaged over the cells of a grid, in which noise and compression cancel out, and motion does not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.schema import RobotDataset
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.findings import Finding

BLANK_LEVELS = 8  # between the darkest and the brightest value of a frame that shows nothing, after compression
EPISODES_LOOKED_AT, FRAMES_LOOKED_AT = 32, 9  # per camera, and per episode
FILMS, LONGEST_FILM = 4, 120  # episodes and frames whose motion is looked at
GRID, PIXELS = 16, 128  # cells on a side, and pixels that are enough for them
SAME_LEVELS = 1.5  # between the means of a cell in two pictures of one scene, after compression
FROZEN = 3  # frames in a row that show the same
APART = 6.0  # levels between what two cameras usually show, below which they are not told apart


class Viewed(NamedTuple):  # what frames of one episode show
    frames: np.ndarray  # [k] int64, ascending
    blank: np.ndarray  # [k] bool
    cells: np.ndarray  # [k, g, g, 3] float32


def look(
    dataset: RobotDataset, chosen: Sequence[Episode], key: str, unread: dict[int, checks.LattokError]
) -> dict[int, Viewed]:
    """Look at evenly spread frames of evenly spread episodes; those that cannot be read are added to `unread`."""
    spread = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), EPISODES_LOOKED_AT)).round().astype(int))
    found = dict[int, Viewed]()
    for episode in (chosen[i] for i in spread.tolist() if chosen[i].length > 2):
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
    blank = {index: each.frames[each.blank] for index, each in seen.items() if each.blank.any()}
    frozen = {
        index: at for index, each in seen.items() if index not in blank and (at := _frozen(each, still.get(index)))
    }
    for problem, found in (
        (problems.BLANK_EPISODES, {index: int(at[0]) for index, at in blank.items()}),
        (problems.FROZEN_EPISODES if still else problems.FROZEN_FILMS, {index: at - 1 for index, at in frozen.items()}),
    ):
        if found and len(found) < len(seen):  # otherwise it is said of the camera
            yield problem.finding((), found.items(), camera=key, all=len(seen))


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
    spread = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), FILMS)).round().astype(int))
    found = dict[int, np.ndarray]()
    for episode in (chosen[i] for i in spread.tolist() if chosen[i].length > 2):
        try:
            pictures = dataset.frames(episode.index, [key], indices=np.arange(min(episode.length, LONGEST_FILM)))
        except checks.LattokError:
            continue  # said elsewhere
        found[episode.index] = np.abs(np.diff(_cells(pictures[:, 0]), axis=0)).mean((1, 2, 3))
    return found


def check_swapped(seen: Mapping[str, Mapping[int, Viewed]]) -> Iterator[Finding]:
    """Find episodes in which two cameras show what the other one shows in most."""
    keys = list(seen)
    for i, one in enumerate(keys):
        for other in keys[i + 1 :]:
            both = [index for index in seen[one] if index in seen[other]]
            pairs = [(seen[one][index], seen[other][index]) for index in both]
            if len(pairs) < 4 or len({each.cells.shape[1:] for pair in pairs for each in pair}) > 1:
                continue
            means = np.stack([[each.cells.mean(0) for each in pair] for pair in pairs])  # [episodes, 2, g, g, 3]
            usual = np.median(means, axis=0)
            far = np.abs(means[:, :, None] - usual[None, None]).mean((3, 4, 5))  # [episodes, camera, usual]
            own, swapped = far[:, 0, 0] + far[:, 1, 1], far[:, 0, 1] + far[:, 1, 0]
            wrong = swapped < 0.6 * own
            if (
                np.abs(usual[0] - usual[1]).mean() >= APART
                and 0 < wrong.sum() < len(both) / 3
                and ((own < 0.6 * swapped) | wrong).mean() >= 0.75
            ):
                episodes = [index for index, each in zip(both, wrong, strict=True) if each]
                yield problems.SWAPPED.finding(episodes, one=one, other=other, all=len(both))
