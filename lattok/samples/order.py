"""Which samples make a batch: of one dataset or of several in given proportions, each a function of its number alone.

counts(n)_i     how many of the first n samples come from dataset i
sample n        is the next draw, number counts(n)_i, of the one dataset whose count it raises

The first half of the datasets gets round(n w) of n samples, the second half the rest, and so on inside each half, in
exact fractions. So counts(n)_i is within d / 2 of n w_i, where 2^d is at least the number of datasets: 1/2 for two of
them, 1 for four. Neither depends on the batch size, the processes or the machine.

Draws of data that the shuffle window holds are shuffled passes over all of it (`Passes`), and a batch is sorted by
dataset. Draws of larger data go through `lanes`, and each lane is a mixture by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lattok.utils import checks
from lattok.utils.seeds import derive_seed

LANES = 96  # 1, 2, 3, 4, 6, 8, 12, 16, ... processes share them
MOST_DRAWN = 2**16  # samples of a batch, where the data has fewer


class Window(NamedTuple):
    """Samples of a lane that are drawn in shuffled order, or some of them in a row."""

    first: int  # number of its first draw in the lane, over all passes
    samples: np.ndarray  # int64 [n], in the order in which they are drawn

    @property
    def end(self) -> int:
        """Return the number of the first draw after it."""
        return self.first + len(self.samples)

    def __contains__(self, draw: object) -> bool:
        return isinstance(draw, int) and self.first <= draw < self.end


class Draw(NamedTuple):
    """One sample of a step: draw number `number` of a lane of one dataset."""

    part: int  # which dataset
    lane: int
    number: int


class Order(Protocol):
    """The order of the samples of one dataset, which LANES lanes share."""

    def __len__(self) -> int: ...

    def window(self, lane: int, draw: int) -> Window:
        """Return the window that draw number `draw` of a lane belongs to, counted from 0."""
        ...


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
        """Return the lane's part of a pass: see `Order`."""
        number = (draw * LANES + lane) // len(self)
        first = max(0, -(-(number * len(self) - lane) // LANES))
        return Window(first, self._pass(number)[first * LANES + lane - number * len(self) :: LANES])

    def _new_pass(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        return self._samples[torch.randperm(len(self), generator=generator).numpy()]


def check_batch_size(batch_size: int, size: int) -> None:
    """A batch may hold samples more than once, but not beyond reason: drawing it would never end."""
    if batch_size > max(size, MOST_DRAWN):
        checks.fail("batch_size", f"at most {max(size, MOST_DRAWN)} for {size} samples", batch_size)


class Shares:
    """How many of the first n samples come from each of several datasets. See the top of this file."""

    def __init__(self, weights: Sequence[float]):
        """Weight 0: none."""
        self._weights = [Fraction(str(weight)) for weight in weights]  # decimal as written: 0.1 and 0.9 are 1
        if not any(self._weights):
            checks.fail("mix", "at least one sample", "none")

    def counts(self, n: int) -> list[int]:
        """Count how many of the first `n` samples come from each dataset."""
        return _shared(n, self._weights)


class Batches:
    """Samples of step t, of one dataset or of several in the proportions of `weights`: a function of t alone."""

    def __init__(self, parts: Sequence[Order | None], batch_size: int, weights: Sequence[float] = (1.0,)):
        """A part without samples is None: the others share its weight."""
        sizes = [0 if part is None else len(part) for part in parts]
        checks.counts(batch_size=batch_size)
        check_batch_size(batch_size, sum(sizes))
        self.parts, self.batch_size, self.weights = list(parts), batch_size, list(weights)
        self._starts = list(accumulate(sizes, initial=0))
        self._passes = [part for part in parts if part is None or isinstance(part, Passes)]
        self.counts = Shares([weight if size else 0.0 for weight, size in zip(weights, sizes, strict=True)]).counts
        self._windows: dict[tuple[int, int], Window] = {}

    @property
    def in_passes(self) -> bool:
        """Tell whether one window holds all samples."""
        return len(self._passes) == len(self.parts)

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
        """Return from which and up to which of its draws each part is drawn at a step."""
        first, last = (self.counts(n * self.batch_size) for n in (step, step + 1))
        return first, last

    def _sample(self, draw: Draw) -> int:
        part = self.parts[draw.part]
        assert part is not None  # it has no weight
        found = self._windows.get(draw[:2])
        if found is None or draw.number not in found:
            found = self._windows[draw[:2]] = part.window(draw.lane, draw.number)
        return int(found.samples[draw.number - found.first])


def _shared(n: int, weights: Sequence[Fraction]) -> list[int]:
    if len(weights) == 1:
        return [n]
    half = len(weights) // 2
    total, first = sum(weights), sum(weights[:half])
    share = math.floor(n * first / total + Fraction(1, 2)) if total else 0
    return _shared(share, weights[:half]) + _shared(n - share, weights[half:])
