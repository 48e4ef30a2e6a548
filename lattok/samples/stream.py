"""Frames of the samples that are drawn: kept in memory, or decoded ahead in the order in which they are needed.

Memory decides how often frames are decoded, never which samples are drawn. Where all fit into it they are decoded once.
Otherwise a window of a lane (see `order`) is decoded as a whole, in the order of its videos, kept while samples of it
are drawn, and given up with the next one. Where not even the windows fit, so many draws of each are decoded together
as do, and frames that several of them show are decoded again.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from lattok.samples.frames import CAN_SHARE, DECODERS, Samples, all_gather
from lattok.samples.order import LANES, BatchSampler, Draw, Lanes, Order, Window, frames_of
from lattok.training import init_process_group
from lattok.utils import checks
from lattok.utils.devices import cores, memory_bytes
from lattok.utils.parallel import Prefetcher, Request
from lattok.utils.progress import ProgressBar

MEMORY_SHARE = 0.5  # of the machine's memory, unless `memory_gb` says how much
WINDOW_BYTES = 8e9  # of the frames that samples are shuffled among: what a machine of 16 GB keeps
MIN_DAMAGED = 8  # episodes that may be damaged before their share counts


@dataclass
class DecodedWindow:
    window: Window  # or those of its draws that are decoded together
    rows: np.ndarray  # [f] ascending
    frames: np.ndarray  # [f, V, h, w, 3], or features [f, V*N, D]
    sound: np.ndarray  # [n] bool: samples all of whose frames could be read
    errors: dict[int, checks.LattokError]  # by episode
    instead: "DecodedWindow | None" = None  # what was decoded in place of samples that are not sound


class FrameStream:
    """Frames for what `draws` draw from `parts`. A sample that cannot be read is replaced by the one that its lane
    draws a window later, or two, whatever the memory; the episodes of such samples are in `left_out`."""

    def __init__(self, parts: Sequence[Samples], draws: Sequence[BatchSampler], memory: float | None = None):
        """`parts` are numbered one after the other, each once. `memory`: bytes for frames on this machine; None: parts
        keep theirs, and nothing is decoded here. Raises `LattokError` where not even one draw of each lane fits in."""
        self.parts, self.draws, self.kept = list(parts), list(draws), memory is None
        different = list(dict.fromkeys(self.parts))
        starts = dict(zip(different, accumulate((len(part) for part in different), initial=0), strict=False))
        self._firsts = [starts[part] for part in self.parts]
        self._orders: list[Any] = [order for each in self.draws for order in each.parts]  # of all, one after the other
        self._together = {} if memory is None else self._count_together(memory)
        self._live: dict[tuple[int, int], DecodedWindow] = {}  # by number of the order and lane
        self._ahead: Callable[[Draw], DecodedWindow] = self._decode
        self.left_out: dict[tuple[str, int], str] = {}
        self._tried: set[tuple[str, int]] = set()

    def _used(self) -> Iterator[tuple[int, Order, Samples]]:
        """Yield the orders that are drawn from, with their numbers and their samples."""
        yield from ((i, order, self._part(i)) for i, order in enumerate(self._orders) if order is not None)

    def _part(self, number: int) -> Samples:
        return self.parts[number % len(self.parts)]

    def _count_together(self, memory: float) -> dict[int, int]:
        """Return how many draws of a window are decoded together, by number of the order."""
        windows = {i: order.window_size for i, order, _ in self._used() if isinstance(order, Lanes)}
        each = [(self._part(i), size) for i, size in windows.items()]
        held = LANES * sum(frames_of(part.gaps, size) * part.reader.frame_bytes for part, size in each)
        if windows and 2 * held <= memory:
            return dict.fromkeys(windows, sys.maxsize)  # they end with a clip, so that some are longer than their size
        found = {}
        for i, _, part in self._used():
            draws = self.draws[i // len(self.parts)]
            share = draws.weights[i % len(self.parts)] / sum(draws.weights) / len(self.draws)
            # a mixture in passes is sorted by dataset, so that each process draws from all lanes
            users = _processes_here() if draws.in_passes and len(draws.parts) > 1 else 1
            found[i] = memory / 2 / LANES / users * share / part.reader.frame_bytes / (1 + len(part.gaps))
        if (least := min(found.values())) < 1:
            hint = "Or choose a smaller image_size, or fewer cameras."
            expected = f"at least {memory / least / 1e9:.2g} for images of this size"
            checks.fail("memory_gb", expected, f"{memory / 1e9:.2g}", hint)
        return {i: int(min(found[i], windows.get(i, len(order)))) for i, order, _ in self._used()}

    @contextmanager
    def started(self, first: int, last: int, own: Sequence[int], shares: int) -> Iterator[None]:
        """Decode ahead for steps [first, last) of the shares `own` out of `shares`, each taken in this order."""
        if self.kept:
            yield
            return
        if LANES * len(own) % shares:
            expected = f"a number of processes that divides {LANES} where frames are streamed"
            checks.fail("accelerate", expected, shares // len(own), "Or raise memory_gb, so that all stay in memory.")
        here = _processes_here()
        threads = max(1, min(DECODERS, cores() // here))
        try:
            with Prefetcher(self._decode, self._jobs(first, last, own, shares), self._room() // here, threads) as ahead:
                self._ahead = ahead
                yield
        finally:
            self._ahead = self._decode
            self._live.clear()

    def _room(self) -> int:
        """Count the bytes of what is decoded together of every lane, as many as are decoded ahead."""
        total = 0
        for i, order, part in self._used():
            frames = self._together[i] * (1 + len(part.gaps))
            if isinstance(order, Lanes) and self._together[i] == sys.maxsize:
                frames = order.window_size
            total += LANES * frames * part.reader.frame_bytes
        return total

    def samples(self, step: int) -> Tensor:
        """Return all samples of a step, whoever takes them, numbered over all parts."""
        return torch.cat([draws.samples(step, self._firsts) for draws in self.draws])

    def take(self, step: int, share: int, shares: int) -> tuple[Tensor, Tensor | None]:
        """Return the samples [B] of a share of a step, numbered over all parts, and their frames [B, k, V, h, w, 3].
        None in place of frames that `parts` keep."""
        if self.kept:
            return self.samples(step)[share::shares], None
        found = [(draw.part % len(self.parts), *self._sample(draw)) for draw in self._draws(step)[share::shares]]
        indices = torch.tensor([self._firsts[part] + sample for part, sample, _ in found])
        rows = np.stack([self.parts[part].frame_rows(np.array([sample]))[0] for part, sample, _ in found])
        some = found[0][2].frames
        frames = np.empty((*rows.shape, *some.shape[1:]), dtype=some.dtype)
        for row, (_, _, held), out in zip(rows, found, frames, strict=True):
            out[:] = held.frames[np.searchsorted(held.rows, row)]
        return indices, torch.from_numpy(frames)

    def record(self) -> dict[str, Any]:
        """Return what a run says of episodes that could not be read, in any process: dataset and index of each."""
        found = sorted({one for each in all_gather(list(self.left_out)) for one in each})
        return {"left_out": [list(one) for one in found]} if found else {}

    def _draws(self, step: int) -> list[Draw]:
        """Return the draws of a step, with the numbers of their orders as parts."""
        each = [(number * len(self.parts), draws.draws(step)) for number, draws in enumerate(self.draws)]
        return [draw._replace(part=first + draw.part) for first, draws in each for draw in draws]

    def _sample(self, draw: Draw) -> tuple[int, DecodedWindow]:
        """Return the sample of a draw, or what stands in for it, and what was decoded with it."""
        if (held := self._live.get(draw[:2])) is None or draw.number not in held.window:
            held = self._live[draw[:2]] = self._ahead(self._first(draw))
            self._note(draw, held)
        tries = 0
        while not held.sound[draw.number - held.window.first]:
            order = self._orders[draw.part]
            if (tries := tries + 1) > len(order):
                raise next(reversed(held.errors.values()))
            draw = draw._replace(number=draw.number + len(order.window(draw.lane, draw.number).samples))
            if held.instead is None or draw.number not in held.instead.window:
                held.instead = self._decode(self._first(draw))
                self._note(draw, held.instead)
            held = held.instead
        return int(held.window.samples[draw.number - held.window.first]), held

    def _first(self, draw: Draw) -> Draw:
        return draw._replace(number=self._window(draw).first)

    def _window(self, draw: Draw) -> Window:
        """Return the draws that are decoded together with `draw`."""
        window = self._orders[draw.part].window(draw.lane, draw.number)
        count = self._together[draw.part]
        first = (draw.number - window.first) // count * count
        return Window(window.first + first, window.samples[first : first + count])

    def _jobs(self, first: int, last: int, own: Sequence[int], shares: int) -> Iterator[Request]:
        known: dict[tuple[int, int], Window] = {}
        for step in range(first, last):
            for share in own:
                for draw in self._draws(step)[share::shares]:
                    if (window := known.get(draw[:2])) is None or draw.number not in window:
                        draw = self._first(draw)
                        known[draw[:2]], rows = self._plan(draw)
                        yield Request((draw,), len(rows) * self._part(draw.part).reader.frame_bytes)

    def _plan(self, draw: Draw) -> tuple[Window, np.ndarray]:
        window = self._window(draw)
        return window, np.unique(self._part(draw.part).frame_rows(window.samples))

    def _decode(self, draw: Draw) -> DecodedWindow:
        window, rows = self._plan(draw)
        part = self._part(draw.part)
        frames, sound, errors = part.reader.rows(rows)
        places = np.searchsorted(rows, part.frame_rows(window.samples))
        return DecodedWindow(window, rows, frames, np.asarray(sound[places].all(1)), errors)

    def _note(self, draw: Draw, held: DecodedWindow) -> None:
        """Say once which episodes cannot be read; an error where they are most of those that were tried."""
        reader = self._part(draw.part).reader
        name = reader.dataset.name
        self._tried.update((name, index) for index in np.unique(reader.episode_of(held.rows)).tolist())
        for index, error in held.errors.items():
            if (name, index) not in self.left_out:
                self.left_out[name, index] = str(error)
                checks.warn(f"episode {index} of {name} is left out: {error}", stacklevel=2)
        count, tried = len(self.left_out), len(self._tried)
        if count > min(MIN_DAMAGED, sum(len(part.reader.episodes) for part in self.parts) / 2) and count > tried / 2:
            last = next(reversed(self.left_out.values()))
            raise checks.LattokError(
                f"{count} of the first {checks.counted(tried, 'episode')} cannot be read, the last one: {last}"
            )


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def keep_frames(
    parts: Sequence[Any], window: int | None, memory_gb: float, device: str, keep: Callable[[], None] | None = None
) -> float | None:
    """Decode the frames of all `parts` into memory, if they fit; otherwise return the bytes there are for them.
    `window`: frames of the shuffle window; None where samples have no frames. `memory_gb`: room on each machine, 0:
    half of its memory. `keep` does something else where they fit. All processes, which train on `device`, do the same,
    as the smallest machine needs it. Frames that cannot be read are left to `FrameStream`."""
    if window is None:
        return None
    init_process_group(device)
    different = list(dict.fromkeys(parts))
    here = 1 if CAN_SHARE else _processes_here()  # each of which would keep all
    size = sum(part.reader.bytes for part in different)
    memory = min(all_gather(memory_gb * 1e9 or MEMORY_SHARE * memory_bytes()))
    reader = parts[0].reader
    fits, window_bytes = size * here <= memory, min(window * reader.frame_bytes, size)
    how = reader.kept if fits else f"streamed through {_amount(min(memory, window_bytes))} of it"
    if not fits and window_bytes > memory:
        how += f", slowly: the shuffle window takes {_amount(window_bytes)}"
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    say = partial(print, file=sys.stderr) if first else lambda text: None
    say(f"{reader.what} take {_amount(size)} of memory: {how}")
    if not fits:
        return memory
    try:
        for part in different if keep is None else ():
            with ProgressBar("decode") as progress:
                part.frames = part.reader.all(progress=progress, shared=True)
        if keep is not None:
            keep()
    except checks.LattokError as error:
        for part in different:
            vars(part).pop("frames", None)
        say(f"{reader.what} are read when they are needed, since not all can be: {error}")
        return memory
    return None


def _amount(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
