"""Frames of the samples that are drawn next, decoded ahead in the order in which they are needed.

A window of a lane (see `lanes`) is decoded as a whole, in the order of its videos, kept while samples of it are drawn,
and given up with the next one. So much of the data is in memory at a time as the windows are large.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.samples.frames import DECODERS, Samples
from lattok.samples.lanes import CLIP, LANES, Draw, StreamedBatches, Window
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import cores
from lattok.utils.prefetch import Ahead, Request, Stopped

FEW = 8  # episodes that may be damaged before their share counts
LEAST, MOST = 1, 1024  # samples of a window


class Key(NamedTuple):
    """A draw of one of the `draws`: of its window the first, where it stands for the window."""

    draws: int
    draw: Draw

    @property
    def place(self) -> tuple[int, int, int]:
        """Name what has one window at a time."""
        return self.draws, self.draw.part, self.draw.lane


@dataclass
class Held:
    """A window and its frames."""

    window: Window
    rows: np.ndarray  # [f] ascending
    frames: np.ndarray  # [f, V, h, w, 3], or features [f, V*N, D]
    sound: np.ndarray  # [n] bool: samples all of whose frames could be read
    errors: dict[int, LattokError]  # by episode
    instead: Held | None = None  # where no sample is sound

    @cached_property
    def usable(self) -> np.ndarray:
        """Number the samples that are sound."""
        return np.flatnonzero(self.sound)


class FrameStream:
    """Frames for what `draws` draw from `parts`, decoded ahead by as much as the lanes hold.

    Samples that cannot be read are replaced by others of the same window, or of the next one of their lane that can be
    read; their episodes are in `left_out`.
    """

    def __init__(self, parts: Sequence[Samples], draws: Sequence[StreamedBatches]):
        """`parts` are numbered one after the other; a part that is there twice has one number."""
        self.parts, self.draws = list(parts), list(draws)
        different = list(dict.fromkeys(self.parts))
        starts = dict(zip(different, accumulate((len(part) for part in different), initial=0), strict=False))
        self._firsts = [starts[part] for part in self.parts]
        self._live: dict[tuple[int, int, int], Held] = {}
        self._planned: dict[Key, tuple[Window, np.ndarray]] = {}
        self._ahead: Callable[[Key], Held] = self._decode
        self.left_out: dict[tuple[str, int], str] = {}
        self._tried: set[tuple[str, int]] = set()

    @contextmanager
    def started(self, first: int, last: int, own: Sequence[int], shares: int) -> Iterator[None]:
        """Decode ahead for steps [first, last) of the shares `own` out of `shares`, each taken in this order."""
        if LANES * len(own) % shares:
            expected = f"a number of processes that divides {LANES} where frames are streamed"
            checks.fail("accelerate", expected, shares // len(own), "Or raise memory_gb, so that all stay in memory.")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this machine
        threads = max(1, min(DECODERS, cores() // here))
        try:
            with Ahead(self._decode, self._jobs(first, last, own, shares), self._room() // here, threads) as ahead:
                self._ahead = ahead
                yield
        finally:
            self._ahead = self._decode
            self._live.clear()
            self._planned.clear()

    def _room(self) -> int:
        """Count the bytes of one window of every lane, as many as are decoded ahead."""
        both = [(part, lanes) for draws in self.draws for part, lanes in zip(self.parts, draws.parts, strict=True)]
        return sum(LANES * lanes.window_size * part.reader.frame_bytes for part, lanes in both if lanes)

    def samples(self, step: int) -> Tensor:
        """Return all samples of a step, whoever takes them, numbered over all parts."""
        found = [one for draws in self.draws for one in draws.samples(step)]
        return torch.tensor([self._firsts[part] + sample for part, sample in found])

    def take(self, step: int, share: int, shares: int) -> tuple[Tensor, Tensor]:
        """Return the samples [B] of a share of a step, numbered over all parts, and their frames [B, k, V, h, w, 3]."""
        drawn = [
            Key(number, draw) for number, draws in enumerate(self.draws) for draw in draws.draws(step, share, shares)
        ]
        found = [(key.draw.part, *self._sample(key)) for key in drawn]
        indices = torch.tensor([self._firsts[part] + sample for part, sample, _ in found])
        rows = np.stack([self.parts[part].frame_rows(np.array([sample]))[0] for part, sample, _ in found])
        some = found[0][2].frames
        frames = np.empty((*rows.shape, *some.shape[1:]), dtype=some.dtype)
        for row, (_, _, held), out in zip(rows, found, frames, strict=True):
            for k, place in enumerate(np.searchsorted(held.rows, row).tolist()):
                out[k] = held.frames[place]
        return indices, torch.from_numpy(frames)

    def _sample(self, key: Key) -> tuple[int, Held]:
        """Return the sample of a draw, or what stands in for it, and the window with its frames."""
        held = self._live.get(key.place)
        if held is None or key.draw.number not in held.window:
            held = self._live[key.place] = self._ahead(self._first(key))
            self._note(key, held)
        place = key.draw.number - held.window.first
        if not held.sound[place]:
            while not len(held.usable):
                held.instead = held.instead or self._after(key, held)
                held = held.instead
            place = int(held.usable[place % len(held.usable)])
        return int(held.window.samples[place]), held

    def _after(self, key: Key, held: Held) -> Held:
        """Return the next window of a lane."""
        found = self._decode(Key(key.draws, key.draw._replace(number=held.window.end)))
        self._note(key, found)
        return found

    def _first(self, key: Key) -> Key:
        return Key(key.draws, key.draw._replace(number=self._window(key).first))

    def _window(self, key: Key) -> Window:
        part = self.draws[key.draws].parts[key.draw.part]
        assert part is not None  # nothing is drawn from it
        return part.window(key.draw.lane, key.draw.number)

    def _jobs(self, first: int, last: int, own: Sequence[int], shares: int) -> Iterator[Request]:
        """Yield the windows in the order in which they are needed."""
        known: dict[tuple[int, int, int], Window] = {}
        for step in range(first, last):
            for share in own:
                for number, draws in enumerate(self.draws):
                    for draw in draws.draws(step, share, shares):
                        key = Key(number, draw)
                        if (window := known.get(key.place)) is None or draw.number not in window:
                            key = self._first(key)
                            known[key.place], rows = self._planned[key] = self._plan(key)
                            yield Request((key,), len(rows) * self.parts[draw.part].reader.frame_bytes)

    def _plan(self, key: Key) -> tuple[Window, np.ndarray]:
        """Return a window and the rows of its frames."""
        window = self._window(key)
        return window, np.unique(self.parts[key.draw.part].frame_rows(window.samples))

    def _decode(self, key: Key, stopped: Stopped = lambda: False) -> Held:
        window, rows = self._planned.pop(key, None) or self._plan(key)
        part = self.parts[key.draw.part]
        frames, errors = part.reader.rows(rows, stopped)
        owner = part.reader.episode_of(part.frame_rows(window.samples))
        return Held(window, rows, frames, np.array(~np.isin(owner, list(errors)).any(1)), errors)

    def _note(self, key: Key, held: Held) -> None:
        """Say once which episodes cannot be read; an error where they are most of those that were tried."""
        reader = self.parts[key.draw.part].reader
        name = reader.dataset.name
        self._tried.update((name, index) for index in np.unique(reader.episode_of(held.rows)).tolist())
        for index, error in held.errors.items():
            if (name, index) not in self.left_out:
                self.left_out[name, index] = str(error)
                checks.warn(f"episode {index} of {name} is left out: {error}", stacklevel=2)
        count, tried = len(self.left_out), len(self._tried)
        if count > min(FEW, sum(len(part.reader.episodes) for part in self.parts) / 2) and count > tried / 2:
            last = next(reversed(self.left_out.values()))
            raise LattokError(f"{count} of the first {tried} episodes cannot be read, the last one: {last}")


def window_sizes(parts: Sequence[Samples], weights: Sequence[float], memory: float, streams: int = 1) -> list[int]:
    """Return how many samples a window of each part has, so that the windows of all lanes take half of `memory` bytes.

    The other half is for those that follow. `streams` draw from each part, with windows of their own. Of at most MOST
    samples all is shuffled well enough. Raises `LattokError` where windows would be next to nothing.
    """
    found = []
    for part, weight in zip(parts, weights, strict=True):
        frames = memory / 2 / LANES / streams * weight / sum(weights) / part.reader.frame_bytes
        found.append(bisect_right(range(1, MOST + 1), frames, key=partial(_most_frames, part.gaps)))
        if found[-1] < LEAST:
            least = memory / 1e9 * _most_frames(part.gaps, LEAST) / frames
            hint = "Or choose a smaller image_size, or fewer cameras."
            checks.fail("memory_gb", f"at least {least:.2g} for images of this size", f"{memory / 1e9:.2g}", hint)
    return found


def _most_frames(gaps: Sequence[int], samples: int) -> int:
    """Count the frames of a window: those of its samples, and the further ones of each of its clips."""
    clips = -(-samples // CLIP)
    return samples + sum(clips * min(gap, samples, CLIP) for gap in gaps)
