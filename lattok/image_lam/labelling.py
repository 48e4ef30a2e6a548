"""Labels of a video: every frame is computed once, and a window of `stride` frames is all that is held.

    frames   what a frame contributes to its pairs, whichever role it plays: in the space-time encoder the embedding
             and the first block's attention in the frame, in the fused encoder its features, in that of a sequence
             their projection
    pairs    the rest, for query tokens of the later frame; in the last block only these go on

Over time, the earlier frame attends only itself, W_o W_v n0, one matrix, and the later one has two keys, so softmax is
a sigmoid: v0 + s(q (k1 - k0)) (v1 - v0), where differences of k and v are maps of n1 - n0. Equal to the encoders up to
rounding. Matrices may be bfloat16; residuals and norms stay float32.

Frames are taken in blocks that begin at frame 0 of the episode and end with it, so that a label depends on neither the
pieces the video came in nor other episodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok import checks
from lattok.image_lam.parts import FusedEncoder, SpaceTimeEncoder
from lattok.image_lam.sequence import SequenceEncoder
from lattok.nn import Attention, SpaceTimeBlock

MOST = 32  # frames, and pairs, at a time
IN_CACHE = 2**20  # numbers per layer that CPUs are given at a time; larger blocks are a tenth slower
SCORES_IN_CACHE = 2**23  # scores of attention at a time

Video = np.ndarray | Tensor | Iterable[np.ndarray | Tensor]


class Affine:
    """x W^T + b in the precision of `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32):
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, scale: Tensor | None = None) -> Affine:
        """Take over `linear`, its outputs times `scale`."""
        if scale is None:
            return cls(linear.weight, linear.bias, dtype)
        return cls(linear.weight * scale[:, None], None if linear.bias is None else linear.bias * scale, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def split(self, *parts: int) -> list[Affine]:
        """Return the maps to so many outputs each."""
        biases = [None] * len(parts) if self.bias is None else self.bias.split(parts)
        return [Affine(w, b, w.dtype) for w, b in zip(self.weight.split(parts), biases, strict=True)]


class Layer:
    """A pre-norm layer over [n, tokens, width]; adds to its input in place. The last of its norms is before the MLP."""

    def __init__(self, norms: Sequence[Any], qkv: Affine, mix: Affine, widen: Affine, narrow: Affine, heads: int):
        self.norms, self.qkv, self.mix, self.widen, self.narrow, self.heads = norms, qkv, mix, widen, narrow, heads

    @staticmethod
    def parts(norms: Sequence[Any], attention: Attention, ff: nn.Sequential, dtype: torch.dtype) -> tuple[Any, ...]:
        """Return what a layer is made of, from the parts of a block of ours."""
        widen, narrow = (Affine.of(part, dtype) for part in ff if isinstance(part, nn.Linear))
        return norms, Affine.of(attention.qkv, dtype), Affine.of(attention.out, dtype), widen, narrow, attention.heads

    def __call__(self, x: Tensor, used: int | None = None) -> Tensor:
        """Compute the layer, with `used` only for the first tokens, which look at all."""
        return self.feed_forward(self.space(x, used))

    def space(self, x: Tensor, used: int | None) -> Tensor:
        """Add attention among the tokens, with `used` only to the first of them."""
        mixed = attend(self.norms[0](x), self.qkv, self.heads, used)
        return x[:, :used].add_(self.mix(mixed))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the MLP to [..., width]."""
        return x.add_(self.narrow(F.gelu(self.widen(self.norms[-1](x)))))


def attend(x: Tensor, qkv: Affine, heads: int, used: int | None = None) -> Tensor:
    """Mix values for the first `used` tokens of [n, tokens, width], or for all."""
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
    """Attend over [n, heads, tokens, d] in plain products, which in bfloat16 on a CPU take 0.6 of the fused time.

    A few frames at a time, so that the scores stay in the cache.
    """
    few = max(1, SCORES_IN_CACHE // (q.shape[1] * q.shape[2] * k.shape[2]))
    parts = zip((q * q.shape[-1] ** -0.5).split(few), k.split(few), v.split(few), strict=True)
    return torch.cat([(q @ k.transpose(-1, -2)).softmax(-1) @ v for q, k, v in parts])


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, where the device has that."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


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


class PairEncoder(ABC):
    """An encoder for labels, bound to the weights as they are now, on their device."""

    queries: Tensor  # [queries, width]
    places: Tensor  # [places, width], of the patches
    layers: Sequence[Any]

    @abstractmethod
    def frames(self, features: Tensor) -> Tensor:
        """Turn features [n, N, D] of single frames into what their pairs need, [n, ...]."""

    @abstractmethod
    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Turn outputs of `frames` for both frames of n pairs into query tokens [n, queries, width]."""

    def used(self, place: int) -> int | None:
        """Return how many tokens go on from a layer, the first ones; None for all."""
        return len(self.queries) if place == len(self.layers) - 1 else None


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


class FlatPairEncoder(PairEncoder):
    """An encoder of pre-norm layers over one row of tokens, the queries first."""

    def __init__(self, encoder: FusedEncoder | SequenceEncoder, dtype: torch.dtype = torch.float32):
        self.project, self.norm = Affine.of(encoder.project, dtype), encoder.norm
        self.queries, self.places = encoder.queries.detach(), encoder.places.detach()
        blocks: Any = encoder.blocks
        self.layers = [Layer(*Layer.parts((b.norm1, b.norm2), b.attention, b.ff, dtype)) for b in blocks]

    @abstractmethod
    def tokens(self, now: Tensor, later: Tensor) -> Tensor:
        """Return what goes into the first layer, [n, tokens, width]."""

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        x = self.tokens(now, later)
        for place, layer in enumerate(self.layers):
            x = layer(x, self.used(place))
        return self.norm(x[:, : len(self.queries)])


class FusedPairEncoder(FlatPairEncoder):
    """A `FusedEncoder`; of a frame it holds the features."""

    def frames(self, features: Tensor) -> Tensor:
        return features

    def tokens(self, now: Tensor, later: Tensor) -> Tensor:
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)).float() + self.places
        return torch.cat([self.queries.expand(len(x), -1, -1), x], 1)


class SequencePairEncoder(FlatPairEncoder):
    """A `SequenceEncoder`; of a frame it holds the projected features."""

    def __init__(self, encoder: SequenceEncoder, dtype: torch.dtype = torch.float32):
        super().__init__(encoder, dtype)
        learned, width = self.places.shape
        nothing = self.places.new_zeros(1, (learned - len(self.queries) - 1) // 2, width)
        table = encoder.sequence(nothing, nothing)[0].detach()  # what is the same for all pairs
        count = nothing.shape[1]
        self.first, self.now, self.middle, self.later = table.split([len(self.queries), count, 1, count])

    def frames(self, features: Tensor) -> Tensor:
        return self.project(features).float()

    def tokens(self, now: Tensor, later: Tensor) -> Tensor:
        first, middle = (part.expand(len(now), -1, -1) for part in (self.first, self.middle))
        return torch.cat([first, now + self.now, middle, later + self.later], 1)


def pair_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> PairEncoder:
    """Return the form for labels of a model's encoder."""
    if isinstance(encoder, SpaceTimeEncoder):
        return TwoFrameEncoder(encoder, dtype)
    if isinstance(encoder, SequenceEncoder):
        return SequencePairEncoder(encoder, dtype)
    assert isinstance(encoder, FusedEncoder)
    return FusedPairEncoder(encoder, dtype)


class VideoEncoder(NamedTuple):
    """Query tokens of frames, float32, in two steps: the first is shared by the pairs that a frame belongs to."""

    frames: Callable[[Tensor], Tensor]  # uint8 [n, V, H, W, 3] to what their pairs need, [n, ...]
    pairs: Callable[..., Tensor]  # that of both frames of n pairs (of all of n clips) to tokens [n, queries, width]


def torch_encoder(features: Callable[[Tensor], Tensor], encoder: PairEncoder) -> VideoEncoder:
    """Put frozen features, frames [n, V, H, W, 3] to [n, V * N, D], before an encoder of pairs."""
    return VideoEncoder(lambda frames: encoder.frames(features(frames)), encoder.pairs)


def block_size(numbers: int, device: torch.device) -> int:
    """Return how many frames, and pairs, to take at a time where a layer holds so many `numbers` per frame.

    It depends on the model and the kind of its device, never on the video.
    """
    return MOST if device.type != "cpu" else max(1, min(MOST, IN_CACHE // numbers))


def query_tokens(
    encoder: VideoEncoder, video: Video, cameras: Sequence[str], gaps: Sequence[int], size: int
) -> Iterator[Tensor]:
    """Yield tokens [n, queries, width] of the frames min(t + gap, T - 1) of a video, n values of t up to `size`.

    `gaps` ascend from 0; those of a pair are (0, stride).
    """
    held: dict[int, Tensor] = {}
    count, labelled, stride = 0, 0, gaps[-1]

    def take(end: int, last: int) -> Tensor:
        moments = [torch.stack([held[min(t + gap, last)] for t in range(labelled, end)]) for gap in gaps]
        for t in range(labelled, min(end, last)):
            del held[t]
        return encoder.pairs(*moments)

    for block in _blocks(video, cameras, size):
        held.update(enumerate(encoder.frames(block), count))
        count += len(block)
        while count >= labelled + size + stride:
            yield take(labelled + size, count)
            labelled += size
    while labelled < count:
        end = min(labelled + size, count)
        yield take(end, count - 1)
        labelled = end


def _blocks(video: Video, cameras: Sequence[str], size: int) -> Iterator[Tensor]:
    """Yield frames [n, V, H, W, 3], `size` at a time, in the end fewer."""
    waiting: list[np.ndarray] = []
    for frames in [video] if isinstance(video, np.ndarray | Tensor) else video:
        piece = frames.numpy(force=True) if isinstance(frames, Tensor) else frames
        piece = piece[:, None] if piece.ndim == 4 and len(cameras) == 1 else piece
        checks.rank("frames", piece, "T V H W 3")
        checks.size("frames", f"cameras ({', '.join(cameras)})", piece.shape[1], len(cameras))
        while len(piece):
            missing = size - sum(map(len, waiting))
            waiting.append(piece[:missing])
            piece = piece[missing:]
            if sum(map(len, waiting)) == size:
                yield _together(waiting)
                waiting = []
    if waiting:
        yield _together(waiting)


def _together(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces))  # a copy: what was decoded may be read-only
