"""What is around a moment: states, and actions that were read of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattok.nn.blocks import onto


def state_changes(states: Tensor, offsets: Sequence[int]) -> Tensor:
    """Return how states [B, F, s] differ from that of the moment, [B, F - 1, s]."""
    place = list(offsets).index(0)
    now = states[:, place : place + 1]
    return torch.cat([states[:, :place], states[:, place + 1 :]], 1) - now


def around_each(series: Tensor, gaps: Sequence[int]) -> Tensor:
    """Return rows [T, F, s] of a series [T, s] at so many frames from each; beyond the ends the first and the last."""
    rows = torch.arange(len(series), device=series.device)[:, None] + onto(torch.tensor(list(gaps)), series.device)
    return series[rows.clamp(0, len(series) - 1)]


def values_at(states: Tensor, anchors: Sequence[int]) -> Tensor:
    """Return the number of states [..., s] that each number of an action is added to, [..., m]; 0 for -1."""
    places = onto(torch.tensor(list(anchors), dtype=torch.long), states.device)
    return torch.where(places >= 0, states[..., places.clamp_min(0)], 0.0)


def smoothed(series: Tensor, reach: int) -> Tensor:
    """Average each row of a series [T, m] with those up to `reach` away; beyond the ends the first and the last."""
    return around_each(series, range(-reach, reach + 1)).mean(1) if reach else series
