"""Where actions saturate: a decoder that knows it never commands what was never commanded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

AT_LIMIT = 0.01  # share of a dimension's entries at its extreme that makes it a limit


class Limits(nn.Module):
    """Where actions saturate, per dimension: what lies beyond was never commanded, so decoding cuts it off.

    An extreme that few actions reach is no limit: another task may go beyond it.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("low", torch.full((dim,), -torch.inf))
        self.register_buffer("high", torch.full((dim,), torch.inf))
        self.low: Tensor
        self.high: Tensor

    def unsound(self) -> list[str]:
        """What is wrong with the limits, as they came from a file; infinite ones are none."""
        return [] if bool((self.low <= self.high).all()) else ["low must be at most high"]

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
        """Actions [..., m], cut off at the limits."""
        return actions.clamp(self.low, self.high)

    def beyond(self, actions: Tensor, valid: Tensor) -> float:
        """Share of the valid entries of actions [B, H, m] that lie beyond the limits."""
        outside = (self(actions) - actions).abs() > 1e-4
        return float((outside & valid).sum() / valid.sum().clamp_min(1))


def value_range(actions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest valid entry of each dimension, [m]; zeros where there is none."""
    low = torch.where(valid, actions, torch.inf).flatten(0, 1).amin(0)
    high = torch.where(valid, actions, -torch.inf).flatten(0, 1).amax(0)
    seen = low <= high
    return torch.where(seen, low, 0.0), torch.where(seen, high, 0.0)
