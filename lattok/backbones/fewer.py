"""The same layers of transformers in fewer operations: a training step on a GPU waits for launches, not for products.

In float32 they are transformers' own, bit for bit, but for the attention of images, which is of all at once. In a lower
or mixed precision norms are one operation and rotations of queries and keys three, which round less often.
"""

import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lattok.backbones.lora import Passing
from lattok.nn.rounding import autocast_dtype

IMAGE_ATTENTION = "Qwen3VLVisionAttention"  # it attends to one image after the other
TEXT_ATTENTION = "Qwen3VLTextAttention"
TEXT_MODEL = "Qwen3VLTextModel"  # it adds features of images to its first layers, by a mask that a GPU waits for
NORM = ("RMSNorm", "variance_epsilon")  # end of a class's name, and what those have that are W x / rms(x)


def launch_less(model: nn.Module) -> "ImageSizes":
    """Let a model compute its layers in this way, in place; return what may be told the sizes of images."""
    sizes, places = ImageSizes(), Passing()
    for part in model.modules():
        kind = type(part).__name__
        if kind == IMAGE_ATTENTION:
            part.forward = partial(attend_at_once, part, sizes)
        elif kind == TEXT_ATTENTION:
            part.forward = partial(attend_to_text, part)
        elif kind == TEXT_MODEL:
            vars(part)["_deepstack_process"] = partial(with_features, part, places)
        elif kind.endswith(NORM[0]) and hasattr(part, NORM[1]):
            part.forward = partial(normed, part)
    return sizes


class ImageSizes:
    """Whether the images of a batch have one size, which all layers ask."""

    def __init__(self) -> None:
        self._last, self.known = Passing(), Passing()  # `known.value`: they have, by who prepared them

    def __call__(self, ends: Tensor) -> tuple[bool, Tensor | None]:
        """Return whether to take images for one size, by where they end; and, once, NaN where that was wrong."""
        if self.known.value:
            return True, None
        compiling = torch.compiler.is_compiling()
        if not compiling and self._last.value is not None and self._last.value[0] is ends:
            return self._last.value[1], None
        lengths = ends.diff()
        alike = (lengths == lengths[0]).all()
        taken = not alike.is_cpu or bool(alike)  # an accelerator is not waited for
        if not compiling:
            self._last.value = (ends, taken)
        return taken, torch.where(alike, 0.0, torch.nan) if taken else None


def attend_at_once(
    part: Any,
    sizes: ImageSizes,
    states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **given: Any,
) -> Tensor:
    """Attend within all images of a batch at once; one by one, a GPU waited half of a step (an H100, 64 images).

    They have one size here. Images of several are left to transformers where the CPU sees it, and are NaN elsewhere.
    """
    alike, unless = sizes(cu_seqlens)
    if not alike:
        return type(part).forward(part, states, cu_seqlens, position_embeddings=position_embeddings, **given)
    parts = part.qkv(states).reshape(len(states), 3, part.num_heads, -1)
    if parts.dtype == torch.float32 or torch.compiler.is_compiling():
        rotate, (query, key, value) = sys.modules[type(part).__module__].apply_rotary_pos_emb_vision, parts.unbind(1)
        query, key = rotate(query, key, *position_embeddings)
    else:
        query, key, value = _RotatedParts.apply(parts, *(x[:, None, None] for x in position_embeddings))
    each = [x.unflatten(0, (len(cu_seqlens) - 1, -1)).transpose(1, 2) for x in (query, key, value)]
    mixed = F.scaled_dot_product_attention(each[0], each[1], each[2], scale=part.scaling)
    out = part.proj(mixed.transpose(1, 2).reshape(len(states), -1))
    return out if unless is None else out + unless.to(out.dtype)


def with_features(part: Any, places: Passing, states: Tensor, mask: Tensor, features: Tensor) -> Tensor:
    """Add features [n, D] to the states [B, L, D] of image tokens, whose number a GPU need not be asked for."""
    if torch.compiler.is_compiling():
        return type(part)._deepstack_process(part, states, mask, features)
    if places.value is None or places.value[0] is not mask:  # once for all layers
        places.value = mask, (~mask).flatten().int().argsort(stable=True)[: len(features)]
    return states.flatten(0, 1).index_add(0, places.value[1], features.to(states.dtype)).view_as(states)


def attend_to_text(
    part: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    **given: Any,
) -> Any:
    """Attend as transformers does, with norms and rotations of fewer operations."""
    exact = hidden_states.dtype == torch.float32 and autocast_dtype(hidden_states.device) is None
    sdpa = part.config._attn_implementation == "sdpa" and not part.attention_dropout
    cached = any(given.get(name) is not None for name in ("cache", "past_key_values"))
    if exact or torch.compiler.is_compiling() or cached or not sdpa:
        given |= {"position_embeddings": position_embeddings, "attention_mask": attention_mask}
        return type(part).forward(part, hidden_states, **given)
    lead = hidden_states.shape[:-1]
    projections = (part.q_proj, part.k_proj, part.v_proj)
    query, key, value = (each(hidden_states).view(*lead, -1, part.head_dim) for each in projections)
    places = [x[:, :, None] for x in position_embeddings]
    both = torch.cat([part.q_norm(query), part.k_norm(key)], 2)
    query, key = rotated(both, *places).split((query.shape[2], key.shape[2]), 2)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    masked = attention_mask is not None
    if masked:  # no fused kernel takes a mask and keys of several queries
        shape, times = key.shape, part.num_key_value_groups
        key, value = (
            x[:, :, None].expand(-1, -1, times, -1, -1).reshape(shape[0], -1, *shape[2:]) for x in (key, value)
        )
    options: Any = {"scale": part.scaling, "enable_gqa": not masked, "is_causal": not masked}
    mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, **options)
    return part.o_proj(mixed.transpose(1, 2).reshape(*lead, -1)), None


def normed(part: Any, x: Tensor) -> Tensor:
    """Return W x / rms(x)."""
    lower = autocast_dtype(x.device)
    exact = x.dtype == torch.float32 and lower is None
    if exact or x.dtype not in (part.weight.dtype, lower):
        return type(part).forward(part, x)
    return F.rms_norm(x, part.weight.shape, part.weight.to(x.dtype), part.variance_epsilon)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of x [..., d] by angles whose cos and sin [..., d] have equal halves."""
    return _Rotated.apply(x, cos, sin)  # pyright: ignore


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


class _RotatedParts(torch.autograd.Function):
    """Queries and keys of [n, 3, heads, d] rotated, and values: three whose gradients are put together once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        return *_turned(x[:, :2], cos, sin, 1.0).unbind(1), x[:, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, None]:
        both, (cos, sin) = torch.stack((query, key), 1), ctx.saved_tensors
        whole = both.new_empty(len(both), 3, *both.shape[2:])
        _turned(both, cos, sin, -1.0, whole[:, :2])
        whole[:, 2] = value
        return whole, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: float, out: Tensor | None = None) -> Tensor:
    """Return (a cos - way b sin, b cos + way a sin) of x = (a, b); rounded once where the angles' are more precise."""
    half, wide = x.shape[-1] // 2, x * cos
    if out is None:
        out = wide if wide.dtype == x.dtype else torch.empty_like(x)
    (first, second), (low, high), (a, b) = (each.split(half, -1) for each in (wide, out, x))
    torch.addcmul(first, b, sin[..., :half], value=-way, out=low)
    torch.addcmul(second, a, sin[..., half:], value=way, out=high)
    return out
