"""Finite scalar quantisation the straightforward way, from its description (OAT and QueST share it).

b = tanh(z + atanh(o / h)) h - o,   h = (L - 1)(1 + 1e-3) / 2,   o = .5 for even L, 0 for odd
value = round(b) / ⌊L/2⌋
id = sum_i (round(b_i) + ⌊L_i/2⌋) L_1 ... L_{i-1}
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class FSQ:
    """Latents [..., d] to values and ids."""

    def __init__(self, levels: Sequence[int]):
        self.levels = torch.tensor(levels)
        self.half = self.levels // 2
        self.basis = torch.cumprod(torch.tensor([1, *levels[:-1]]), 0)

    def quantize(self, latents: Tensor) -> Tensor:
        half_range = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(latents + torch.atanh(offset / half_range)) * half_range - offset
        return bounded.round() / self.half

    def ids(self, values: Tensor) -> Tensor:
        return ((values * self.half + self.half) * self.basis).sum(-1).long()

    def values(self, ids: Tensor) -> Tensor:
        return ((ids[..., None] // self.basis) % self.levels - self.half) / self.half
