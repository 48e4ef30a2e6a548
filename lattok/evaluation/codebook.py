"""Codebooks that are fitted without learning anything: the controls that a learned one has to beat at equal bits.

residual k-means     x ~ sum_l c_l[code_l]         `levels` books of K centres, each fitted to what the last one left
uniform bins         levels per dimension as equal as possible, their product at most K
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lattok import checks
from lattok.quantize import CodeStatistics, code_statistics, nearest, residual_kmeans

ITERATIONS = 50
FIT_ROWS = 50_000  # more rows than this do not move the centres, they only cost memory
BLOCK = 8192


@dataclass(frozen=True)
class ResidualKMeans:
    """`levels` codebooks [K, d] in a residual chain; one level is plain k-means."""

    books: tuple[Tensor, ...]

    @classmethod
    def fit(cls, vectors: Tensor, size: int, levels: int = 1, seed: int = 0) -> ResidualKMeans:
        """Centres of vectors [N, d]; at most `FIT_ROWS` of them, evenly spaced, are used."""
        checks.rank("vectors", vectors, "N d")
        generator = torch.Generator().manual_seed(seed)
        rows = vectors[:: math.ceil(len(vectors) / FIT_ROWS)].float()
        return cls(tuple(residual_kmeans(rows, size, levels, ITERATIONS, generator)))

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors [N, d] to codes int64 [N, levels]."""
        return torch.cat([self._encode(block) for block in vectors.float().split(BLOCK)])

    def _encode(self, left: Tensor) -> Tensor:
        codes = []
        for book in self.books:
            codes.append(nearest(left, book))
            left = left - book[codes[-1]]
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, levels] to vectors [N, d]."""
        return torch.stack([book[codes[:, i]] for i, book in enumerate(self.books)]).sum(0)


def level_allocation(dims: int, size: int) -> tuple[int, ...]:
    """Levels per dimension, as equal as possible, first dimensions first, with a product of at most `size`.

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
        """Bins over the 1st to 99th percentile of actions [N, m], at most `size` cells."""
        edges = torch.quantile(actions.double(), torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        return cls(edges[0], edges[1], torch.tensor(level_allocation(actions.shape[1], size)))

    def encode(self, actions: Tensor) -> Tensor:
        """Actions [N, m] to bins int64 [N, m]."""
        share = (actions.double() - self.low) / (self.high - self.low).clamp_min(1e-12)
        return torch.minimum((share * self.levels).floor().long().clamp_min(0), self.levels - 1)

    def decode(self, bins: Tensor) -> Tensor:
        """Bins [N, m] to their centres [N, m]."""
        return (self.low + (bins + 0.5) * (self.high - self.low) / self.levels).float()


def token_statistics(codes: Tensor, size: int, shared: bool = True) -> CodeStatistics:
    """`code_statistics` of code rows [N, P]: of all tokens as one column where they share a vocabulary (-1 is padding),
    else per position, where each has a codebook of its own and may collapse by itself.
    """
    return code_statistics(codes[codes >= 0][:, None] if shared else codes, size)
