"""Encoders of P2T's model in the form that labels videos: see `base/labelling.py`.

Over time, the earlier frame attends only itself, W_o W_v n0, one matrix, and the later one has two keys, so softmax is
a sigmoid: v0 + s(q (k1 - k0)) (v1 - v0), where differences of k and v are maps of n1 - n0. Equal to the encoders up to
rounding. Matrices may be bfloat16; residuals and norms stay float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lattok.image_lam.base.labelling import Affine, FlatPairEncoder, Layer, PairEncoder, precise
from lattok.image_lam.moto.pair_encoder import SequencePairEncoder
from lattok.image_lam.moto.sequence import SequenceEncoder
from lattok.image_lam.p2t.parts import FusedEncoder, SpaceTimeEncoder
from lattok.nn.blocks import SpaceTimeBlock


class TwoFrameBlock(Layer):
    """A `SpaceTimeBlock`, which looks at the other frame between its attention in a frame and its MLP."""

    def __init__(self, block: SpaceTimeBlock, dtype: torch.dtype):
        super().__init__(*self.parts((block.norm1, block.norm2, block.norm3), block.space, block.ff, dtype))
        width = block.time.out.in_features
        query, key, value = block.time.qkv.weight.detach().split(width)
        mix = block.time.out.weight.detach()
        self.time_query = Affine(query * (width // self.heads) ** -0.5, None, dtype)
        self.time_change = Affine(torch.cat([key, value]), None, dtype)
        self.time_alone = Affine((precise(mix) @ precise(value)).to(mix.dtype), block.time.out.bias, dtype)
        self.time_mix = Affine(mix, None, dtype)

    def time(self, x: Tensor, only_later: bool) -> Tensor:
        """Add causal attention over two frames to [2, n, tokens, width], or return its second frame alone."""
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


class TwoFrameEncoder(PairEncoder):
    """A `SpaceTimeEncoder`; of a frame it holds the tokens [n, tokens, width] after the first attention."""

    def __init__(self, encoder: SpaceTimeEncoder, dtype: torch.dtype = torch.float32):
        self.norm_in, self.norm_out = encoder.embed[0], encoder.embed[2]
        self.embed = Affine.of(encoder.embed[1], dtype)  # pyright: ignore
        count = len(encoder.queries)
        self.places = encoder.places[count:]
        self.queries = self._embedded(encoder.queries.detach()) + encoder.places[:count]  # the same for every frame
        self.layers = [TwoFrameBlock(block, dtype) for block in encoder.blocks]  # pyright: ignore

    def frames(self, features: Tensor) -> Tensor:
        patches = self._embedded(features).add_(self.places)
        x = torch.cat([self.queries.expand(len(patches), -1, -1), patches], 1)
        return self.layers[0].space(x, self.used(0))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        x = torch.stack([now, later])  # 2 n tokens width
        last = len(self.layers) - 1
        for place, layer in enumerate(self.layers):
            if place > 0:
                x = layer.space(x.flatten(0, 1), self.used(place)).unflatten(0, (2, -1))
            x = layer.feed_forward(layer.time(x, only_later=place == last))
        return x[-1]

    def _embedded(self, features: Tensor) -> Tensor:
        return self.norm_out(self.embed(self.norm_in(features)).float())


class FusedPairEncoder(FlatPairEncoder):
    """A `FusedEncoder`; of a frame it holds the features."""

    def frames(self, features: Tensor) -> Tensor:
        return features

    def tokens(self, now: Tensor, later: Tensor) -> Tensor:
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)).float() + self.places
        return torch.cat([self.queries.expand(len(x), -1, -1), x], 1)


def pair_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> PairEncoder:
    """Return the form for labels of a model's encoder."""
    if isinstance(encoder, SpaceTimeEncoder):
        return TwoFrameEncoder(encoder, dtype)
    if isinstance(encoder, SequenceEncoder):
        return SequencePairEncoder(encoder, dtype)
    assert isinstance(encoder, FusedEncoder)
    return FusedPairEncoder(encoder, dtype)
