"""Encoder and decoder of Moto (Chen et al., 2025) and LARA (2026): one sequence, learned places, ViT layers.

    tokens  = Encoder([queries, f(o_t), separator, f(o_{t+stride})])      the first P of them
    patches = Decoder(patches(o_t), latents)                              o_{t+stride}, in patches

Everything starts as ViT does: matrices and places with deviation 0.02, biases from zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lattok.image_lam.base.mae import EPSILON
from lattok.image_lam.p2t.config import ImageLAMConfig
from lattok.image_lam.p2t.parts import Words, new_queries, with_words
from lattok.nn.blocks import PreNormBlock

DEVIATION = 0.02


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=DEVIATION))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=DEVIATION)
        nn.init.zeros_(module.bias)


def _blocks(width: int, heads: int, hidden: int, depth: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(PreNormBlock(width, heads, dropout, hidden, bias=True, eps=EPSILON) for _ in range(depth))


class SequenceEncoder(nn.Module):
    """Queries, the first frame, a separator and the later frame, which all look at each other."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.project = nn.Linear(feature_dim, width)
        self.queries = new_queries(config, queries, width)
        self.separator = _learned(width)
        self.places = _learned(queries + 2 * places + 1, width)
        self.types = _learned(config.frame_types, width)  # the last one is that of the later frame
        self.blocks = _blocks(width, config.heads, config.hidden, config.encoder_depth, config.dropout)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.apply(_start)

    def forward(self, features: Tensor, words: Words | None = None) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens [B, queries, width]."""
        x, keys = with_words(self.sequence(*self.project(features).unbind(1)), words)
        for block in self.blocks:
            x = block(x, keys)
        return self.norm(x[:, : len(self.queries)])

    def sequence(self, now: Tensor, later: Tensor) -> Tensor:
        """Put projected frames [B, N, width] between and after the learned tokens: [B, queries + 2 N + 1, width]."""
        learned = [part.expand(len(now), -1, -1) for part in (self.queries, self.separator[None])]
        x = torch.cat([learned[0], now, learned[1], later], 1) + self.places
        first = x.shape[1] - later.shape[1]
        return torch.cat([x[:, :first] + self.types[0], x[:, first:] + self.types[-1]], 1)


class PatchDecoder(nn.Module):
    """Patches of the first frame [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's.

    With `conditioning` "pool" one map of all latents is added to every patch; with "tokens" they stand before them.
    With `mask_tokens` the patches are predicted in the place of so many learned tokens after those of the first frame.
    """

    def __init__(self, config: ImageLAMConfig, streams: int, patch_dim: int, places: int):
        super().__init__()
        width, heads, d = config.decoder_width or config.width, config.decoder_heads or config.heads, config.latent_dim
        latents, self.predict_change = streams * config.positions, config.predict_change
        self.patch_up = nn.Linear(patch_dim, width)
        self.pool = nn.Linear(latents * width, width) if config.conditioning == "pool" else None
        self.mask = nn.Parameter(torch.zeros(width)) if config.mask_tokens else None
        before = 0 if self.pool is not None else latents
        self.places = _learned(before + places * (1 if self.mask is None else 2), width)
        self.blocks = _blocks(width, heads, config.decoder_hidden, config.decoder_depth, config.dropout)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.out = nn.Linear(width, patch_dim)
        self.apply(_start)
        self.latent_up = nn.ModuleList(
            nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, width)) for _ in range(streams)
        )
        if config.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)

    def forward(self, patches: Tensor, *vectors: Tensor, words: Words | None = None) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        x = self.patch_up(patches)
        if self.mask is not None:
            x = torch.cat([x, self.mask.expand_as(x)], 1)
        x = torch.cat([latents, x], 1) if self.pool is None else x + self.pool(latents.flatten(1))[:, None]
        x, keys = with_words(x + self.places, words)
        for block in self.blocks:
            x = block(x, keys)
        end = len(self.places)
        predicted = self.out(self.norm(x[:, end - patches.shape[1] : end]))
        return patches + predicted if self.predict_change else predicted
