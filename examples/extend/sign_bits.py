"""Lookup-free codes (Yu et al., 2024): a bit for each sign of a few numbers, and no vectors that could collapse."""

import torch
from torch import nn

from lattok.image_lam.base.bottlenecks import Bottleneck, register_bottleneck
from lattok.nn.quantize import CodeUsage
from lattok.types import Quantized


class SignBits(CodeUsage):
    """Codes of `bits` signs, between two linear maps."""

    def __init__(self, dim, bits):
        super().__init__(2**bits)
        self.down, self.up = nn.Linear(dim, bits), nn.Linear(bits, dim)
        self.register_buffer("values", 2 ** torch.arange(bits), persistent=False)

    def forward(self, latents, update=True, valid=None):  # [B, p, d]
        numbers = self.down(latents.float())
        signs = torch.where(numbers > 0, 1.0, -1.0)
        codes = ((numbers > 0) * self.values).sum(-1)
        if self.training and update:
            self.remember(codes if valid is None else codes.masked_fill(~valid, -1))
        return Quantized(self.up(numbers + (signs - numbers).detach()), codes, {})

    def lookup(self, codes):
        return self.up((codes[..., None] & self.values != 0) * 2.0 - 1)


def build(dim, codebook, **_):
    return SignBits(dim, (codebook.size - 1).bit_length())


register_bottleneck(Bottleneck("signs", build))
