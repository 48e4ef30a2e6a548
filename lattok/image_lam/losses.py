"""Losses of the image latent action model: pure functions (P2T Eq. 12 to 14), and further terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lattok import checks


def prediction(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of predicted features of the later frame [B, N, D] (Eq. 12)."""
    return (predicted - target).square().mean()


def action(predicted: Tensor, actions: Tensor, labelled: Tensor) -> Tensor:
    """Mean squared error over labelled samples (Eq. 14): [B, ...] normalised, labelled [B] bool; zero without any."""
    if predicted.shape != actions.shape:
        checks.fail("actions", f"shape {list(predicted.shape)}, as the action head predicts", f"{list(actions.shape)}")
    error = (predicted - actions).square().flatten(1).mean(1)
    return (error * labelled).sum() / labelled.sum().clamp_min(1)


def decorrelation(latents: Tensor) -> Tensor:
    """Squared correlations of a channel with those of another token [B, P, d]: 0 when tokens share nothing, 1 if equal.

    A channel that does not move in the batch is correlated with none.
    """
    batch, tokens, dim = latents.shape
    if tokens == 1:
        return latents.new_zeros(())
    centred = latents - latents.mean(0)
    unit = (centred / centred.std(0, unbiased=False).clamp_min(1e-5)).reshape(batch, tokens * dim)
    correlation = (unit.T @ unit / batch).square().reshape(tokens, dim, tokens, dim)
    between = ~torch.eye(tokens, dtype=torch.bool, device=latents.device)
    return correlation.mean((1, 3))[between].mean() * dim


def additivity(latents: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """How far c(0, k+1) is from c(0, k) + c(k, k+1), [B, pairs, P, d], as a share of the latents' variance.

    The gradient goes through that variance, too: latents that shrink gain nothing.
    """
    place = {tuple(pair): i for i, pair in enumerate(pairs)}
    steps = [k for now, k in place if now == 0 and (0, k + 1) in place]
    whole, first, second = (
        latents[:, [place[key] for key in keys]]
        for keys in ([(0, k + 1) for k in steps], [(0, k) for k in steps], [(k, k + 1) for k in steps])
    )
    spread = whole.var(0, unbiased=False).mean().clamp_min(1e-5)
    return (whole - first - second).square().mean() / spread


def flow(predicted: Tensor, motion: Tensor) -> Tensor:
    """Squared error of predicted motion [B, n] as a share of the motion's variance in the batch."""
    return (predicted - motion).square().mean() / motion.var(unbiased=False).clamp_min(1e-3)
