"""k-means, on whichever device the vectors are: Lloyd's algorithm from k-means++."""

import torch
from torch import Tensor

from lattok.utils import checks


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Find the index of the nearest row of `codebook` [K, d] for vectors [..., d], squared Euclidean distance."""
    half_norms = codebook.square().sum(-1) / 2
    return (vectors @ codebook.T - half_norms).max(-1)[1]  # max's index is faster than argmax on CPU


def kmeans(vectors: Tensor, k: int, iterations: int = 20, generator: torch.Generator | None = None) -> Tensor:
    """Find centres [k, d] of vectors [N, d] by Lloyd's algorithm from k-means++; fewer than k vectors are repeated."""
    checks.rank("vectors", vectors, "N d")
    if len(vectors) == 0:
        checks.fail("vectors", "at least one vector", "none")
    if len(vectors) <= k:
        return vectors[torch.arange(k, device=vectors.device) % len(vectors)].clone()
    picks = [int(torch.randint(len(vectors), (1,), generator=generator))]
    distance = (vectors - vectors[picks[0]]).square().sum(-1)
    for _ in range(k - 1):
        chance = distance.clamp_min(1e-12).cpu().double()
        picks.append(int(torch.multinomial(chance, 1, generator=generator)))
        distance = torch.minimum(distance, (vectors - vectors[picks[-1]]).square().sum(-1))
    centres = vectors[picks]
    for _ in range(iterations):
        codes = nearest(vectors, centres)
        counts, sums = assignments(codes, vectors, k)
        farthest = (vectors - centres[codes]).square().sum(-1).topk(k)[1]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], vectors[farthest])
    return centres


def residual_kmeans(vectors: Tensor, k: int, levels: int, iterations: int, generator: torch.Generator | None) -> Tensor:
    """Find codebooks [levels, k, d] of vectors [N, d], each fitted to what the levels before left."""
    left, books = vectors, []
    for _ in range(levels):
        books.append(kmeans(left, k, iterations, generator))
        left = left - books[-1][nearest(left, books[-1])]
    return torch.stack(books)


def assignments(codes: Tensor, vectors: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Count [..., k] and sum [..., k, d] the vectors [..., N, d] assigned to each code, all of them or those where
    `valid` [N] holds.

    A matmul, so that it is deterministic.
    """
    own = codes[..., None] == torch.arange(k, device=codes.device)  # F.one_hot reads its codes on a CPU
    if valid is not None:
        own, vectors = own & valid[:, None], vectors.masked_fill(~valid[:, None], 0.0)
    one_hot = own.to(vectors.dtype)
    return one_hot.sum(-2), one_hot.mT @ vectors
