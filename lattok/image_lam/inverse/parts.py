"""Networks of `InverseDynamics`: one member, and the forward model that video without actions teaches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import BOTTLENECKS
from lattok.image_lam.inverse.config import InverseDynamicsConfig
from lattok.types import Quantized

SMALLEST = 4  # places on a side that convolutions leave
GROUPS = 8  # of channels that are normalised together
COARSE = 16  # places on a side of what `loss_forward` predicts


class ForwardModel(nn.Module):
    """What the last frame differs by from that of the moment, as coarse maps, from the latter's map and z [B, d]."""

    def __init__(self, config: InverseDynamicsConfig, channels: int):
        super().__init__()
        width, views = config.channels[0], len(config.cameras)  # as fast as what it teaches
        self.now, self.told = nn.Conv2d(channels, width, 3, 1, 1), nn.Linear(config.latent_dim, views * width)
        layers = [nn.GELU(), nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(GROUPS, width), nn.GELU()]
        self.rest = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, now: Tensor, z: Tensor) -> Tensor:
        views = now.shape[1]
        told = self.told(z).reshape(len(z) * views, -1, 1, 1)
        return self.rest(self.now(now.flatten(0, 1)) + told).unflatten(0, (-1, views))


class Member(nn.Module):
    """One network: clips to latents, these through the bottleneck, and what is read from them."""

    def __init__(self, config: InverseDynamicsConfig, channels: int, side: int, known: int):
        """`channels` of a frame's map; `known`: numbers of task and proprio, next to z."""
        super().__init__()
        d, hidden = config.latent_dim, config.hidden
        kind, self.tokens = BOTTLENECKS[config.quantizer], config.tokens
        self.positions = 1 if kind.levels else config.tokens

        def reader(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))

        inputs = len(config.offsets) - (not config.frame_seen)
        layers: list[nn.Module] = []
        for before, width in pairwise([inputs * channels, *config.channels]):
            stride = 2 if side > SMALLEST else 1
            side = (side + stride - 1) // stride
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.GroupNorm(GROUPS, width), nn.GELU()]
        self.encoder = nn.Sequential(*layers)
        self.project = nn.Linear(len(config.cameras) * config.channels[-1] * side**2, d)
        self.head = reader(d + known, config.action_dim)
        self.flow_head = reader(d, len(config.cameras) * 2 * losses.CELLS**2) if config.loss_flow > 0 else None
        self.ahead = ForwardModel(config, channels) if config.loss_forward > 0 else None
        options: dict[str, Any] = {"frozen": False, "variational": config.loss_kl > 0}
        self.bottleneck = kind.build(dim=d // self.positions, tokens=self.tokens, codebook=config.codebook, **options)

    def encode(self, maps: Tensor) -> Tensor:
        """Turn maps [B, V, channels, side, side] into latents [B, d]."""
        return self.project(self.encoder(maps.flatten(0, 1)).reshape(len(maps), -1))

    def narrow(self, latents: Tensor, update: bool = True) -> Quantized:
        """Put latents [B, d] through the bottleneck: vectors [B, d], and codes [B, tokens] where it has any."""
        found = self.bottleneck(latents.unflatten(1, (self.positions, -1)), update)
        return found._replace(vectors=found.vectors.flatten(1), codes=found.codes.flatten(1))


def coarse(maps: Tensor) -> Tensor:
    """Average maps [B, V, side, side, D] over squares, [B, V, D, COARSE, COARSE] at most."""
    found = rearrange(maps, "b v y x d -> b v d y x")
    side = min(COARSE, found.shape[-1])
    return F.adaptive_avg_pool2d(found.flatten(0, 1), side).unflatten(0, maps.shape[:2])
