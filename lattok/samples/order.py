"""The order in which samples are drawn: a function of the seed and the step alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lattok import checks
from lattok.seeds import derive_seed

MOST_DRAWN = 2**16  # samples of a batch, where the data has fewer


class SeededBatches:
    """Indices of step t: consecutive slices of one shuffled pass after another. A function of (seed, t) alone."""

    def __init__(self, size: int, batch_size: int, seed: int):
        checks.counts(size=size, batch_size=batch_size)
        check_batch_size(batch_size, size)
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._passes: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Indices [batch_size] of step `step`, counted from 0."""
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

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
            self._passes = {k: v for k, v in self._passes.items() if k >= number - 1}
            self._passes[number] = torch.randperm(self.size, generator=generator)
        return self._passes[number]


def check_batch_size(batch_size: int, size: int) -> None:
    """A batch may hold samples more than once, but not beyond reason: drawing it would never end."""
    if batch_size > max(size, MOST_DRAWN):
        checks.fail("batch_size", f"at most {max(size, MOST_DRAWN)} for {size} samples", batch_size)
