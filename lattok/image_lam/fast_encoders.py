"""The encoders for labels: what the query tokens need of two frames, in two steps, and nothing else.

    frames   what a frame contributes to its pairs, whichever role it plays: in the space-time encoder the embedding
             and the first block's attention in the frame, in the fused encoder its features
    pairs    the rest, for query tokens of the later frame; in the last block only these go on

Over time, the earlier frame attends only itself, W_o W_v n0, one matrix, and the later one has two keys, so softmax is
a sigmoid: v0 + s(q (k1 - k0)) (v1 - v0), where differences of k and v are maps of n1 - n0. Equal to the encoders up to
rounding. Matrices may be bfloat16; residuals and norms stay float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.parts import FusedEncoder, SpaceTimeEncoder
from lattok.nn import PreNormBlock, SpaceTimeBlock

SCORES_IN_CACHE = 2**23  # scores of attention at a time


class Affine:
    """x W^T + b in the precision of `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32):
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, scale: Tensor | None = None) -> Affine:
        """`linear`, its outputs times `scale`."""
        if scale is None:
            return cls(linear.weight, linear.bias, dtype)
        return cls(linear.weight * scale[:, None], None if linear.bias is None else linear.bias * scale, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def split(self, *parts: int) -> list[Affine]:
        """The maps to so many outputs each."""
        biases = [None] * len(parts) if self.bias is None else self.bias.split(parts)
        return [Affine(w, b, w.dtype) for w, b in zip(self.weight.split(parts), biases, strict=True)]


class Layer:
    """A pre-norm layer over [n, tokens, width]; adds to its input in place."""

    def __init__(self, norms: tuple[Any, Any], qkv: Affine, mix: Affine, widen: Affine, narrow: Affine, heads: int):
        self.norm1, self.norm2 = norms
        self.qkv, self.mix, self.widen, self.narrow, self.heads = qkv, mix, widen, narrow, heads

    def __call__(self, x: Tensor, used: int | None = None) -> Tensor:
        """With `used` only for the first tokens, which look at all."""
        mixed = attend(self.norm1(x), self.qkv, self.heads, used)
        x = x[:, :used].add_(self.mix(mixed))
        return x.add_(self.narrow(F.gelu(self.widen(self.norm2(x)))))


def attend(x: Tensor, qkv: Affine, heads: int, used: int | None = None) -> Tensor:
    """Mixed values of the first `used` tokens of [n, tokens, width], or of all."""
    if used is None:
        q, k, v = rearrange(qkv(x), "n t (three h d) -> three n h t d", three=3, h=heads)
    else:
        width = x.shape[-1]
        ask, look = qkv.split(width, 2 * width)
        q = rearrange(ask(x[:, :used]), "n t (h d) -> n h t d", h=heads)
        k, v = rearrange(look(x), "n t (two h d) -> two n h t d", two=2, h=heads)
    cached = q.is_cpu and q.dtype == torch.bfloat16
    mixed = _mix_in_cache(q, k, v) if cached else F.scaled_dot_product_attention(q, k, v)
    return rearrange(mixed, "n h t d -> n t (h d)")


def _mix_in_cache(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over [n, heads, tokens, d] in plain products, which in bfloat16 on a CPU take 0.6 of the fused time.

    A few frames at a time, so that the scores stay in the cache.
    """
    few = max(1, SCORES_IN_CACHE // (q.shape[1] * q.shape[2] * k.shape[2]))
    parts = zip((q * q.shape[-1] ** -0.5).split(few), k.split(few), v.split(few), strict=True)
    return torch.cat([(q @ k.transpose(-1, -2)).softmax(-1) @ v for q, k, v in parts])


def precise(tensor: Tensor) -> Tensor:
    """In float64, where the device has that."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


class TwoFrameEncoder:
    """Bound to the weights as they are now, on their device."""

    def __init__(self, encoder: SpaceTimeEncoder, dtype: torch.dtype = torch.float32):
        self.norm_in, self.norm_out = encoder.embed[0], encoder.embed[2]
        self.embed = Affine.of(encoder.embed[1], dtype)  # pyright: ignore
        count = len(encoder.queries)
        self.places = encoder.places[count:]
        self.queries = self._embedded(encoder.queries.detach()) + encoder.places[:count]  # the same for every frame
        self.blocks = [TwoFrameBlock(block, dtype) for block in encoder.blocks]  # pyright: ignore

    def frames(self, features: Tensor) -> Tensor:
        """Features [n, N, D] of single frames to what their pairs need, [n, tokens, width]."""
        patches = self._embedded(features).add_(self.places)
        x = torch.cat([self.queries.expand(len(patches), -1, -1), patches], 1)
        return self.blocks[0].space(x, self.used(0))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Outputs of `frames` for both frames of n pairs to query tokens of the later frame, [n, queries, width]."""
        x = torch.stack([now, later])  # 2 n tokens width
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            if place > 0:
                x = block.space(x.flatten(0, 1), self.used(place)).unflatten(0, (2, -1))
            x = block.feed_forward(block.time(x, only_later=place == last))
        return x[-1]

    def used(self, place: int) -> int | None:
        """Tokens that go on from a block, the first ones; None for all."""
        return len(self.queries) if place == len(self.blocks) - 1 else None

    @property
    def held(self) -> tuple[int, int]:
        """Shape of what is held of a frame: tokens, width."""
        return self.used(0) or len(self.queries) + len(self.places), self.places.shape[1]

    def _embedded(self, features: Tensor) -> Tensor:
        return self.norm_out(self.embed(self.norm_in(features)).float())


class TwoFrameBlock:
    """A `SpaceTimeBlock`; adds to its input in place."""

    def __init__(self, block: SpaceTimeBlock, dtype: torch.dtype):
        self.norms, self.heads = (block.norm1, block.norm2, block.norm3), block.space.heads
        self.qkv, self.mix = Affine.of(block.space.qkv, dtype), Affine.of(block.space.out, dtype)
        width = block.time.out.in_features
        query, key, value = block.time.qkv.weight.detach().split(width)
        mix = block.time.out.weight.detach()
        self.time_query = Affine(query * (width // self.heads) ** -0.5, None, dtype)
        self.time_change = Affine(torch.cat([key, value]), None, dtype)
        self.time_alone = Affine((precise(mix) @ precise(value)).to(mix.dtype), block.time.out.bias, dtype)
        self.time_mix = Affine(mix, None, dtype)
        self.widen, self.narrow = _feed_forward(block, dtype)

    def space(self, x: Tensor, used: int | None) -> Tensor:
        """Attention inside frames [m, tokens, width], with `used` only for the first tokens."""
        mixed = attend(self.norms[0](x), self.qkv, self.heads, used)
        return x[:, :used].add_(self.mix(mixed))

    def time(self, x: Tensor, only_later: bool) -> Tensor:
        """Causal attention over two frames, [2, n, tokens, width] to the same or to its second frame."""
        first, second = self.norms[1](x).unbind()
        alone = self.time_alone(first)
        query, (key, value) = self.time_query(second), self.time_change(second - first).chunk(2, -1)
        score = (query * key).unflatten(-1, (self.heads, -1)).sum(-1, keepdim=True, dtype=torch.float32)
        change = value.unflatten(-1, (self.heads, -1)) * score.sigmoid().to(value.dtype)
        change = self.time_mix(change.flatten(-2))
        if only_later:
            return x[1:].add_(alone).add_(change)
        x.add_(alone)
        x[1].add_(change)
        return x

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return x.add_(self.narrow(F.gelu(self.widen(self.norms[2](x)))))


class FusedPairEncoder:
    """`FusedEncoder`, bound to the weights as they are now, on their device."""

    def __init__(self, encoder: FusedEncoder, dtype: torch.dtype = torch.float32):
        self.project, self.norm = Affine.of(encoder.project, dtype), encoder.norm
        self.queries, self.places = encoder.queries.detach(), encoder.places.detach()
        self.layers = [_layer(block, dtype) for block in encoder.blocks]  # pyright: ignore

    def frames(self, features: Tensor) -> Tensor:
        """Features [n, N, D] as they are."""
        return features

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Features of both frames of n pairs to query tokens [n, queries, width]."""
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)).float() + self.places
        x = torch.cat([self.queries.expand(len(x), -1, -1), x], 1)
        for place, layer in enumerate(self.layers):
            x = layer(x, self.used(place))
        return self.norm(x[:, : len(self.queries)])

    def used(self, place: int) -> int | None:
        """Tokens that go on from a layer, the first ones; None for all."""
        return len(self.queries) if place == len(self.layers) - 1 else None

    @property
    def held(self) -> tuple[int, int]:
        """Shape of what is held of a frame: patches, channels of a feature."""
        return len(self.places), self.project.weight.shape[1] // 3


PairEncoder = TwoFrameEncoder | FusedPairEncoder


def pair_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> PairEncoder:
    """The labelling form of a model's encoder."""
    if isinstance(encoder, SpaceTimeEncoder):
        return TwoFrameEncoder(encoder, dtype)
    assert isinstance(encoder, FusedEncoder)
    return FusedPairEncoder(encoder, dtype)


def _layer(block: PreNormBlock, dtype: torch.dtype) -> Layer:
    attention = block.attention
    qkv, mix = Affine.of(attention.qkv, dtype), Affine.of(attention.out, dtype)
    widen, narrow = _feed_forward(block, dtype)
    return Layer((block.norm1, block.norm2), qkv, mix, widen, narrow, attention.heads)


def _feed_forward(block: PreNormBlock | SpaceTimeBlock, dtype: torch.dtype) -> list[Affine]:
    return [Affine.of(part, dtype) for part in block.ff if isinstance(part, nn.Linear)]
