"""Which samples make a batch: of one dataset or of several in given proportions, each a function of its number alone.

counts(n)_i     how many of the first n samples come from dataset i
sample n        is the next draw, number counts(n)_i, of the one dataset whose count it raises

The first half of the datasets gets round(n w) of n samples, the second half the rest, and so on inside each half, in
exact fractions. So counts(n)_i is within d / 2 of n w_i, where 2^d is at least the number of datasets: 1/2 for two of
them, 1 for four. Neither depends on the batch size, the processes or the machine.

Draws of data that the shuffle window holds are shuffled passes over all of it (`Passes`), and a batch is sorted by
dataset. Draws of larger data go through lanes (`Lanes`), each a mixture by itself, and need few episodes at a time:

    pass k        clips (at most MAX_CLIP neighbours of an episode) in a shuffled order, cut into LANES equal parts
    lane l        goes through its part of pass 0, 1, ... in windows of about `window` samples, each shuffled
    sample g      the next one of lane g mod LANES

Files that are fetched from the Hub are shuffled into groups of FILES_PER_GROUP. The clips of a group are cut into LANES
equal parts, and a lane goes through its part of one group after the other. The first groups are smaller, to begin soon.

Everything follows from (seed, k, l): no process needs to know what was drawn before, and where the number of processes
divides LANES, process r of P gets the same lanes at every step, those with l mod P = r. So each decodes only its own.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.samples.frames import Samples
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

LANES = 96  # 1, 2, 3, 4, 6, 8, 12, 16, ... processes share them
MAX_CLIP = 256  # samples: seeking costs little beside decoding so many
FILES_PER_GROUP = 16  # of the Hub that are needed at a time, of each camera; twice as many where one group ends
FIRST_WINDOW = 8  # samples of a lane's first window, so that training begins at once; each next one is twice as large
MAX_BATCH = 2**16  # samples of a batch, where the data has fewer


class Window(NamedTuple):  # samples of a lane that are drawn in shuffled order, or some of them in a row
    first: int  # number of its first draw in the lane, over all passes
    samples: np.ndarray  # int64 [n], in the order in which they are drawn

    def __contains__(self, draw: object) -> bool:
        return isinstance(draw, int) and 0 <= draw - self.first < len(self.samples)


class Draw(NamedTuple):  # one sample of a step: draw number `number` of a lane of one dataset
    part: int  # which dataset
    lane: int
    number: int


class Passes:
    """The order of samples that one window holds: shuffled passes. Draw g is draw g // LANES of lane g mod LANES."""

    def __init__(self, samples: int | np.ndarray, seed: int):
        """`samples`: their numbers [n], or how many there are."""
        self._samples = np.arange(samples) if isinstance(samples, int) else samples
        checks.counts(size=len(self._samples))
        self._pass = lru_cache(2)(self._new_pass)
        self.seed = seed

    def __len__(self) -> int:
        return len(self._samples)

    def take(self, position: int, count: int) -> np.ndarray:
        """Return the samples [count] of the draws from number `position` on, counted from 0."""
        parts = [np.empty(0, dtype=np.int64)]
        while count:
            number, offset = divmod(position, len(self))
            parts.append(self._pass(number)[offset : offset + count])
            position, count = position + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def window(self, lane: int, draw: int) -> Window:
        """Return the lane's part of a pass that draw number `draw` belongs to, counted from 0."""
        number = (draw * LANES + lane) // len(self)
        first = max(0, -(-(number * len(self) - lane) // LANES))
        return Window(first, self._pass(number)[first * LANES + lane - number * len(self) :: LANES])

    def _new_pass(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        return self._samples[torch.randperm(len(self), generator=generator).numpy()]


class Lanes:
    """The order of the samples of one dataset."""

    def __init__(
        self, samples: np.ndarray, episode_of: np.ndarray, window: int, seed: int, file_of: np.ndarray | None = None
    ):
        """Order `samples` [n], ascending numbers that lie together by `episode_of` [n]. Of fewer than there are lanes
        each comes several times in a pass. `file_of` [n] numbers the files from 0, where these are fetched."""
        checks.counts(window=window, samples=len(samples))
        times = -(-LANES // len(samples))
        samples, episode_of = samples.repeat(times), episode_of.repeat(times)
        self._all, self.window_size, self.seed = samples, window, seed
        borders = np.flatnonzero(np.diff(episode_of, prepend=episode_of[0] - 1, append=episode_of[-1] + 1))
        lengths = np.diff(borders)
        pieces = -(-lengths // min(window, MAX_CLIP))  # of each episode, as equal as can be
        episode = np.repeat(np.arange(len(lengths)), pieces)
        number = np.arange(len(episode)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._starts = borders[episode] + number * lengths[episode] // pieces[episode]
        self._lengths = np.diff(self._starts, append=len(samples))
        self._file_of = None if file_of is None else file_of.repeat(times)[self._starts]  # [clips]
        self._pass = lru_cache(2)(self._new_pass)
        self._borders = lru_cache(2 * LANES)(self._new_borders)

    def __len__(self) -> int:
        return len(self._all)

    def window(self, lane: int, draw: int) -> Window:
        """Return the window that draw number `draw` of a lane belongs to, counted from 0."""
        start, size = self._part(lane)
        number, place = divmod(draw, size)
        borders = self._borders(number, lane)
        w = bisect_right(borders, place) - 1
        starts, ends = self._pass(number)
        places = start + np.arange(borders[w], borders[w + 1])
        clip = np.searchsorted(ends, places, side="right")
        samples = self._all[starts[clip] + places - np.where(clip > 0, ends[clip - 1], 0)]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number, lane, w))
        return Window(draw - place + borders[w], samples[torch.randperm(len(samples), generator=generator).numpy()])

    def _part(self, lane: int) -> tuple[int, int]:
        """Return where the lane's part of a pass begins, and its size."""
        start = len(self._all) * lane // LANES
        return start, len(self._all) * (lane + 1) // LANES - start

    def _new_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shuffle the clips: which sample each begins with, and the place after it [clips]."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        order = torch.randperm(len(self._starts), generator=generator).numpy()
        if self._file_of is None:
            return self._starts[order], np.cumsum(self._lengths[order])
        files = int(self._file_of.max()) + 1
        rank = torch.randperm(files, generator=generator).numpy()[self._file_of[order]]
        widths = np.full(files, FILES_PER_GROUP)
        if number == 0:
            widths[:8] = np.minimum(2 ** np.arange(8), FILES_PER_GROUP)[:files]
        group = np.searchsorted(np.cumsum(widths), rank, side="right")
        order, group = order[np.argsort(group, kind="stable")], np.sort(group)
        return deal_clips(self._starts[order], np.cumsum(self._lengths[order]), group)

    def _new_borders(self, number: int, lane: int) -> list[int]:
        """Cut a lane's part of a pass into windows that end with a clip, but for the small ones that come first."""
        start, size = self._part(lane)
        _, ends = self._pass(number)
        borders, width = [0], min(FIRST_WINDOW, self.window_size) if number == 0 else self.window_size
        while borders[-1] < size:
            border = borders[-1] + width
            if width >= self.window_size:
                border = int(ends[min(np.searchsorted(ends, start + border), len(ends) - 1)]) - start
            borders.append(min(border, size))
            width = min(2 * width, self.window_size)
        return borders


def deal_clips(starts: np.ndarray, ends: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deal clips, in ascending groups, out to the lanes: each gets its share of each group. Clips may be cut. After a
    group all lanes have had as many samples, but for one, so that none begins with another's end."""
    last = ends[np.flatnonzero(np.diff(group, append=group[-1] + 1))]  # of each group
    sizes = np.diff(last[-1] * np.arange(LANES + 1) // LANES)  # of the lanes
    rank = np.argsort(np.argsort(-sizes, kind="stable"))  # who gets what is left over: first the larger ones
    had = (last[:, None] + LANES - 1 - rank) // LANES  # samples of each lane up to each group, which never fall
    shares = np.diff(had, prepend=0, axis=0)  # of a group, of a lane
    cuts = np.cumsum(shares)
    pieces = np.union1d(ends, cuts[cuts > 0])  # where each ends
    begins = np.concatenate([[0], pieces[:-1]])
    clip = np.searchsorted(ends, begins, side="right")
    first = starts[clip] + begins - np.concatenate([[0], ends[:-1]])[clip]
    order = np.argsort(np.searchsorted(cuts, begins, side="right") % LANES, kind="stable")  # lane by lane
    return first[order], np.cumsum((pieces - begins)[order])


Order = Passes | Lanes  # of the samples of one dataset, which LANES lanes share


class BatchSampler:
    """Samples of step t, of one dataset or of several in the proportions of `weights`: a function of t alone."""

    def __init__(self, parts: Sequence[Order | None], batch_size: int, weights: Sequence[float] = (1.0,)):
        """A part without samples is None: the others share its weight."""
        sizes = [0 if part is None else len(part) for part in parts]
        checks.counts(batch_size=batch_size)
        if batch_size > (most := max(sum(sizes), MAX_BATCH)):  # drawing it would never end
            checks.fail("batch_size", f"at most {most} for {checks.counted(sum(sizes), 'sample')}", batch_size)
        self.parts, self.batch_size, self.weights = list(parts), batch_size, list(weights)
        self._starts = list(accumulate(sizes, initial=0))
        self._passes = [part for part in parts if part is None or isinstance(part, Passes)]
        self.in_passes = len(self._passes) == len(parts)  # one window holds all samples
        given = [Fraction(str(weight)) for weight in weights]  # decimal as written: 0.1 and 0.9 are 1
        self._shares = [share if size else Fraction(0) for share, size in zip(given, sizes, strict=True)]
        if not any(self._shares):
            checks.fail("mix", "at least one sample", "none")
        self._windows: dict[tuple[int, int], Window] = {}

    def counts(self, n: int) -> list[int]:
        return _counts(n, self._shares)

    def __call__(self, step: int) -> Tensor:
        """Return samples [batch_size] of step `step`, counted from 0, numbered over all parts."""
        return self.samples(step, self._starts)

    def samples(self, step: int, firsts: Sequence[int]) -> Tensor:
        """Return samples [batch_size] of a step; those of each part are numbered from `firsts` on."""
        if self.in_passes:
            spans = zip(self._passes, firsts, *self._spans(step), strict=False)
            drawn = [first + part.take(k, last - k) for part, first, k, last in spans if part is not None]
            return torch.from_numpy(np.concatenate(drawn))
        return torch.tensor([firsts[draw.part] + self._sample(draw) for draw in self.draws(step)])

    def draws(self, step: int) -> list[Draw]:
        """Return the draws of the rows of a step."""
        if self.in_passes:
            spans = enumerate(zip(*self._spans(step), strict=True))
            return [Draw(part, k % LANES, k // LANES) for part, span in spans for k in range(*span)]
        found = []
        for row in range(self.batch_size):
            number, lane = divmod(step * self.batch_size + row, LANES)
            # each lane is a mixture by itself, one draw ahead of the lane before it: of halves, each lane sees both
            begun, before, after = (self.counts(lane + n) for n in (0, number, number + 1))
            part = next(i for i in range(len(after)) if after[i] > before[i])
            found.append(Draw(part, lane, before[part] - begun[part]))
        return found

    def _spans(self, step: int) -> tuple[list[int], list[int]]:
        """Return the first draw of each part at a step, and the one after its last."""
        first, last = (self.counts(n * self.batch_size) for n in (step, step + 1))
        return first, last

    def _sample(self, draw: Draw) -> int:
        part = self.parts[draw.part]
        assert part is not None  # it has no weight
        if (found := self._windows.get(draw[:2])) is None or draw.number not in found:
            found = self._windows[draw[:2]] = part.window(draw.lane, draw.number)
        return int(found.samples[draw.number - found.first])


def _counts(n: int, weights: Sequence[Fraction]) -> list[int]:
    if len(weights) == 1:
        return [n]
    half = len(weights) // 2
    total, first = sum(weights), sum(weights[:half])
    share = math.floor(n * first / total + Fraction(1, 2)) if total else 0
    return _counts(share, weights[:half]) + _counts(n - share, weights[half:])


def order_of(
    parts: Sequence[Samples],
    weights: Sequence[float],
    window: int | None,
    seed: int,
    chosen: Sequence[np.ndarray] | None = None,
    streams: int = 1,
) -> list[Order | None]:
    """Return the order of the samples of several parts, which are a mixture; None for a part without any. `window`: how
    many frames the shuffle window holds (None: all there are). Of larger data half of it are those that samples are
    drawn from, and half of it those that follow. `chosen`: only these samples of each part. `streams`: how often each
    part is drawn from, through windows of their own. Raises `LattokError` where windows would be tiny."""
    frames = sum(len(part.reader) for part in dict.fromkeys(parts))
    sizes = None if window is None or frames <= window else window_sizes(parts, weights, window, streams)
    found: list[Order | None] = []
    for number, part in enumerate(parts):
        samples = np.arange(len(part)) if chosen is None else chosen[number]
        own = seed if len(parts) == 1 else derive_seed(seed, number)
        if not len(samples):
            found.append(None)
        elif sizes is None:
            found.append(Passes(samples, own))
        else:
            episode_of = np.asarray(part.episode_of)[samples]
            found.append(Lanes(samples, episode_of, sizes[number], own, part.reader.fetched_file_of(episode_of)))
    return found


def window_sizes(parts: Sequence[Samples], weights: Sequence[float], window: int, streams: int = 1) -> list[int]:
    """Return how many samples of each part a lane's window has, so that all lanes' take half of `window` frames."""
    found = []
    for part, weight in zip(parts, weights, strict=True):
        frames = window / 2 / LANES / streams * weight / sum(weights)
        found.append(bisect_right(range(1, window + 1), frames, key=partial(frames_of, part.gaps)))
        if not found[-1]:
            least = math.ceil(window * frames_of(part.gaps, 1) / frames)
            checks.fail("shuffle_window", f"at least {checks.counted(least, 'frame')} for {LANES} lanes", window)
    return found


def frames_of(gaps: Sequence[int], samples: int) -> int:
    """Count the frames of a window at most: those of its samples, and the further ones of each of its clips."""
    clips = -(-samples // MAX_CLIP)
    return samples + sum(clips * min(abs(gap), samples, MAX_CLIP) for gap in gaps)
