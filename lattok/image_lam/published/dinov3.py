"""DINOv3 (Siméoni et al., 2025) as LaWAM uses it: up to one of its blocks, with weights that the artefact holds."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.data.pixels import check_pixels, middle, resize_pixels
from lattok.image_lam.base.features import FrozenFeatures
from lattok.nn.blocks import feed_forward


def patch_angles(rows: int, columns: int, width: int) -> Tensor:
    """Angles [rows * columns, width] by which DINOv3 turns queries and keys of patches, from their centres in ±1."""
    frequencies = 100.0 ** -(torch.arange(width // 4) * (4 / width))
    centres = [(torch.arange(count) + 0.5) / count * 2 - 1 for count in (rows, columns)]
    places = torch.cartesian_prod(*centres)  # n 2
    return (2 * math.pi * places[:, :, None] * frequencies).flatten(1).tile(2)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the last tokens of x [..., n, d], as many as there are rows of `angles`, pairing channels d / 2 apart."""
    first, rest = x[..., : -len(angles), :], x[..., -len(angles) :, :]
    left, right = rest.chunk(2, -1)
    return torch.cat([first, rest * angles.cos() + torch.cat([-right, left], -1) * angles.sin()], -2)


class DINOv3Block(nn.Module):
    """x += scale * attention(norm(x)); x += scale * ff(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.ff = feed_forward(width, hidden, nn.GELU)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(rotated(q, angles), rotated(k, angles), v)
        x = x + self.scale1 * self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return x + self.scale2 * self.ff(self.norm2(x))


class HeldDINOv3(nn.Module):
    """As much of a DINOv3 as is in use, with its weights in the artefact."""

    def __init__(self, config: Any):
        super().__init__()
        width, patch = config.vit_width, config.patch
        self.num_prefix_tokens, self.num_features, self.patch_size = 1 + config.vit_registers, width, patch
        self.feature_norm = config.feature_norm
        self.prefix = nn.Parameter(torch.randn(self.num_prefix_tokens, width) * 0.02)  # class token, then registers
        self.patches = nn.Conv2d(3, width, patch, patch)
        rows, columns = (size // patch for size in (config.image_size, config.image_width))
        self.angles = nn.Buffer(patch_angles(rows, columns, width // config.vit_heads), persistent=False)
        sizes = width, config.vit_heads, config.vit_hidden
        self.blocks = nn.ModuleList(DINOv3Block(*sizes) for _ in range(config.vit_depth))
        self.norm = nn.LayerNorm(width) if config.vit_last_norm else None

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn normalised pixels [n, 3, H, W] into tokens [n, prefix + patches, width]."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(patches), -1, -1), patches], 1)
        for block in self.blocks:
            x = block(x, self.angles)
        x = x if self.norm is None else self.norm(x)
        if self.feature_norm == "l2":
            return F.normalize(x, dim=-1)
        return F.layer_norm(x, x.shape[-1:]) if self.feature_norm == "ln" else x


class HeldFeatures(FrozenFeatures):
    """Frames to features of a network that the model holds."""

    def __init__(self, config: Any):
        scaling = config.mean, config.std, config.interpolation
        super().__init__("held", config.image_size, *scaling, network=HeldDINOv3(config))
        self.frame_size = config.image_size, config.image_width
        self.crops = config.wide_frames == "crop"
        self.count = math.prod(size // config.patch for size in self.frame_size)

    def resize(self, frames: Tensor) -> Tensor:
        """Resize uint8 [..., H, W, 3] to the model's height and width; what is wider than 4:3 is cut before."""
        check_pixels(frames)
        height, width = frames.shape[-3:-1]
        if (height, width) == self.frame_size:  # it was done: a size wider than 4:3 would be cut once more
            return frames
        if self.crops:
            frames = middle(frames, height, min(width, 4 * height // 3))
        return resize_pixels(frames, self.frame_size, self.interpolation)
