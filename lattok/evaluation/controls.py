"""Controls of the probes: how much of the action can be read without any learned latent action.

current frame    PCA of the features of o_t                             what the scene gives away
frame change     PCA of f(o_t+stride) - f(o_t)                          what subtraction alone shows
flow             PCA of the motion that block matching finds            what a classical method shows
residual k-means on change or flow, P levels of K                       the same at the bits of the model's codes
untrained model  same architecture, fresh weights                       what the architecture alone does
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.codebook import ResidualKMeans
from lattok.evaluation.probes import Probe, best_of, one_hot, pca, probe
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.types import LatentActions

PCA_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Target:
    """What probes predict: the mean action over the gap."""

    train: Tensor  # [n, m]
    episodes: np.ndarray  # [n]
    held_out: Tensor  # [N, m]

    def probe(self, train: Tensor, held_out: Tensor) -> Probe:
        """Fit on inputs [n, d], judge on [N, d]."""
        return probe(train, self.train, self.episodes, held_out, self.held_out)


@dataclass(frozen=True)
class Coordinates:
    """Principal coordinates of both splits, fitted to the training one: [n, k] and [N, k], k the largest size."""

    train: Tensor
    held_out: Tensor

    @classmethod
    def fit(cls, train: Tensor, held_out: Tensor, most: int = PCA_SIZES[-1]) -> Coordinates:
        """From rows [n, D] and [N, D]; `most` components."""
        components = pca(train, most)
        return cls(components.project(train), components.project(held_out))

    @property
    def sizes(self) -> list[int]:
        """Numbers of components to try; fewer when there are not that many."""
        return sorted({min(size, self.train.shape[1]) for size in PCA_SIZES})

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        """The first `size` coordinates of both splits."""
        return self.train[:, :size], self.held_out[:, :size]

    def best_size(self, target: Target) -> int:
        """The size that does best on training episodes."""
        return best_of(self.sizes, lambda size: target.probe(*self.first(size)))[0]


@dataclass(frozen=True)
class CodeControl:
    """Codes that were not learned, of both splits: [n, P] and [N, P]."""

    name: str
    train: Tensor
    held_out: Tensor


def kmeans_codes(what: str, rows: Coordinates, target: Target | None, config: ImageLAMConfig, seed: int) -> CodeControl:
    """Residual k-means on `what` at the model's bits; the width is chosen on training episodes."""

    def fit(size: int) -> CodeControl:
        both = rows.first(size)
        kmeans = ResidualKMeans.fit(both[0], config.codebook_size, config.tokens, seed)
        return CodeControl(f"residual k-means on {what} (PCA {size})", *map(kmeans.encode, both))

    if target is None:
        return fit(rows.sizes[-1])
    fitted = {size: fit(size) for size in rows.sizes}
    read = partial(one_hot, size=config.codebook_size)
    size, _ = best_of(fitted, lambda size: target.probe(read(fitted[size].train), read(fitted[size].held_out)))
    return fitted[size]


def untrained_codes(train: LatentActions, held_out: LatentActions, config: ImageLAMConfig, seed: int) -> CodeControl:
    """The untrained model's latents, standardised where the model does so, with a codebook started by k-means."""
    levels = config.tokens if config.quantizer == "residual" else 1
    shift, scale = 0.0, 1.0
    if config.latent_norm == "batch":
        shift, scale = train.latents.mean(0), train.latents.std(0).clamp_min(1e-6)
    rows = [((x.latents - shift) / scale).flatten(0, -2) for x in (train, held_out)]
    kmeans = ResidualKMeans.fit(rows[0], config.codebook_size, levels, seed)
    codes = [kmeans.encode(x).reshape(-1, config.tokens) for x in rows]
    return CodeControl("untrained model, codes by k-means", codes[0], codes[1])


def untrained_model(model: ImageLAM, seed: int) -> ImageLAM:
    """The same config with fresh weights; the frozen features are shared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ImageLAM(model.config)
    fresh.features = model.features
    return fresh.to(model.features.mean.device).eval()
