"""Which samples make a batch: of one dataset or of several in given proportions, each a function of its number alone.

counts(n)_i     how many of the first n samples come from dataset i
sample n        is the next draw, number counts(n)_i, of the one dataset whose count it raises

The first half of the datasets gets round(n w) of n samples, the second half the rest, and so on inside each half, in
exact fractions. So counts(n)_i is within d / 2 of n w_i, where 2^d is at least the number of datasets: 1/2 for two of
them, 1 for four. Draws of one dataset are shuffled passes. Neither depends on the batch size or the processes. For
samples whose frames are streamed see `lanes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from lattok.utils import checks
from lattok.utils.seeds import derive_seed

MOST_DRAWN = 2**16  # samples of a batch, where the data has fewer


class SeededBatches:
    """Indices of step t: consecutive slices of one shuffled pass after another. A function of (seed, t) alone."""

    def __init__(self, size: int, batch_size: int, seed: int):
        checks.counts(size=size, batch_size=batch_size)
        check_batch_size(batch_size, size)
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._pass = lru_cache(2)(self._new_pass)

    def __call__(self, step: int) -> Tensor:
        """Return indices [batch_size] of step `step`, counted from 0."""
        return self.draws(step * self.batch_size, self.batch_size)

    def draws(self, position: int, left: int) -> Tensor:
        """Indices [left] of the draws from number `position` on, counted from 0."""
        parts = []
        while left:
            number, offset = divmod(position, self.size)
            part = self._pass(number)[offset : offset + left]
            parts.append(part)
            position, left = position + len(part), left - len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def _new_pass(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        return torch.randperm(self.size, generator=generator)


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


class MixedBatches:
    """Rows of step t, in the order of the datasets, when these lie one after the other. See the top of this file."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int):
        """`sizes`: samples of each dataset; one without any gives none, and the others share its weight."""
        checks.counts(batch_size=batch_size)
        check_batch_size(batch_size, sum(sizes))
        self.batch_size = batch_size
        self._starts = list(accumulate(sizes, initial=0))
        self._passes = [SeededBatches(size, 1, derive_seed(seed, i)) if size else None for i, size in enumerate(sizes)]
        self.counts = Shares([w if size else 0 for w, size in zip(weights, sizes, strict=True)]).counts

    def __call__(self, step: int) -> Tensor:
        """Return rows [batch_size] of step `step`, counted from 0."""
        before, after = (self.counts(n) for n in (step * self.batch_size, (step + 1) * self.batch_size))
        parts = zip(self._starts[:-1], self._passes, before, after, strict=True)
        return torch.cat([start + passes.draws(k, last - k) for start, passes, k, last in parts if passes is not None])


def _shared(n: int, weights: Sequence[Fraction]) -> list[int]:
    if len(weights) == 1:
        return [n]
    half = len(weights) // 2
    total, first = sum(weights), sum(weights[:half])
    share = math.floor(n * first / total + Fraction(1, 2)) if total else 0
    return _shared(share, weights[:half]) + _shared(n - share, weights[half:])
