"""timm's plain vision transformers without timm, so that lattok can compute them in bfloat16 or write them as a graph.

    x = W (pixels - mean) / std + places;    x += ls1 attention(norm1(x));    x += ls2 mlp(norm2(x))

Layer scales go into the matrix before them, mean and deviation of the pixels into the first, whose input then is whole
numbers up to 255: exact in bfloat16. Networks of another build are left to timm.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import Affine, Layer, precise

SAME = 1e-3  # largest difference from timm's features, relative to their size, that rounding may explain


class PlainViT:
    """Frames uint8 [n, H, W, 3] to patch features float32 [n, N, D]; bound to the weights as they are now.

    Matrices are `dtype`; residuals and norms stay float32.
    """

    def __init__(self, features: FrozenFeatures, dtype: torch.dtype = torch.float32):
        net: Any = features.network
        self.patch = features.patch
        self.embed = _embedding(net.patch_embed.proj, features, dtype)
        self.prefix, self.places = _tokens(net)
        self.first = None if isinstance(net.norm_pre, nn.Identity) else net.norm_pre
        self.blocks = [_layer(block, dtype) for block in net.blocks]
        self.last = net.norm

    @staticmethod
    def understands(features: FrozenFeatures) -> bool:
        """Tell whether the network has this form: by its parts, and by what it gives for one frame."""
        if features.class_token or not _known_parts(features.network):  # the class token is not among its outputs
            return False
        size = features.image_size
        frame = torch.arange(size * size * 3, device=features.mean.device).mul(97).remainder(251).to(torch.uint8)
        frame = frame.reshape(1, size, size, 3)
        with torch.no_grad():
            expected, got = features(frame), PlainViT(features)(frame)
        return bool((got - expected).abs().max() < SAME * expected.abs().max())

    def __call__(self, frames: Tensor) -> Tensor:
        patches = rearrange(frames, "n (y p) (x q) c -> n (y x) (p q c)", p=self.patch, q=self.patch)
        x = self.embed(patches).float().add_(self.places)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)  # n tokens width
        x = x if self.first is None else self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x[:, len(self.prefix) :])


def _known_parts(net: Any) -> bool:
    if net is None:
        return False
    from timm.models import vision_transformer

    parts: Any = vision_transformer
    if type(net) is not parts.VisionTransformer or type(net.patch_embed) is not parts.PatchEmbed:
        return False
    return net.pos_embed is not None and all(
        type(block) is parts.Block
        and type(block.attn) is parts.Attention
        and type(block.mlp) is parts.Mlp
        and isinstance(block.mlp.act, nn.GELU)
        and block.mlp.act.approximate == "none"
        for block in net.blocks
    )


def _layer(block: Any, dtype: torch.dtype) -> Layer:
    """Take over a `Block` of timm's vision transformer."""
    qkv, mix = Affine.of(block.attn.qkv, dtype), Affine.of(block.attn.proj, dtype, _scale(block.ls1))
    widen, narrow = Affine.of(block.mlp.fc1, dtype), Affine.of(block.mlp.fc2, dtype, _scale(block.ls2))
    return Layer((block.norm1, block.norm2), qkv, mix, widen, narrow, block.attn.num_heads)


def _scale(layer_scale: Any) -> Tensor | None:
    return None if isinstance(layer_scale, nn.Identity) else layer_scale.gamma


def _embedding(conv: nn.Conv2d, features: FrozenFeatures, dtype: torch.dtype) -> Affine:
    """Turn the convolution over patches into a matrix for pixels 0..255 in the order (y, x, colour)."""
    weight, mean, std = precise(conv.weight.detach()), precise(features.mean), precise(features.std)
    weight = weight / std[:, None, None]  # width colour y x
    bias = -(weight * mean[:, None, None]).sum((1, 2, 3)) + (0 if conv.bias is None else precise(conv.bias))
    weight = rearrange(weight / 255, "w c y x -> w (y x c)")
    return Affine(weight.float(), bias.float(), dtype)


def _tokens(net: Any) -> tuple[Tensor, Tensor]:
    """Return prefix tokens with their positions, and the positions of the patches, each [tokens, width]."""
    prefix = [token[0].detach() for token in (net.cls_token, net.reg_token) if token is not None]
    places = net.pos_embed[0].detach()
    before = torch.cat(prefix) if prefix else places[:0]
    if net.no_embed_class or not len(before):
        return before, places
    return before + places[: len(before)], places[len(before) :]
