"""Bottlenecks of the image latent action model other than the vector quantizer, with its interface.

finite scalars   code(c) = digits of round(bound(W c))      Mentzer et al., 2024; every code exists from the start
continuous       c, or c + exp(s/2) * noise with KL(N(c, exp(s)) || N(0, 1)), Kingma & Welling, 2014; no codes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lattok import checks
from lattok.quantize import CodeUsage
from lattok.types import Quantized

MOST_LEVELS = 8  # of one scalar
MOST_CODES = 1 << 20  # of a grid, which no file holds


class ScalarQuantizer(CodeUsage):
    """`size` codes as a grid of a few scalars between two linear maps; nothing to start, nothing to revive."""

    def __init__(self, dim: int, size: int):
        super().__init__(size)
        from vector_quantize_pytorch import FSQ  # slow to import

        self.dim = dim
        if not 2 <= size <= MOST_CODES:
            checks.fail("codebook_size", f'at most {MOST_CODES:,} with quantizer="fsq"', size)
        with torch.device("cpu"):  # it looks at its own numbers
            self.grid = FSQ(grid_levels(size), dim=dim, preserve_symmetry=True)

    def forward(self, latents: Tensor, update: bool = True) -> Quantized:
        """Latents [B, p, d] to vectors [B, p, d] and codes [B, p]; there is nothing for `update` to change."""
        checks.size("latents", "channels", latents.shape[-1], self.dim)
        with torch.autocast(latents.device.type, enabled=False):
            vectors, codes = self.grid(latents.float())
        codes = codes.long()
        if self.training and update:
            self.remember(codes)
        return Quantized(vectors, codes, {})

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [...] to the vectors [..., d] they stand for."""
        return self.grid.indices_to_codes(codes)


class Continuous(nn.Module):
    """Latents as they are; a `variational` one adds noise of a learned size in training, which limits what they say."""

    def __init__(self, dim: int, variational: bool):
        super().__init__()
        self.log_variance = nn.Linear(dim, dim) if variational else None

    def forward(self, latents: Tensor, update: bool = True) -> Quantized:
        """Latents [B, p, d] to vectors [B, p, d] and no codes, int64 [B, 0]."""
        codes = torch.empty(len(latents), 0, dtype=torch.long, device=latents.device)
        if self.log_variance is None:
            return Quantized(latents, codes, {})
        log_variance = self.log_variance(latents).clamp(-10, 10)
        kl = (latents.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        noise = torch.randn_like(latents) * (log_variance / 2).exp() if self.training else 0.0
        return Quantized(latents + noise, codes, {"kl": kl})


def grid_levels(size: int) -> list[int]:
    """Levels per scalar whose product is `size`: few scalars of at most 8 levels, unless a prime is larger.

    >>> grid_levels(16), grid_levels(256), grid_levels(1000)
    ([4, 4], [8, 8, 4], [8, 5, 5, 5])
    """
    factors, left, factor = [], size, 2
    while left > 1:
        while left % factor == 0:
            factors.append(factor)
            left //= factor
        factor += 1
    scalars = 1
    while True:  # the fewest that hold all factors, each in the smallest level so far
        levels = [1] * scalars
        for prime in sorted(factors, reverse=True):
            levels[levels.index(min(levels))] *= prime
        if max(levels) <= max(MOST_LEVELS, *factors):
            return sorted(levels, reverse=True)
        scalars += 1
