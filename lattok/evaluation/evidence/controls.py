"""Controls of the probes: how much of the action can be read without any learned latent action.

current frame    PCA of the features of o_t                             what the scene gives away
frame change     PCA of f(o_t+stride) - f(o_t)                          what subtraction alone shows
flow             PCA of the motion that block matching finds            what a classical method shows
residual k-means on change or flow, P levels of K                       the same at the bits of the model's codes
untrained model  same architecture, fresh weights                       what the architecture alone does
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence.probes import Probe, best_of, linear_probe, one_hot, pca
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.nn.quantize import nearest, residual_kmeans
from lattok.types import LatentActions
from lattok.utils import checks

ITERATIONS = 50
FIT_ROWS = 50_000  # more rows than this do not move the centres, they only cost memory
BLOCK = 8192
PCA_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class ResidualKMeans:
    """`levels` codebooks [K, d] in a residual chain; one level is plain k-means."""

    books: tuple[Tensor, ...]

    @classmethod
    def fit(cls, vectors: Tensor, size: int, levels: int = 1, seed: int = 0) -> ResidualKMeans:
        """Find the centres of vectors [N, d]; at most `FIT_ROWS` of them, evenly spaced, are used."""
        checks.rank("vectors", vectors, "N d")
        generator = torch.Generator().manual_seed(seed)
        rows = vectors[:: math.ceil(len(vectors) / FIT_ROWS)].float()
        return cls(tuple(residual_kmeans(rows, size, levels, ITERATIONS, generator)))

    def encode(self, vectors: Tensor) -> Tensor:
        """Turn vectors [N, d] into codes int64 [N, levels]."""
        return torch.cat([self._encode(block) for block in vectors.float().split(BLOCK)])

    def _encode(self, left: Tensor) -> Tensor:
        codes = []
        for book in self.books:
            codes.append(nearest(left, book))
            left = left - book[codes[-1]]
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Turn codes [N, levels] into vectors [N, d]."""
        return torch.stack([book[codes[:, i]] for i, book in enumerate(self.books)]).sum(0)


def level_allocation(dims: int, size: int) -> tuple[int, ...]:
    """Share out levels over the dimensions, as equal as possible, first ones first; their product is at most `size`.

    >>> level_allocation(4, 256), level_allocation(7, 256)
    ((4, 4, 4, 4), (3, 2, 2, 2, 2, 2, 2))
    """
    checks.positive(dims=dims, size=size)
    base = 1
    while (base + 1) ** dims <= size:
        base += 1
    levels = [base] * dims
    for i in range(dims):
        if math.prod(levels) // base * (base + 1) <= size:
            levels[i] = base + 1
    return tuple(levels)


@dataclass(frozen=True)
class JointBins:
    """Equal bins per dimension between `low` and `high` [m], all dimensions of a step in one code."""

    low: Tensor
    high: Tensor
    levels: Tensor  # [m] int64

    @classmethod
    def fit(cls, actions: Tensor, size: int) -> JointBins:
        """Lay bins over the 1st to 99th percentile of actions [N, m], at most `size` cells."""
        edges = torch.quantile(actions.double(), torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        return cls(edges[0], edges[1], torch.tensor(level_allocation(actions.shape[1], size)))

    def encode(self, actions: Tensor) -> Tensor:
        """Turn actions [N, m] into bins int64 [N, m]."""
        share = (actions.double() - self.low) / (self.high - self.low).clamp_min(1e-12)
        return torch.minimum((share * self.levels).floor().long().clamp_min(0), self.levels - 1)

    def decode(self, bins: Tensor) -> Tensor:
        """Turn bins [N, m] into their centres [N, m]."""
        return (self.low + (bins + 0.5) * (self.high - self.low) / self.levels).float()


@dataclass(frozen=True)
class Target:
    """What probes predict: the mean action over the gap."""

    train: Tensor  # [n, m]
    episodes: np.ndarray  # [n]
    held_out: Tensor  # [N, m]

    def probe(self, train: Tensor, held_out: Tensor) -> Probe:
        """Fit on inputs [n, d], judge on [N, d]."""
        return linear_probe(train, self.train, self.episodes, held_out, self.held_out)


@dataclass(frozen=True)
class Coordinates:
    """Principal coordinates of both splits, fitted to the training one: [n, k] and [N, k], k the largest size."""

    train: Tensor
    held_out: Tensor

    @classmethod
    def fit(cls, train: Tensor, held_out: Tensor, most: int = PCA_SIZES[-1]) -> Coordinates:
        """Fit `most` components to rows [n, D]; project these and [N, D]."""
        components = pca(train, most)
        return cls(components.project(train), components.project(held_out))

    @property
    def sizes(self) -> list[int]:
        """Numbers of components to try; fewer when there are not that many."""
        return sorted({min(size, self.train.shape[1]) for size in PCA_SIZES})

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the first `size` coordinates of both splits."""
        return self.train[:, :size], self.held_out[:, :size]

    def best_size(self, target: Target) -> int:
        """Choose the size that does best on training episodes."""
        return best_of(self.sizes, lambda size: target.probe(*self.first(size)))[0]


class CodeStream(NamedTuple):
    """Codes of one source on both splits."""

    key: str
    name: str
    train: Tensor  # [n, P]
    held_out: Tensor  # [N, P]
    size: int
    control: bool = True

    @property
    def one_hot(self) -> tuple[Tensor, Tensor]:
        """Codes of both splits as probes read them."""
        return one_hot(self.train, self.size), one_hot(self.held_out, self.size)


def kmeans_codes(
    key: str, what: str, rows: Coordinates, target: Target | None, config: ImageLAMConfig, seed: int
) -> CodeStream:
    """Fit residual k-means on `what` at the model's bits; the width is chosen on training episodes."""

    def fit(size: int) -> CodeStream:
        both = rows.first(size)
        kmeans = ResidualKMeans.fit(both[0], config.codebook_size, config.tokens, seed)
        name = f"residual k-means on {what} (PCA {size})"
        return CodeStream(key, name, kmeans.encode(both[0]), kmeans.encode(both[1]), config.codebook_size)

    if target is None:
        return fit(rows.sizes[-1])
    fitted = {size: fit(size) for size in rows.sizes}
    return fitted[best_of(fitted, lambda size: target.probe(*fitted[size].one_hot))[0]]


def untrained_codes(train: LatentActions, held_out: LatentActions, config: ImageLAMConfig, seed: int) -> CodeStream:
    """Quantize the untrained model's latents by k-means, standardised where the model does so."""
    levels = config.tokens if config.quantizer == "residual" else 1
    shift, scale = 0.0, 1.0
    if config.latent_norm == "batch":
        shift, scale = train.latents.mean(0), train.latents.std(0).clamp_min(1e-6)
    rows = [((x.latents - shift) / scale).flatten(0, -2) for x in (train, held_out)]
    kmeans = ResidualKMeans.fit(rows[0], config.codebook_size, levels, seed)
    codes = [kmeans.encode(x).reshape(-1, config.tokens) for x in rows]
    return CodeStream("untrained", "untrained model, codes by k-means", codes[0], codes[1], config.codebook_size)


def untrained_model(model: ImageLAM, seed: int) -> ImageLAM:
    """Build a model of the same config with fresh weights; the frozen features are shared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = model.fresh()
    return fresh.to(model.features.mean.device).eval()
