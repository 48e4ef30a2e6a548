"""Parts of the image latent action model: encoders, a stream of latents with its quantizer, decoder, action head."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.config import ImageLAMConfig
from lattok.nn import PreNormBlock, SpaceTimeBlock, sinusoidal_positions
from lattok.normalize import Normalizer
from lattok.quantize import QuantizerConfig, VectorQuantizer


class FusedEncoder(nn.Module):
    """Queries look at one frame of [now, later, 3 x difference]: cheap, and the change is visible at once."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.project = nn.Linear(3 * feature_dim, config.width)
        self.queries = nn.Parameter(torch.randn(queries, config.width) * 0.02)
        self.places = nn.Parameter(torch.randn(places, config.width) * 0.02)
        blocks = (PreNormBlock(config.width, config.heads, config.dropout) for _ in range(config.encoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 2, N, D] to query tokens [B, queries, width]."""
        now, later = features.unbind(1)
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)) + self.places  # b n w
        x = torch.cat([self.queries.expand(len(x), -1, -1), x], 1)
        return self.norm(self.blocks(x)[:, : len(self.queries)])


class SpaceTimeEncoder(nn.Module):
    """UniVLA's encoder: queries and patches of both frames, attention in frames and causally between them."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, feature_dim) * 0.02)
        self.embed = nn.Sequential(
            nn.LayerNorm(feature_dim), nn.Linear(feature_dim, config.width), nn.LayerNorm(config.width)
        )
        self.register_buffer("places", sinusoidal_positions(queries + places, config.width), persistent=False)
        self.places: Tensor
        blocks = (SpaceTimeBlock(config.width, config.heads, config.dropout) for _ in range(config.encoder_depth))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 2, N, D] to query tokens of the later frame [B, queries, width]."""
        queries = self.queries.expand(*features.shape[:2], -1, -1)
        x = self.embed(torch.cat([queries, features], 2)) + self.places  # b 2 q+n w
        return self.blocks(x)[:, 1, : len(self.queries)]


class Decoder(nn.Module):
    """Current features [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's features."""

    def __init__(self, config: ImageLAMConfig, streams: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.predict_change, self.add = config.predict_change, config.conditioning == "add"
        self.latent_up = nn.ModuleList(nn.Linear(config.latent_dim, width) for _ in range(streams))
        self.patch_up = nn.Linear(feature_dim, width)
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        self.register_buffer(
            "places", sinusoidal_positions(streams * config.positions + places, width), persistent=False
        )
        self.places: Tensor
        blocks = (PreNormBlock(width, config.heads, config.dropout) for _ in range(config.decoder_depth))
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, feature_dim)
        if config.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, *vectors: Tensor) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        patches = self.patch_up(features)
        if self.add:  # every patch knows the change before the first block
            patches = patches + latents.sum(1, keepdim=True)
        x = torch.cat([latents, patches], 1)  # b p+n w
        x = self.blocks(self.embed(x) + self.places)
        predicted = self.out(x[:, latents.shape[1] :])
        return features + predicted if self.predict_change else predicted


class Stream(nn.Module):
    """Query tokens [B, P, width] to latents [B, p, d] and their codes: heads, norm, quantizer.

    A `frozen` stream's codebook is given (stage 1) rather than learned, so it needs no start and no warm-up.
    """

    def __init__(self, config: ImageLAMConfig, size: int, frozen: bool = False):
        super().__init__()
        self.config, d = config, config.latent_dim
        residual = config.quantizer == "residual"
        if residual:  # one latent from all queries, P levels of codes
            self.heads = nn.ModuleList([nn.Linear(config.tokens * config.width, d)])
        else:
            heads = config.tokens if config.latent_heads == "per_token" else 1
            self.heads = nn.ModuleList(nn.Linear(config.width, d) for _ in range(heads))
        positions = config.positions
        self.norm = nn.BatchNorm1d(positions * d, affine=False) if config.latent_norm == "batch" else None
        self.quantizer = VectorQuantizer(
            QuantizerConfig(
                dim=d,
                size=size,
                levels=config.tokens if residual else 1,
                update=config.codebook_update,
                start="normal" if frozen else config.codebook_start,
                continuous_steps=0 if frozen else config.continuous_steps,
                revive_below=config.revive_below,
            )
        )

    def latents(self, tokens: Tensor) -> Tensor:
        """[B, P, width] to [B, p, d]."""
        if self.config.quantizer == "residual":
            tokens = rearrange(tokens, "b p w -> b 1 (p w)")
        if len(self.heads) == 1:
            latents = self.heads[0](tokens)
        else:
            latents = torch.stack([head(tokens[:, i]) for i, head in enumerate(self.heads)], 1)
        if self.norm is not None:
            latents = self.norm(latents.flatten(1)).reshape(latents.shape)
        return latents


class ActionHead(nn.Module):
    """MLP from pre-quantization latents to the mean action of the gap (Eq. 14); dropped at publication."""

    def __init__(self, config: ImageLAMConfig, action_dim: int):
        super().__init__()
        inputs = config.positions * config.latent_dim
        self.normalizer = Normalizer(action_dim)
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, action_dim))

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents.flatten(1))
