"""The order of samples whose frames are streamed: shuffled, few episodes at a time, each once per pass.

    pass k        clips (runs of samples of an episode, at most CLIP) in a shuffled order, cut into LANES equal parts
    lane l        goes through its part of pass 0, 1, ... in windows of about `window` samples, each shuffled
    sample g      the next one of lane g mod LANES

Of files that are fetched from the Hub few are needed at a time: they are shuffled and put into groups of FILES. The
clips of each group are cut into LANES equal parts, and a lane goes through its part of one group after the other. The
first groups of all are smaller, so that training need not wait for many files.

Everything follows from (seed, k, l): no process needs to know what was drawn before, and where the number of processes
divides LANES, process r of P gets the same lanes at every step, those with l mod P = r. So each decodes only its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from lattok.samples.frames import Samples
from lattok.samples.order import Shares, check_batch_size
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

LANES = 96  # 1, 2, 3, 4, 6, 8, 12, 16, ... processes share them
CLIP = 256  # samples: seeking costs little beside decoding so many
FILES = 16  # of the Hub that are needed at a time, of each camera; twice as many where one group ends
FIRST = 8  # samples of a lane's first window, so that training begins at once; each next one is twice as large


class Window(NamedTuple):
    """Samples of a lane that are drawn in shuffled order; their frames are needed at the same time."""

    first: int  # number of its first draw in the lane, over all passes
    samples: np.ndarray  # int64 [n], in the order in which they are drawn

    @property
    def end(self) -> int:
        """Return the number of the first draw after it."""
        return self.first + len(self.samples)

    def __contains__(self, draw: object) -> bool:
        return isinstance(draw, int) and self.first <= draw < self.end


class Lanes:
    """The order of the samples of one dataset."""

    def __init__(
        self, samples: np.ndarray, episode_of: np.ndarray, window: int, seed: int, file_of: np.ndarray | None = None
    ):
        """Order `samples` [n], ascending numbers that lie together by `episode_of` [n].

        Of fewer than there are lanes each comes several times in a pass. `file_of` [n] numbers the files from 0, where
        these are fetched.
        """
        checks.counts(window=window, samples=len(samples))
        times = -(-LANES // len(samples))
        samples, episode_of = samples.repeat(times), episode_of.repeat(times)
        self._all, self.window_size, self.seed = samples, window, seed
        borders = np.flatnonzero(np.diff(episode_of, prepend=episode_of[0] - 1, append=episode_of[-1] + 1))
        lengths = np.diff(borders)
        pieces = -(-lengths // min(window, CLIP))  # of each episode, as equal as can be
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
        samples = self._between(number, start + borders[w], start + borders[w + 1])
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number, lane, w))
        return Window(draw - place + borders[w], samples[torch.randperm(len(samples), generator=generator).numpy()])

    def _part(self, lane: int) -> tuple[int, int]:
        """Return where the lane's part of a pass begins, and its size."""
        start, end = (len(self._all) * n // LANES for n in (lane, lane + 1))
        return start, end - start

    def _new_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shuffle the clips: which sample each begins with, and the place after it [clips]."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        order = torch.randperm(len(self._starts), generator=generator).numpy()
        if self._file_of is None:
            return self._starts[order], np.cumsum(self._lengths[order])
        files = int(self._file_of.max()) + 1
        rank = torch.randperm(files, generator=generator).numpy()[self._file_of[order]]
        widths = np.full(files, FILES)
        if number == 0:
            widths[:8] = np.minimum(2 ** np.arange(8), FILES)[:files]
        group = np.searchsorted(np.cumsum(widths), rank, side="right")
        order, group = order[np.argsort(group, kind="stable")], np.sort(group)
        return _dealt(self._starts[order], np.cumsum(self._lengths[order]), group)

    def _new_borders(self, number: int, lane: int) -> list[int]:
        """Cut a lane's part of a pass into windows that end with a clip, but for the small ones that come first."""
        start, size = self._part(lane)
        _, ends = self._pass(number)
        ramp = number == 0
        borders, width = [0], min(FIRST, self.window_size) if ramp else self.window_size
        while borders[-1] < size:
            border = borders[-1] + width
            if width >= self.window_size:
                border = int(ends[min(np.searchsorted(ends, start + border), len(ends) - 1)]) - start
            borders.append(min(border, size))
            width = min(2 * width, self.window_size)
        return borders

    def _between(self, number: int, first: int, last: int) -> np.ndarray:
        """Return the samples at places [first, last) of a pass."""
        starts, ends = self._pass(number)
        low, high = np.searchsorted(ends, [first, last - 1], side="right")
        parts = []
        for clip in range(low, high + 1):
            begin = int(ends[clip - 1]) if clip else 0
            a, b = max(first, begin) - begin, min(last, int(ends[clip])) - begin
            parts.append(self._all[starts[clip] + a : starts[clip] + b])
        return np.concatenate(parts)


def _dealt(starts: np.ndarray, ends: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deal clips, in ascending groups, out to the lanes: each gets its share of each group. Clips may be cut.

    After a group all lanes have had as many samples, but for one, so that none begins with another's end.
    """
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


class Draw(NamedTuple):
    """One sample of a step: draw number `number` of a lane of one dataset."""

    part: int  # which dataset
    lane: int
    number: int


class StreamedBatches:
    """Samples of step t, of one dataset or of several in the proportions of `weights`, in the order of their lanes."""

    def __init__(self, parts: Sequence[Lanes | None], weights: Sequence[float], batch_size: int):
        """A part without samples is None: the others share its weight."""
        checks.counts(batch_size=batch_size)
        check_batch_size(batch_size, sum(len(part) for part in parts if part is not None))
        self.parts, self.batch_size = list(parts), batch_size
        self._shares = Shares(
            [weight if part is not None else 0.0 for part, weight in zip(parts, weights, strict=True)]
        )
        self._windows: dict[tuple[int, int], Window] = {}

    def draws(self, step: int, share: int = 0, shares: int = 1) -> Iterator[Draw]:
        """Yield what share `share` of `shares` draws at a step: rows share, share + shares, ... of the batch."""
        for row in range(share, self.batch_size, shares):
            number, lane = divmod(step * self.batch_size + row, LANES)
            if len(self.parts) == 1:
                yield Draw(0, lane, number)
                continue
            # each lane is a mixture by itself, one draw ahead of the lane before it: of halves, each lane sees both
            begun, before, after = (self._shares.counts(lane + n) for n in (0, number, number + 1))
            part = next(i for i in range(len(after)) if after[i] > before[i])
            yield Draw(part, lane, before[part] - begun[part])

    def _window(self, draw: Draw) -> Window:
        part = self.parts[draw.part]
        assert part is not None  # it has no weight
        found = self._windows.get(draw[:2])
        if found is None or draw.number not in found:
            found = self._windows[draw[:2]] = part.window(draw.lane, draw.number)
        return found

    def samples(self, step: int) -> list[tuple[int, int]]:
        """Return part and sample of each row of step `step`."""
        found = [(draw.part, self._window(draw), draw.number) for draw in self.draws(step)]
        return [(part, int(window.samples[number - window.first])) for part, window, number in found]


def lanes_of(
    parts: Sequence[Samples], chosen: Sequence[np.ndarray] | None, windows: Sequence[int], seed: int
) -> list[Lanes | None]:
    """Return the lanes of several parts; `chosen`: only these samples of each."""
    found: list[Lanes | None] = []
    for number, (part, window) in enumerate(zip(parts, windows, strict=True)):
        samples = np.arange(len(part)) if chosen is None else chosen[number]
        episode_of = np.asarray(part.episode_of)[samples]
        file_of = part.reader.fetched_file_of(episode_of)
        lanes = Lanes(samples, episode_of, window, derive_seed(seed, number), file_of) if len(samples) else None
        found.append(lanes)
    return found
