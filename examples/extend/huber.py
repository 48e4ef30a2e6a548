"""Latent actions by Huber's loss, which a few wrong labels move less than a squared error."""

import torch.nn.functional as F
from torch import nn

from lattok.labels import LatentSpec
from lattok.nn.losses import reduce_valid
from lattok.vla.supervision import LatentSupervision


class Huber(LatentSupervision):
    """The mean state of a step predicts all of its vectors."""

    kind = "huber"
    parts, sizes, options = ("embedding",), ("vectors", "latent_dim"), ("beta",)

    def __init__(self, dim, vectors, latent_dim, states_per_step=1, beta=1.0):
        super().__init__(dim, states_per_step, LatentSpec(vectors=vectors, latent_dim=latent_dim))
        self.beta, self.head = beta, nn.Linear(dim, vectors * latent_dim)

    def _terms(self, states, target, reduction):  # states [B, S, states_per_step, dim]
        wanted = target.embedding.masked_fill(~target.valid[..., None, None], 0.0).flatten(2)  # b s (e d)
        errors = F.smooth_l1_loss(self.head(states.mean(2)), wanted, beta=self.beta, reduction="none")
        return {"latent": reduce_valid(errors.mean(-1), target.valid, reduction)}
