"""What more than one model uses: Transformer blocks, positions, and care with threads, devices and precision."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.utils import checks
from lattok.utils.devices import has_streams

Moved = TypeVar("Moved")


class Attention(nn.Module):
    """Multi-head self-attention over the second-last axis of [..., n, d]."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        checks.divides(dim, f"the width {dim}", heads=heads)
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, causal: bool = False, keys: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Attend to tokens where `keys` [..., n] bool, its leading axes broadcast against those of x.

        Or `seen` [B, n, n] bool for x [B, n, d]: which tokens each of them may look at.
        """
        lead = x.shape[:-2]
        parts = self.qkv(x).flatten(0, -3).chunk(3, -1)  # whose gradients are put together by one operation
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # b h n d
        mask = None if keys is None else keys.expand(*lead, -1).flatten(0, -2)[:, None, None]  # b 1 1 n
        mask = mask if seen is None else seen[:, None]  # b 1 n n
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2)).unflatten(0, lead)

    def read(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Attend from x [B, n, d] to `tokens` [B, m, d] instead of to itself."""
        width, (weight, bias) = x.shape[-1], (self.qkv.weight, self.qkv.bias)
        first, rest = (None, None) if bias is None else (bias[:width], bias[width:])
        q, k, v = F.linear(x, weight[:width], first), *F.linear(tokens, weight[width:], rest).chunk(2, -1)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in (q, k, v))
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class CrossAttention(nn.Module):
    """Attention of queries [B, q, d] over keys [B, n, d]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor, valid: Tensor | None = None, causal: bool = False) -> Tensor:
        """Look at the keys that are `valid` [B, n] bool; a sample without any gets the bias of the output.

        `causal`: the first q keys are the queries' own, of which each sees itself and those before it.
        """
        seen = [rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in self.kv(keys).chunk(2, -1)]
        return self.mix(x, seen, valid, causal)

    def keys_and_values(self, keys: Tensor) -> Tensor:
        """Return what queries look at in keys [B, n, d]: [2, B, heads, n, d / heads]."""
        return rearrange(self.kv(keys), "b n (two h d) -> two b h n d", two=2, h=self.heads)

    def mix(
        self, x: Tensor, seen: Tensor | Sequence[Tensor], valid: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Look at keys and values."""
        q = rearrange(self.q(x), "b q (h d) -> b h q d", h=self.heads)
        k, v = seen
        if valid is not None:
            v = v * valid[:, None, :, None]
            valid = (valid | ~valid.any(1, keepdim=True))[:, None, None]  # b 1 1 n; never a row without keys
        if causal:
            before = torch.ones(x.shape[1], k.shape[2], dtype=torch.bool, device=x.device)
            before[:, : x.shape[1]].tril_()
            valid = before if valid is None else valid & before
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v, valid), "b h q d -> b q (h d)"))


def feed_forward(dim: int, hidden: int, activation: type[nn.Module], dropout: float = 0.0) -> nn.Sequential:
    """Make linear, activation, linear, with dropout after the activation."""
    return nn.Sequential(nn.Linear(dim, hidden), activation(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class PostNormBlock(nn.Module):
    """Transformer layer as first published: x = norm(x + attention(x)); x = norm(x + ff(x)), ReLU."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = feed_forward(dim, hidden, nn.ReLU, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.ff(x)))


class PreNormBlock(nn.Module):
    """x += attention(norm(x)); x += ff(norm(x)), exact GELU; by default q/k/v without bias (UniVLA).

    `hidden` is the width inside the MLP, 0: four times `dim`; `eps` that of the norms.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, hidden: int = 0, bias: bool = False, eps: float = 1e-5
    ):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attention = Attention(dim, heads, bias=bias)
        self.ff = feed_forward(dim, hidden or 4 * dim, nn.GELU, dropout)

    def forward(self, x: Tensor, keys: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), keys=keys, seen=seen)
        return x + self.ff(self.norm2(x))


class SpaceTimeBlock(nn.Module):
    """Over [B, T, n, d]: attention inside each frame, causal attention over frames per place, feed-forward (UniVLA)."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.space = Attention(dim, heads, bias=False)
        self.time = Attention(dim, heads, bias=False)
        self.ff = feed_forward(dim, 4 * dim, nn.GELU, dropout)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Attend inside a frame to tokens where `keys` [B, 1, n] bool."""
        x = x + self.space(self.norm1(x), keys=keys)
        over_time = self.time(rearrange(self.norm2(x), "b t n d -> b n t d"), causal=True)
        x = x + rearrange(over_time, "b n t d -> b t n d")
        return x + self.ff(self.norm3(x))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch `count` threads for the duration; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def onto(values: Moved, device: torch.device) -> Moved:
    """Copy a tensor of the host, or a batch of some, to a device; where it has streams, it is not waited for."""
    from accelerate.utils import send_to_device  # slow to import

    move: Any = getattr(values, "to", partial(send_to_device, values))
    return move(device, non_blocking=has_streams(device))


def upcast(tensor: Tensor) -> Tensor:
    """Return what autocast rounded in float32, other tensors as they are: for statistics and losses."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def same_precision(move: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Take the change of precision out of `nn.Module._apply`'s function, for what must not be rounded."""

    def moved(tensor: Tensor) -> Tensor:
        result = move(tensor)
        return result if result.dtype == tensor.dtype else tensor.to(result.device)

    return moved


def sinusoids(places: Tensor, dim: int) -> Tensor:
    """Return sin and cos in turn of places [...], frequencies 10000^(-2i/dim): [..., dim] (Vaswani et al., 2017)."""
    frequency = torch.exp(torch.arange(0, dim, 2, device=places.device) * (-math.log(10000.0) / dim))
    angle = places[..., None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :dim]


def dct_matrix(n: int) -> np.ndarray:
    """Return the orthonormal DCT-II as a matrix, float64 [frequencies n, steps n]."""
    matrix = np.sqrt(2 / n) * np.cos(np.pi * np.arange(n)[:, None] * (2 * np.arange(n) + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix
