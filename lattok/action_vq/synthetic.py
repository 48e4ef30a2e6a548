"""More chunks to fit to, made from chunks: for tokenizers that code whole chunks.

Windows of a small dataset overlap and repeat: codebooks fitted to them alone know its tasks by heart and fail on
others. So each dimension of a new chunk comes from another window, some are mirrored, all are
stretched, and some break off into another chunk, as motions do where a task enters its next phase.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lattok.action_vq.limits import value_range

MIRRORED, SPREAD, BROKEN = 0.15, 0.6, 0.1  # shares, and the deviation of the logarithm of the stretch
REAL_ROWS = 40_000  # more real chunks than this only cost time


def with_synthetic(actions: Tensor, valid: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised actions and mask [N, H, m] to [n, H, m]: a sample of them, followed by `count` synthetic chunks."""
    rows = torch.randperm(len(actions), generator=generator)[:REAL_ROWS].sort()[0]
    made = synthetic(actions, valid, count, generator)
    made_valid = valid.any(1).any(0).expand(made.shape)
    return torch.cat([actions[rows], made]), torch.cat([valid[rows], made_valid])


def synthetic(actions: Tensor, valid: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` new chunks [count, H, m] inside the range of normalised actions [N, H, m]; `valid` [N, H, m].

    Invalid steps of `actions` must be held and dimensions that a chunk does not have must be zero.
    """
    steps, dims = actions.shape[1:]
    new = actions.new_zeros(count, steps, dims)
    for i in range(dims):
        rows = valid[:, 0, i].nonzero()[:, 0]  # chunks of robots that have this dimension
        if len(rows):
            new[..., i] = actions[rows[torch.randint(len(rows), (count,), generator=generator)], :, i]
    low, high = value_range(actions, valid)
    mirrored = torch.rand(count, 1, dims, generator=generator) < MIRRORED
    new = torch.where(mirrored, low + high - new, new)
    middle = new.mean(1, keepdim=True)
    new = middle + (new - middle) * torch.exp(SPREAD * torch.randn(count, 1, dims, generator=generator))
    if steps > 1:
        broken = torch.rand(count, 1, 1, generator=generator) < BROKEN
        cut = torch.where(broken, torch.randint(1, steps, (count, 1, 1), generator=generator), steps)
        other = new[torch.randperm(count, generator=generator)]
        new = torch.where(torch.arange(steps)[:, None] < cut, new, other)
    return new.clamp(low, high)
