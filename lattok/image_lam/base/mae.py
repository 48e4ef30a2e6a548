"""Encoders of masked autoencoders (He et al., 2022) as frozen features: all patches, in their order.

The published encoder shuffles the patches even where it masks none, anew at each call, and so do the latent action
models on top of it (Moto, LARA): their labels were drawn with a random order. Here the order is that of the image.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.nn.blocks import PreNormBlock
from lattok.utils import checks

HELD = "held:"
SIZES = re.compile(HELD + r"(\d{1,6})x(\d{1,4})x(\d{1,4})x(\d{1,6})x(\d{1,4})", re.ASCII)
EPSILON = 1e-12  # of every norm, as published


class OrderedMAE(nn.Module):
    """transformers' `ViTMAEModel` without masking."""

    num_prefix_tokens = 1

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        encoder.config.mask_ratio = 0.0
        self.patch_size, self.num_features = encoder.config.patch_size, encoder.config.hidden_size

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into class token and patches [n, 1 + N, D]."""
        count = pixels.shape[-2] * pixels.shape[-1] // self.patch_size**2
        order = torch.arange(count, device=pixels.device, dtype=torch.float32)  # the noise that patches are sorted by
        return self.encoder(pixels, noise=order.expand(len(pixels), -1)).last_hidden_state


class HeldViT(nn.Module):
    """The same network of the sizes in a name, "held:WIDTHxDEPTHxHEADSxHIDDENxPATCH", with weights of its own."""

    num_prefix_tokens = 1

    def __init__(self, name: str, image_size: int):
        super().__init__()
        found = SIZES.fullmatch(name)
        if found is None:
            checks.fail("features", f'"{HELD}WIDTHxDEPTHxHEADSxHIDDENxPATCH"', repr(name))
        width, depth, heads, hidden, patch = (int(number) for number in found.groups())
        checks.counts(width=width, depth=depth, heads=heads, hidden=hidden, patch=patch)
        self.patch_size, self.num_features = patch, width
        self.patch_up = nn.Linear(3 * patch**2, width)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(1 + (image_size // patch) ** 2, width) * 0.02)
        blocks = (PreNormBlock(width, heads, hidden=hidden, bias=True, eps=EPSILON) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into class token and patches [n, 1 + N, D]."""
        size = {"p": self.patch_size, "q": self.patch_size}
        patches = self.patch_up(rearrange(pixels, "n c (y p) (x q) -> n (y x) (c p q)", **size))
        x = torch.cat([self.first.expand(len(pixels), 1, -1), patches], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
