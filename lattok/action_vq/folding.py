"""The encoder of `P2TActionVQ` as few matrices: everything linear between two non-linear steps, multiplied out.

    centred = chunks - shift                                         [B, H m], physical units
    x = relu(centred @ entry)      1/scale, FFT, projection, first convolution: one matrix for a fixed horizon
    x = relu(taps(x) @ conv)       each later convolution, without the taps that only ever see padding
    x = norm(x + attention(x)); x = norm(x + ff(x))                  per block, biases moved where they are free
    codes = argmax(x @ scores)     the last norm's gain and offset sit in the codebook; |x|^2 does not matter

All products are taken in float64 and rounded once. Matrices are [in, out].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lattok.action_vq.model import Encoder, P2TActionVQ
from lattok.nn import PostNormBlock
from lattok.normalize import Normalizer

Array = NDArray[np.float32]


class Affine(NamedTuple):
    """x @ weight + bias."""

    weight: Array  # [in, out]
    bias: Array  # [out]


class Taps(NamedTuple):
    """A convolution as a matmul over groups of steps.

    `index` [rows, taps] says which steps each matmul row sees, H for a step of zeros; None where the rows are the steps
    in storage order, `group` at a time.
    """

    affine: Affine  # [taps * d, group * d]
    group: int  # steps that one row yields
    index: NDArray[np.int64] | None


class FoldedBlock(NamedTuple):
    """A post-norm Transformer layer. Rows arrive and leave with the bias of what is added to them next already in them.

    That bias sits in the norms' offsets and is taken back in the matrices that read the rows, so adding it costs
    nothing. Queries are scaled by 1/sqrt(d/heads).
    """

    heads: int
    query: Affine
    key: Array  # no bias: it moves all scores of a query alike
    value: Affine
    mix: Array  # after attention
    norm1: Affine  # gain and offset, not a matrix
    widen: Affine
    narrow: Array
    norm2: Affine | None  # None: gain 1, offset 0
    eps: tuple[float, float]


class Folded(NamedTuple):
    """The whole encoder with its codebook."""

    shift: Array  # [H * m]
    reach: Array | None  # [H * m]: how far from the shift values count; None: however far
    entry: Affine  # [H * m, H * d], or [H * m, (H + 1) * d] with a last step of zeros where the next matrix gathers
    entry_relu: bool
    order: list[int]  # the step that each stored row stands for
    convs: list[Taps]
    offset: Array  # [d], added to the rows that enter the blocks
    blocks: list[FoldedBlock]
    scores: Affine  # [d, K]; the largest wins


@torch.no_grad()
def fold(model: P2TActionVQ) -> Folded:
    """Fold the weights as they are now."""
    encoder, horizon = model.encoder, model.horizon
    convs = [module for module in encoder.convs if isinstance(module, nn.Conv1d)]
    order = _storage_order(horizon, [conv.dilation[0] for conv in convs[1:]])
    weight, bias = _entry(encoder, convs[:1], _double(model.normalizer.scale), horizon)
    weight, bias = weight[:, order], bias[order]
    taps = [_taps(conv, order) for conv in convs[1:]]
    if taps and taps[0].index is not None:
        weight, bias = nn.functional.pad(weight, (0, 0, 0, 1)), nn.functional.pad(bias, (0, 0, 0, 1))
    blocks = [block for block in encoder.transformer if isinstance(block, PostNormBlock)]
    return Folded(
        shift=_single(_double(model.normalizer.shift).repeat(horizon)),
        reach=_reach(model.normalizer, horizon),
        entry=_affine(weight.flatten(1), bias.flatten()),
        entry_relu=bool(convs),
        order=order,
        convs=taps,
        offset=_single(_mix_bias(blocks[0])),
        blocks=[_block(block, following) for block, following in zip(blocks, [*blocks[1:], None], strict=True)],
        scores=_scores(model.quantizer.codebook_vectors[0], blocks[-1].norm2),
    )


def _reach(normalizer: Normalizer, horizon: int) -> Array | None:
    """Where a normaliser clips, in physical units off its shift, [H * m]."""
    if normalizer.limit is None:
        return None
    return _single((_double(normalizer.limit) * _double(normalizer.scale)).repeat(horizon))


def _double(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.detach().double().cpu()


def _single(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)


def _entry(encoder: Encoder, first: list[nn.Conv1d], scale: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Centred chunk to the input of the first non-linearity: weight [H * m, H, d] and bias [H, d].

    The image of every unit chunk is the matrix: the modules' own algebra in float64, applied to the identity.
    """
    size = horizon * len(scale)
    unit = torch.eye(size, dtype=torch.float64).reshape(size, horizon, -1) / scale
    features = unit
    if encoder.spectrum is not None:
        spectrum = torch.fft.fft(unit, dim=1)
        features = torch.cat([unit, spectrum.real, spectrum.imag], dim=-1)
    weight = features @ _double(encoder.project.weight).T
    bias = _double(encoder.project.bias).expand(horizon, -1)
    for conv in first:
        kernel, reach = _double(conv.weight), conv.dilation[0]
        both = torch.cat([weight, bias[None]]).transpose(1, 2)
        both = nn.functional.conv1d(both, kernel, padding=reach, dilation=reach).transpose(1, 2)
        weight, bias = both[:-1], both[-1] + _double(conv.bias)
    return weight, bias


def _storage_order(horizon: int, dilations: Sequence[int]) -> list[int]:
    """Steps in an order that lays those side by side which the widest `_dense` convolution joins.

    Attention does not know positions and the entry writes in any order, so an order costs nothing.
    """
    reach = max((r for r in dilations if _dense(horizon, r)), default=horizon)
    return sorted(range(horizon), key=lambda step: (step % reach, step))


def _dense(horizon: int, reach: int) -> bool:
    """Whether the steps `reach` apart form groups of 2 or 3: a full matrix over a group wastes little or nothing."""
    return horizon in (2 * reach, 3 * reach)


def _taps(conv: nn.Conv1d, order: list[int]) -> Taps:
    """A later convolution in storage order, in the form that needs the fewest products."""
    kernel, bias, reach = _double(conv.weight).permute(2, 1, 0), _double(conv.bias), conv.dilation[0]  # taps in out
    horizon, dim = len(order), len(bias)
    if reach >= horizon:  # both outer taps see only padding
        return Taps(_affine(kernel[1], bias), 1, None)
    group = horizon // reach
    aligned = all(order[row] == row % group * reach + row // group for row in range(horizon))
    if _dense(horizon, reach) and aligned:
        weight = torch.zeros(group, dim, group, dim, dtype=torch.float64)
        for source in range(group):
            for target in range(max(source - 1, 0), min(source + 2, group)):
                weight[source, :, target] = kernel[source - target + 1]
        return Taps(_affine(weight.reshape(group * dim, -1), bias.repeat(group)), group, None)
    row = {step: place for place, step in enumerate(order)}
    index = [[row.get(step + shift, horizon) for shift in (-reach, 0, reach)] for step in order]
    return Taps(_affine(kernel.reshape(3 * dim, dim), bias), 1, np.array(index, dtype=np.int64))


def _block(block: PostNormBlock, following: PostNormBlock | None) -> FoldedBlock:
    """A layer whose rows arrive with `_mix_bias(block)` in them and leave with that of the `following` layer."""
    qkv, norm1, norm2 = block.attention.qkv, block.norm1, block.norm2
    (wq, wk, wv), (bq, _, _) = _double(qkv.weight).chunk(3), _double(qkv.bias).chunk(3)
    scale, held = (qkv.in_features // block.attention.heads) ** -0.5, _mix_bias(block)
    (w1, b1), (w2, b2) = _linear(block.ff[0]), _linear(block.ff[-1])
    leaving = None if following is None else _affine(_double(norm2.weight), _double(norm2.bias) + _mix_bias(following))
    return FoldedBlock(
        heads=block.attention.heads,
        query=_affine(wq.T * scale, (bq - wq @ held) * scale),
        key=_single(wk.T),
        value=_affine(wv.T, -wv @ held),
        mix=_single(_double(block.attention.out.weight).T),
        norm1=_affine(_double(norm1.weight), _double(norm1.bias) + b2),
        widen=_affine(w1.T, b1 - w1 @ b2),
        narrow=_single(w2.T),
        norm2=leaving,
        eps=(norm1.eps, norm2.eps),
    )


def _mix_bias(block: PostNormBlock) -> Tensor:
    """What attention adds besides its mix of rows: shares sum to one, so the values' bias passes through."""
    value_bias = _double(block.attention.qkv.bias).chunk(3)[2]
    return _double(block.attention.out.weight) @ value_bias + _double(block.attention.out.bias)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return _double(layer.weight), _double(layer.bias)


def _affine(weight: Tensor, bias: Tensor) -> Affine:
    return Affine(_single(weight), _single(bias))


def _scores(codebook: Tensor, norm: nn.LayerNorm) -> Affine:
    """Score of code k for a normed latent: x . e_k - |e_k|^2 / 2, with the norm's gain and offset multiplied in.

    Seen from the middle of the codebook the terms are small, and so is their rounding.
    """
    rows = _double(codebook)
    middle = rows.median(0).values
    rows = rows - middle
    bias = rows @ (_double(norm.bias) - middle) - rows.square().sum(-1) / 2
    return _affine((rows * _double(norm.weight)).T, bias)
