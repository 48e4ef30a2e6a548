"""Losses of latent actions (Eq. 5 to 10), pure functions over valid elements; their means: `lattok.nn.losses`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from lattok.nn.losses import reduce_valid


def alignment(projected: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return 1 - cosine of projected states [B, S, d] and latent actions [B, S, P, d] pooled over P (Eq. 5 plus 1)."""
    target = reduce(embedding.masked_fill(~valid[..., None, None], 0.0), "b s p d -> b s d", "mean")
    return reduce_valid(1 - F.cosine_similarity(projected.float(), target, dim=-1), valid, reduction)


def code_cross_entropy(logits: Tensor, codes: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return -log softmax(logits)[code] (Eq. 6, 7, 10), logits [B, S, P, K], codes [B, S, P]: one code a state."""
    safe = codes.masked_fill(~valid[..., None], 0)  # labels that are not there are -1
    losses = F.cross_entropy(rearrange(logits.float(), "b s p k -> b k s p"), safe, reduction="none")  # b s p
    return reduce_valid(losses.mean(-1), valid, reduction, losses.shape[-1])


def regression(predicted: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error of predicted latent actions [B, S, P, d] (section 5.4, continuous variants)."""
    errors = (predicted.float() - embedding.masked_fill(~valid[..., None, None], 0.0)).square()
    return reduce_valid(errors.mean((-1, -2)), valid, reduction, errors.shape[-1] * errors.shape[-2])


def distillation(predicted: Tensor, embedding: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error plus KL(p(predicted) || p(embedding)) of latent actions [B, S, P, d] (LatBot, Eq. 4).

    p is the softmax over the d numbers of a latent action.
    """
    target = embedding.masked_fill(~valid[..., None, None], 0.0)
    own, teacher = predicted.float().log_softmax(-1), target.log_softmax(-1)
    divergence = (own.exp() * (own - teacher)).sum(-1)  # b s p
    divergence = reduce_valid(divergence.mean(-1), valid, reduction, divergence.shape[-1])
    return regression(predicted, embedding, valid, reduction) + divergence


@torch.no_grad()
def code_accuracy(logits: Tensor, codes: Tensor, valid: Tensor) -> Tensor:
    """Return the share of valid codes [B, S, P] with the largest logit, averaged as the losses are; 0 where none is."""
    return reduce_valid((logits.argmax(-1) == codes).float().mean(-1), valid)
