"""What families with codes from coarse to fine share: prefixes that decode, limits, and more chunks to fit to.

Windows of a small dataset overlap and repeat: codebooks fitted to them alone know its tasks by heart and fail on
others. So each dimension of a synthetic chunk comes from another window, some are mirrored, all are stretched, and some
break off into another, as at a new phase of a task.
"""

from abc import ABC
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.base import ChunkTokenizer, Repair
from lattok.action_vq.chunks import Arrays, examine, share_of, value_range
from lattok.types import ActionBatch
from lattok.utils.arrays import Values

AT_LIMIT = 0.01  # share of a dimension's entries at its extreme that makes it a limit
MIRRORED, SPREAD, BROKEN = 0.15, 0.6, 0.1  # shares, and the deviation of the logarithm of the stretch
REAL_ROWS = 40_000  # more real chunks than this only cost time


class Limits(nn.Module):
    """Where actions saturate, per dimension: what lies beyond was never commanded, so decoding cuts it off.

    An extreme that few actions reach is no limit: another task may go beyond it.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.low, self.high = (nn.Buffer(torch.full((dim,), end)) for end in (-torch.inf, torch.inf))

    def unsound(self) -> list[str]:
        """Return what is wrong with the limits, as they came from a file; infinite ones are none."""
        sound = (self.low <= self.high) & (self.low < torch.inf) & (self.high > -torch.inf)
        return [] if bool(sound.all()) else ["low must be at most high, and neither the infinity of the other"]

    @torch.no_grad()
    def fit(self, actions: Tensor, valid: Tensor) -> None:
        """Set from normalised actions [N, H, m] where `valid` [N, H, m]."""
        low, high = value_range(actions, valid)
        near = 1e-4 * (high - low)
        enough = AT_LIMIT * valid.sum((0, 1)).clamp_min(1)
        at_low = ((actions <= low + near) & valid).sum((0, 1)) >= enough
        at_high = ((actions >= high - near) & valid).sum((0, 1)) >= enough
        self.low.copy_(torch.where(at_low, low, -torch.inf))
        self.high.copy_(torch.where(at_high, high, torch.inf))

    def forward(self, actions: Tensor) -> Tensor:
        return actions.clamp(self.low, self.high)


class CoarseToFine(ChunkTokenizer, ABC):
    """Base of families whose config has `tokens` and `codebook_size`; the first p codes decode on their own."""

    prefixes = True
    shared_vocabulary: ClassVar[bool] = False  # each position refines what the ones before left
    config: Any

    def __init__(self, config: Any):
        super().__init__(config)
        self.vocab_size, self.tokens_per_chunk = config.codebook_size, config.tokens
        self.limits = Limits(config.action_dim)

    @classmethod
    def _begin(
        cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], how: Any
    ) -> tuple[Self, ActionBatch]:
        model, batch = super()._begin(chunks, valid, options, how)
        model.limits.fit(*model._prepare(*batch))
        return model, batch

    def _repair(self, codes: Tensor) -> Repair:
        """Decode a row up to its first code that is missing or out of range; -1 from there on."""
        length = self.tokens_per_chunk
        codes, bad, notes = examine(codes, length, self.vocab_size)
        if not notes:
            return Repair(codes, bad[:, None, :1], notes)
        known = (bad.cumsum(1) == 0).sum(1)
        codes = torch.where(torch.arange(length, device=codes.device) < known[:, None], codes, -1)
        pairs = zip(notes, known.tolist(), strict=True)
        notes = [f"{note}; decoded from the first {p}" if p < length else note for note, p in pairs]
        return Repair(codes, (known == 0)[:, None, None], notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        return share_of((self.limits(actions) - actions).abs() > 1e-4, valid)


def with_synthetic(actions: Tensor, valid: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample normalised actions and mask [N, H, m], and add `count` synthetic chunks: both [n, H, m]."""
    rows = torch.randperm(len(actions), generator=generator)[:REAL_ROWS].sort()[0]
    made = synthetic(actions, valid, count, generator)
    return torch.cat([actions[rows], made]), torch.cat([valid[rows], valid.any(1).any(0).expand(made.shape)])


def synthetic(actions: Tensor, valid: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Make `count` chunks [count, H, m] inside the range of normalised actions [N, H, m]; `valid` [N, H, m].

    Invalid steps of `actions` must be held and dimensions that a chunk does not have must be zero.
    """
    steps, dims = actions.shape[1:]
    new = actions.new_zeros(count, steps, dims)
    for i in range(dims):
        if len(rows := valid[:, 0, i].nonzero()[:, 0]):  # chunks of robots that have this dimension
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
