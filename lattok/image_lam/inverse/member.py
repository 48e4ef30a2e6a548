"""The networks of an inverse dynamics model, which are trained separately."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import BOTTLENECKS
from lattok.image_lam.inverse.config import InverseDynamicsConfig
from lattok.nn.blocks import onto
from lattok.types import Quantized

SMALLEST = 4  # places on a side that convolutions leave
GROUPS = 8  # of channels that are normalised together
COARSE = 16  # places on a side of what `loss_forward` predicts


class ForwardModel(nn.Module):
    """What the last frame differs by from that of the moment, as coarse maps, from the latter's map and z [B, d]."""

    def __init__(self, config: InverseDynamicsConfig, channels: int):
        super().__init__()
        width, views = config.channels[0], config.views or len(config.cameras)  # as fast as what it teaches
        self.views = views
        self.now, self.told = nn.Conv2d(channels, width, 3, 1, 1), nn.Linear(config.latent_dim, views * width)
        layers = [nn.GELU(), nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(GROUPS, width), nn.GELU()]
        self.rest = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, now: Tensor, z: Tensor, places: Sequence[int] = ()) -> Tensor:
        views = now.shape[1]
        shift = of_own(self.told(z), places, self.views).reshape(len(z) * views, -1, 1, 1)
        return self.rest(self.now(now.flatten(0, 1)) + shift).unflatten(0, (-1, views))


def of_own(numbers: Tensor, places: Sequence[int], views: int) -> Tensor:
    """Return what is said [B, V * n] of the cameras in these places, from [B, views * n] of all; no places: all."""
    if not places:
        return numbers
    return numbers.unflatten(1, (views, -1)).index_select(1, onto(torch.tensor(places), numbers.device)).flatten(1)


class Member(nn.Module):
    """One network: clips to latents, these through the bottleneck, and what is read from them."""

    def __init__(
        self, config: InverseDynamicsConfig, channels: int, side: int, robots: Sequence[InverseDynamicsConfig] = ()
    ):
        """`channels` of a frame's map, of `side` x `side` places; `robots`: of each of several datasets."""
        super().__init__()
        self.config, views = config, config.views or len(config.cameras)
        d, hidden = config.latent_dim, config.hidden
        kind, self.tokens = BOTTLENECKS[config.quantizer], config.tokens
        self.positions = 1 if kind.levels else config.tokens

        def reader(inputs: int, outputs: int) -> nn.Module:
            if not hidden:
                return nn.Linear(inputs, outputs)
            return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))

        inputs = len(config.offsets) - (not config.frame_seen)
        layers: list[nn.Module] = []
        for before, width in pairwise([inputs * channels, *config.channels]):
            stride = 2 if side > SMALLEST else 1
            side = (side + stride - 1) // stride
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.GroupNorm(GROUPS, width), nn.GELU()]
        self.encoder = nn.Sequential(*layers)
        self.project = nn.Linear(views * config.channels[-1] * side**2, d)
        heads = [reader(d + each.told, each.action_dim) for each in robots or [config]]
        self.head: Any = nn.ModuleList(heads) if robots else heads[0]
        self.flow_head = reader(d, views * 2 * losses.CELLS**2) if config.loss_flow > 0 else None
        self.ahead = ForwardModel(config, channels) if config.loss_forward > 0 else None
        options: dict[str, Any] = {"frozen": False, "variational": config.loss_kl > 0}
        self.bottleneck = kind.build(dim=d // self.positions, tokens=self.tokens, codebook=config.codebook, **options)

    def of(self, place: int, config: InverseDynamicsConfig) -> "Member":
        """Return the network with the head of one of several datasets; the rest is shared."""
        own = copy.copy(self)
        own._modules = {**self._modules, "head": self.head[place]}
        own.config = config
        return own

    def encode(self, maps: Tensor) -> Tensor:
        """Turn maps [B, V, channels, side, side] into latents [B, d]."""
        seen, config = self.encoder(maps.flatten(0, 1)).reshape(*maps.shape[:2], -1), self.config
        if config.places:  # nothing is seen where the dataset has no camera
            places = onto(torch.tensor(config.places), seen.device)
            seen = seen.new_zeros(len(seen), config.views, seen.shape[2]).index_copy(1, places, seen)
        return self.project(seen.flatten(1))

    def narrow(self, latents: Tensor, update: bool = True) -> Quantized:
        """Put latents [B, d] through the bottleneck: vectors [B, d], and codes [B, tokens] where it has any."""
        found = self.bottleneck(latents.unflatten(1, (self.positions, -1)), update)
        return found._replace(vectors=found.vectors.flatten(1), codes=found.codes.flatten(1))


def coarse(maps: Tensor) -> Tensor:
    """Average maps [B, V, side, side, D] over squares, [B, V, D, COARSE, COARSE] at most."""
    found = rearrange(maps, "b v y x d -> b v d y x")
    return F.adaptive_avg_pool2d(found.flatten(0, 1), min(COARSE, found.shape[-1])).unflatten(0, maps.shape[:2])
