"""Latent action autoencoder of AdaWorld (Gao et al., 2025, "Learning adaptable world models with latent actions").

    tokens  = Transformer([prompt, patches] of both frames)      in each frame, and between them in both directions
    latent  = mu(prompt of o_{t+H})                              one per pair, no codes
    o_{t+H} = Decoder(patches of o_t + latent)

What differs from published code: docs/systems.yaml.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.data.pixels import check_pixels, middle
from lattok.data.resampling import ALIASED
from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Join, axis_of, layer_names, numbered
from lattok.image_lam.base.convert import block_names
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.published.published_lam import PublishedConfig, PublishedLAM, read_published
from lattok.nn.blocks import PreNormBlock, SpaceTimeBlock, sinusoids
from lattok.utils import checks

FREQUENCIES = "encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs"


@dataclass(frozen=True, kw_only=True)
class AdaWorldConfig(PublishedConfig):
    """Architecture and preprocessing of `AdaWorldLAM`. Defaults: as published."""

    quantizer: ClassVar[str] = "none"
    least: ClassVar[Mapping[str, int]] = {}

    stride: str = "2"
    image_size: int = 256
    interpolation: str = ALIASED
    tokens: int = 1
    latent_dim: int = 32
    patch: int = 16
    width: int = 1024
    heads: int = 16
    encoder_depth: int = 16
    decoder_depth: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("interpolation", self.interpolation, (ALIASED,))
        if self.width % (2 * self.heads):
            checks.fail("heads", f"a divisor of half the width {self.width}", self.heads)


class CentredPixels(FrozenFeatures):
    """Patches of the largest square in the middle of a frame."""

    def resize(self, frames: Tensor) -> Tensor:
        """Crop and resize uint8 [..., H, W, 3] to uint8 [..., s, s, 3]."""
        check_pixels(frames)
        side = min(frames.shape[-3:-1])
        return super().resize(middle(frames, side, side))


class RotaryBlock(SpaceTimeBlock):
    """Attention over frames in both directions, with queries and keys turned by the frame's number."""

    def __init__(self, dim: int, heads: int):
        super().__init__(dim, heads)
        self.frequencies = nn.Buffer(torch.zeros(dim // heads // 2))

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        x = x + self.space(self.norm1(x), keys=keys)
        seen = self.time.qkv(rearrange(self.norm2(x), "b t n d -> (b n) t d"))
        q, k, v = rearrange(seen, "b t (three h d) -> three b h t d", three=3, h=self.time.heads)
        mixed = F.scaled_dot_product_attention(self._rotated(q), self._rotated(k), v)
        mixed = self.time.out(rearrange(mixed, "b h t d -> b t (h d)"))
        x = x + rearrange(mixed, "(b n) t d -> b t n d", b=len(x))
        return x + self.ff(self.norm3(x))

    def _rotated(self, x: Tensor) -> Tensor:
        """Turn neighbouring channels of [b, h, t, d] by frame number times frequency."""
        angles = torch.arange(x.shape[2], device=x.device)[:, None] * self.frequencies  # t d/2
        left, right = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack([left * cos - right * sin, right * cos + left * sin], -1).flatten(-2)


class AdaWorldLAM(PublishedLAM):
    """AdaWorld's latent action autoencoder: one continuous latent of a pair of images.

    Features are patches of pixels in [0, 1], ordered row, column, channel.
    """

    type = "adaworld-lam"
    arxiv = "2503.18938"
    config_class = AdaWorldConfig
    config: AdaWorldConfig
    cut = CentredPixels

    def __init__(self, config: AdaWorldConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        inputs, places, width = self.features.dim, self.features.count, config.width
        self.numbers_per_frame = (1 + places) * 4 * width
        self.prompt = nn.Parameter(torch.randn(inputs))
        self.embed = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.LayerNorm(width))
        self.places = nn.Buffer(sinusoids(torch.arange(1 + places), width), persistent=False)
        self.encoder = nn.Sequential(*(RotaryBlock(width, config.heads) for _ in range(config.encoder_depth)))
        self.out, self.mean_of = nn.Linear(width, width), nn.Linear(width, config.latent_dim)
        self.patch_up, self.latent_up = nn.Linear(inputs, width), nn.Linear(config.latent_dim, width)
        self.decoder_embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        self.decoder = nn.Sequential(*(PreNormBlock(width, config.heads) for _ in range(config.decoder_depth)))
        self.to_features = nn.Linear(width, inputs)

    def of_frame(self, features: Tensor) -> Tensor:
        """Embed the prompt and patches [n, N, D] as tokens [n, 1 + N, width]."""
        return self.embed(torch.cat([self.prompt.expand(len(features), 1, -1), features], 1)) + self.places

    def of_pair(self, now: Tensor, later: Tensor) -> Tensor:
        x = self.encoder(torch.stack([now, later], 1))
        return self.mean_of(self.out(x[:, 1, :1]))

    def _predict(self, features: Tensor, vectors: Tensor) -> Tensor:
        x = self.decoder_embed(self.patch_up(features) + self.latent_up(vectors)) + self.places[:-1]
        return self.to_features(self.decoder(x)).sigmoid()


@checkpoint.importer(
    "adaworld-lam",
    sign=r"action_prompt$",
    mind="The default gap of 2 frames is that of robots; videos of people had 1. "
    "Latents have no unit size: look at their range before you regress or quantize them.",
)
def adaworld_lam(
    path: FilePath, *, image_size: int = 256, cameras: tuple[str, ...] = ("image",), stride: str = "2"
) -> AdaWorldLAM:
    """Read AdaWorld's latent action autoencoder (lam.ckpt or safetensors).

    Example: lattok convert adaworld-lam lam.ckpt my-adaworld --stride 0.2s

    Args:
        path: The checkpoint.
        image_size: Side of the square frames in pixels; the file does not hold it.
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: seconds ("0.2s") or frames, "2" as published for robots (4 for retro games, 1 for
            videos of people and short clips).
    """
    foreign = read_published(path, "adaworld-lam", "lam.")
    config = adaworld_config(foreign, image_size=image_size, cameras=tuple(cameras), stride=str(stride))
    return checkpoint.converted(lambda: AdaWorldLAM(config), foreign, adaworld_names(config), str(path))


def adaworld_config(foreign: Mapping[str, Tensor], **facts: Any) -> AdaWorldConfig:
    size, depth = partial(axis_of, foreign), partial(numbered, foreign)
    width = size("fc.weight", 1, 1024)
    return AdaWorldConfig(
        latent_dim=size("action_up.weight", 1, 32),
        patch=isqrt(size("action_prompt", 3, 768) // 3),
        width=width,
        heads=width // max(1, 2 * size(FREQUENCIES, 0, 32)),
        encoder_depth=depth(r"encoder\.transformer_blocks\.(\d+)\.") or 1,
        decoder_depth=depth(r"decoder\.transformer_blocks\.(\d+)\.") or 1,
        **facts,
    )


def adaworld_names(config: AdaWorldConfig) -> dict[str, str | Join]:
    names: dict[str, str | Join] = {"prompt": Join(("action_prompt",), Tensor.flatten)}
    names |= {f"mean_of.{x}": Join((f"fc.{x}",), lambda both: both.chunk(2)[0]) for x in ("weight", "bias")}
    layers = {"out": "encoder.out", "patch_up": "patch_up", "latent_up": "action_up", "to_features": "decoder.out"}
    parts = (("encoder", "embed", config.encoder_depth), ("decoder", "decoder_embed", config.decoder_depth))
    for part, embed, depth in parts:
        layers |= {f"{embed}.{i}": f"{part}.ffn.{i}" for i in range(3)}
        for i in range(depth):
            ours, theirs = f"{part}.{i}", f"{part}.transformer_blocks.{i}"
            names |= block_names(part, ours, theirs)
            if part == "encoder":
                names[f"{ours}.frequencies"] = f"{theirs}.temporal_attn.rotary_embedding.freqs"
    return names | layer_names(layers)
