"""Labels of a video: every frame is computed once, and a window of `stride` frames is all that is held.

    frames   what a frame contributes to its pairs, whichever role it plays: in the space-time encoder the embedding
             and the first block's attention in the frame, in the fused encoder its features, in that of a sequence
             their projection
    pairs    the rest, for query tokens of the later frame; in the last block only these go on

Frames are taken in blocks that begin at frame 0 of the episode and end with it, so that a label depends on neither the
pieces the video came in nor other episodes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import IOBase
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.nn.blocks import Attention
from lattok.types import LatentActions
from lattok.utils import checks
from lattok.utils.arrays import as_tensor

MAX_BLOCK = 32  # frames, and pairs, at a time on a CPU, and of large models
NUMBERS_IN_CACHE = 2**20  # numbers per layer that CPUs are given at a time; larger blocks are a tenth slower
MAX_BLOCK_ON_GPU = 128  # a block takes as many launches as one of 32
NUMBERS_ON_GPU = 2**25  # numbers per layer beyond which a block on a GPU is one of 32
SCORES_IN_CACHE = 2**23  # scores of attention at a time

READ = "A video file is given by its path."

Video = np.ndarray | Tensor | Iterable[np.ndarray | Tensor]
Array = TypeVar("Array", np.ndarray, Tensor)


class Affine:
    """x W^T + b in the precision of `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32):
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype) -> "Affine":
        return cls(linear.weight, linear.bias, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def split(self, *parts: int) -> "list[Affine]":
        """Return the maps to so many outputs each."""
        biases = [None] * len(parts) if self.bias is None else self.bias.split(parts)
        return [Affine(w, b, w.dtype) for w, b in zip(self.weight.split(parts), biases, strict=True)]


def add_product(x: Tensor, values: Tensor, by: Affine) -> None:
    """Add a map without bias of values [..., d] to x [..., width] in place; in one type the product itself adds."""
    if x.dtype == by.weight.dtype and x.is_contiguous():
        x.view(-1, x.shape[-1]).addmm_(values.reshape(-1, values.shape[-1]), by.weight.T)
    else:
        x.add_(by(values))


class Layer:
    """A pre-norm layer over [n, tokens, width]; adds to its input in place. The last of its norms is before the MLP."""

    def __init__(self, norms: Sequence[nn.Module], attention: Attention, ff: nn.Sequential, dtype: torch.dtype):
        self.norms, self.heads = norms, attention.heads
        self.qkv, self.mix = Affine.of(attention.qkv, dtype), Affine.of(attention.out, dtype)
        self.widen, self.narrow = (Affine.of(part, dtype) for part in ff if isinstance(part, nn.Linear))

    def __call__(self, x: Tensor, used: int | None = None) -> Tensor:
        """Compute the layer, with `used` only for the first tokens, which look at all."""
        return self.feed_forward(self.space(x, used))

    def space(self, x: Tensor, used: int | None) -> Tensor:
        """Add attention among the tokens, with `used` only to the first of them."""
        return x[:, :used].add_(self.mix(attend(self.norms[0](x), self.qkv, self.heads, used)))

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
    """Attend over [n, heads, tokens, d] in plain products, which in bfloat16 on a CPU take 0.6 of the fused time."""
    # a few frames at a time, so that the scores stay in the cache
    few = max(1, SCORES_IN_CACHE // (q.shape[1] * q.shape[2] * k.shape[2]))
    parts = zip((q * q.shape[-1] ** -0.5).split(few), k.split(few), v.split(few), strict=True)
    return torch.cat([(q @ k.transpose(-1, -2)).softmax(-1) @ v for q, k, v in parts])


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, where the device has that."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


class FlatPairEncoder:
    """The form for labels of an encoder of pre-norm layers over one row of tokens, the queries first."""

    def __init__(self, encoder: Any, dtype: torch.dtype = torch.float32):
        project = Affine.of(encoder.project, dtype)
        self.encoder, self.project = encoder, lambda x: project(x).to(encoder.queries.dtype)
        self.layers = [Layer((b.norm1, b.norm2), b.attention, b.ff, dtype) for b in encoder.blocks]

    def frames(self, features: Tensor) -> Tensor:
        """Turn features [n, N, D] of single frames into what their pairs need, [n, ...]."""
        return self.encoder.of_frame(features, self.project)

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Turn outputs of `frames` for both frames of n pairs into query tokens [n, queries, width]."""
        x = self.encoder.of_pair(now, later, self.project)
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.encoder.norm(self.layers[-1](x, len(self.encoder.queries)))


def of_cameras(name: str, frames: Array, axes: str, cameras: Sequence[str]) -> Array:
    """Return frames of these axes, V of them cameras, which may be left out when there is one."""
    names = axes.split()
    place = names.index("V")
    if frames.ndim == len(names) - 1 and len(cameras) == 1:
        frames = frames[(slice(None),) * place + (None,)]
    few = len(cameras) > 1 and names[0] != "B"  # the cameras are what is easily left out
    checks.rank(name, frames, axes, f"V are its cameras: {', '.join(cameras)}." if few else "")
    checks.size(name, f"cameras ({', '.join(cameras)})", frames.shape[place], len(cameras))
    return frames


def as_latents(latents: object) -> LatentActions:
    """Return latent actions as tensors, whichever kind `encode` gave."""
    if not isinstance(latents, LatentActions):
        checks.fail("latents", "what `encode` or `label_video` gives", type(latents).__name__)
    env = None if latents.env is None else as_latents(latents.env)
    parts = (latents.codes, latents.latents, latents.quantized)
    codes, vectors, quantized = (as_tensor("latents", part) for part in parts)
    return LatentActions(codes, vectors, quantized, env)


class VideoEncoder(NamedTuple):
    """Query tokens of frames, float32, in two steps: the first is shared by the pairs that a frame belongs to."""

    frames: Callable[[Tensor], Tensor]  # uint8 [n, V, H, W, 3] to what their pairs need, [n, ...]
    pairs: Callable[..., Tensor]  # that of both frames of n pairs (of all of n clips) to tokens [n, queries, width]


def torch_encoder(features: Callable[[Tensor], Tensor], encoder: Any) -> VideoEncoder:
    """Put frozen features, frames [n, V, H, W, 3] to [n, V * N, D], before an encoder's form for labels.

    Its `frames` and `pairs` are those of `FlatPairEncoder`; equal to the encoder up to rounding, and bound to the
    weights as they are now, on their device.
    """
    pairs: Callable[..., Tensor] = lambda *both: encoder.pairs(*both).float()  # noqa: E731
    return VideoEncoder(lambda frames: encoder.frames(features(frames)), pairs)


def block_size(numbers: int, device: torch.device) -> int:
    """Return how many frames, and pairs, to take at a time, by a layer's `numbers` per frame: never by the video."""
    if device.type == "cpu":
        return max(1, min(MAX_BLOCK, NUMBERS_IN_CACHE // numbers))
    return max(MAX_BLOCK, min(MAX_BLOCK_ON_GPU, NUMBERS_ON_GPU // numbers))


def query_tokens(
    encoder: VideoEncoder, video: Video, cameras: Sequence[str], gaps: Sequence[int], size: int
) -> Iterator[Tensor]:
    """Yield tokens [n, queries, width] of the frames t + gap of a video, at most `size` values of t; ends are repeated.

    `gaps` ascend; those of a pair are (0, stride).
    """
    held: dict[int, Tensor] = {}
    count, labelled, stride, before = 0, 0, gaps[-1], max(0, -gaps[0])

    def take(first: int, end: int, last: int) -> Tensor:
        moments = [torch.stack([held[min(max(t + gap, 0), last)] for t in range(first, end)]) for gap in gaps]
        for t in range(first - before, min(end, last) - before):
            held.pop(t, None)  # of a block's size; the first ones are before the video
        return encoder.pairs(*moments)

    for block in _blocks(video, cameras, size):
        held.update(enumerate(encoder.frames(block), count))
        count += len(block)
        while count >= labelled + size + stride:
            yield take(labelled, labelled + size, count)
            labelled += size
    for first in range(labelled, count, size):
        yield take(first, min(first + size, count), count - 1)
    if not count:
        checks.fail("frames", "at least one frame", "none")


def _blocks(video: Video, cameras: Sequence[str], size: int) -> Iterator[Tensor]:
    """Yield frames [n, V, H, W, 3], `size` at a time, in the end fewer."""
    if isinstance(video, str | bytes | Mapping | IOBase) or not isinstance(video, np.ndarray | Tensor | Iterable):
        checks.fail("frames", "uint8 [T, V, H, W, 3], or pieces of it in turn", type(video).__name__, READ)
    whole = isinstance(video, np.ndarray | Tensor)
    frames = chain.from_iterable(_frames(piece, cameras, whole) for piece in ([video] if whole else video))
    while block := list(islice(frames, size)):
        if len({frame.shape for frame in block}) > 1:
            checks.fail("frames", "frames of one size", ", ".join(sorted({str(list(f.shape)) for f in block})))
        yield torch.from_numpy(np.stack(block))  # a copy: what was decoded may be read-only


def _frames(piece: Any, cameras: Sequence[str], whole: bool) -> np.ndarray:
    """Return frames [T, V, H, W, 3] of a piece: an array or, of a video that is not `whole`, one frame or picture."""
    found = piece if isinstance(piece, np.ndarray) else as_tensor("frames", piece).numpy(force=True)
    alone = not whole and found.ndim == (3 if len(cameras) == 1 else 4)
    return of_cameras("frames", found[None] if alone else found, "T V H W 3", cameras)
