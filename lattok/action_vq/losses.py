"""Losses of the action tokenizer: pure functions, means over valid elements (P2T Eq. 16 to 18)."""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruction(predicted: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over what is valid (Eq. 16): predicted, actions, valid (bool) [B, H, m]."""
    error = (predicted - actions).square()
    return (error * valid).sum() / valid.sum().clamp_min(1)


def commitment(latents: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
    """Mean of |latents - sg(rows)|^2 over valid steps (Eq. 17): the encoder moves, the codebook does not."""
    error = (latents - rows.detach()).square().mean(-1)
    return (error * valid).sum() / valid.sum().clamp_min(1)


def masked_consistency(re_encoded: Tensor, latents: Tensor, masked: Tensor, reduction: str = "mean") -> Tensor:
    """Re-encoded against original latents [B, H, d] at masked steps [B, H] (Eq. 18).

    "mean": over masked elements; "sum": over steps and channels, mean over the batch, as printed.
    """
    error = (re_encoded - latents).square() * masked[..., None]
    if reduction == "sum":
        return error.sum() / len(latents)
    return error.sum() / (masked.sum().clamp_min(1) * latents.shape[-1])


def draw_mask(valid: Tensor, ratio: float) -> Tensor:
    """Mask each valid step [B, H] with probability `ratio`, at least one per sample that has a valid step."""
    score = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0)
    first = torch.zeros_like(valid).scatter_(1, score.argmin(1, keepdim=True), True)
    return ((score < ratio) | first) & valid
