"""Losses of the action tokenizer: pure functions over valid elements (P2T Eq. 16 to 18).

"mean" is over all that counts. "sum" is as printed: over the steps and dimensions of a chunk, then the mean over the
batch. Relative to one another the terms are then those of the paper. What autocast rounded is compared in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lattok.nn.blocks import widened


def reconstruction(predicted: Tensor, actions: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error of what is valid (Eq. 16): predicted, actions, valid (bool) [B, H, m]."""
    return _reduced((widened(predicted) - actions).square(), valid, reduction)


def commitment(latents: Tensor, rows: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return |latents - sg(rows)|^2 of valid steps (Eq. 17), [B, H, d], [B, H]: only the encoder moves."""
    return _reduced((widened(latents) - rows.detach()).square(), valid[..., None].expand_as(latents), reduction)


def masked_consistency(re_encoded: Tensor, latents: Tensor, masked: Tensor, reduction: str = "mean") -> Tensor:
    """Compare re-encoded with original latents [B, H, d] at masked steps [B, H] (Eq. 18)."""
    return _reduced((widened(re_encoded) - widened(latents)).square(), masked[..., None].expand_as(latents), reduction)


def _reduced(errors: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Reduce errors [B, H, n] where `counts` (bool, of the same shape) holds."""
    total = (errors * counts).sum()
    return total / max(1, len(errors)) if reduction == "sum" else total / counts.sum().clamp_min(1)


def draw_mask(valid: Tensor, ratio: float) -> Tensor:
    """Mask `ratio` of the valid steps of each sample, bool [B, H]: every one of them with that probability.

    Of n valid steps either ⌊n ratio⌋ or one more are masked, so that their mean is n ratio; hence at least one where
    n ratio is 1 or more.
    """
    wanted = (valid.sum(1) * ratio + torch.rand(len(valid), device=valid.device)).floor()  # b
    order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(1)
    return (order.argsort(1) < wanted[:, None]) & valid  # each step's place in a random order, the valid ones first
