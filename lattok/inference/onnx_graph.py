"""The encoders for labels as ONNX graphs in float32, built node by node; needs the extra `onnx`.

Two graphs as in `labelling.VideoEncoder`: frames to what their pairs need, and pairs to query tokens. Rows are flat,
[n * tokens, width], so that a matrix product with its bias is one `Gemm`. Written for onnxruntime's CPU kernels, which
reach twice the rate of torch's in float32. Why not `torch.onnx.export`: docs/decisions.md, "Fast inference".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lattok.image_lam.fast_encoders import Affine, FusedPairEncoder, Layer, PairEncoder, TwoFrameBlock, TwoFrameEncoder
from lattok.inference.vit import PlainViT

OPSET = 23  # has attention as one operator
IR_VERSION = 10

Described = Mapping[str, tuple[type, Sequence[Any]]]


class Graph:
    """Nodes and constants under way; calling it adds a node and returns the name of its output.

    All float32 and [rows, width] but where a shape is named.
    """

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def serialized(self, inputs: Described, result: tuple[type, Sequence[Any]]) -> bytes:
        """The graph as a file; types and shapes (names for free axes) of what goes in, and of its `result`."""
        helper, kind = self.onnx.helper, self.onnx.helper.np_dtype_to_tensor_dtype
        *given, out = (
            helper.make_tensor_value_info(name, kind(np.dtype(dtype)), list(shape))
            for name, (dtype, shape) in {**inputs, "result": result}.items()
        )
        graph = helper.make_graph(self.nodes, "encoder", given, [out], list(self.constants.values()))
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="lattok")
        self.onnx.checker.check_model(model)
        return model.SerializeToString()

    def constant(self, values: Any) -> str:
        """An array or a tensor in the graph."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """As numpy's, 0 for an axis that stays."""
        return self("Reshape", x, self.constant(np.array(shape, dtype=np.int64)))

    def alone(self, features: str, encoder: PairEncoder) -> str:
        """`frames` of an encoder: features [n, N, D] to [n, tokens, width]."""
        return features if isinstance(encoder, FusedPairEncoder) else self._frame(features, encoder)

    def pairs(self, now: str, later: str, encoder: PairEncoder) -> str:
        """`pairs` of an encoder: [n, tokens, width] twice to query tokens [n, queries, width]."""
        if isinstance(encoder, FusedPairEncoder):
            return self._fused(now, later, encoder)
        return self._two_frames(now, later, encoder)

    def affine(self, x: str, affine: Affine) -> str:
        """x W^T + b."""
        matrix = self.constant(affine.weight.T)
        return self("MatMul", x, matrix) if affine.bias is None else self("Gemm", x, matrix, self.constant(affine.bias))

    def norm(self, x: str, norm: Any) -> str:
        """Layer norm over the last axis."""
        return self("LayerNormalization", x, self.constant(norm.weight), self.constant(norm.bias), epsilon=norm.eps)

    def attend(self, rows: str, qkv: Affine, tokens: int, heads: int, used: int | None = None) -> str:
        """Mixed values of rows [n * tokens, width], with `used` only for the first tokens of each frame.

        One matrix each for queries, keys and values spares a split.
        """
        width = qkv.weight.shape[1]
        query, key, value = qkv.split(width, width, width)
        asking = rows if used is None else self.flat(self.first(self.framed(rows, tokens, width), used), width)
        count, scale = used or tokens, (width // heads) ** -0.5
        q, k, v = self.affine(asking, query), self.affine(rows, key), self.affine(rows, value)
        parts = [self.framed(q, count, width), self.framed(k, tokens, width), self.framed(v, tokens, width)]
        return self.flat(self("Attention", *parts, q_num_heads=heads, kv_num_heads=heads, scale=scale), width)

    def feed_forward(self, x: str, norm: Any, widen: Affine, narrow: Affine) -> str:
        """x + W gelu(V norm(x))."""
        return self("Add", x, self.affine(self("Gelu", self.affine(self.norm(x, norm), widen)), narrow))

    def layer(self, x: str, layer: Layer, tokens: int, used: int | None = None) -> str:
        """A pre-norm layer."""
        x = self.residual(x, layer.norm1, layer.qkv, layer.mix, layer.heads, tokens, used)
        return self.feed_forward(x, layer.norm2, layer.widen, layer.narrow)

    def residual(self, x: str, norm: Any, qkv: Affine, mix: Affine, heads: int, tokens: int, used: int | None) -> str:
        """x + attention(norm(x)), with `used` for the first tokens of each frame only."""
        mixed, width = self.attend(self.norm(x, norm), qkv, tokens, heads, used), qkv.weight.shape[1]
        if used is not None:
            x = self.flat(self.first(self.framed(x, tokens, width), used), width)
        return self("Add", x, self.affine(mixed, mix))

    def framed(self, rows: str, tokens: int, width: int) -> str:
        """[n * tokens, width] to [n, tokens, width]."""
        return self.reshape(rows, -1, tokens, width)

    def flat(self, x: str, width: int) -> str:
        """[..., width] to rows."""
        return self.reshape(x, -1, width)

    def first(self, x: str, count: int) -> str:
        """The first `count` of the second axis."""
        return self.part(x, 0, count, axis=1)

    def part(self, x: str, begin: int, end: int, axis: int) -> str:
        """A slice."""
        return self("Slice", x, *(self.constant(np.array([value])) for value in (begin, end, axis)))

    def before(self, tokens: Tensor, x: str) -> str:
        """Tokens [k, width] before those of every x [n, t, width]."""
        count = self("Slice", self("Shape", x), *(self.constant(np.array([value])) for value in (0, 1)))
        shape = self("Concat", count, self.constant(np.array(tokens.shape)), axis=0)
        return self("Concat", self("Expand", self.constant(tokens[None]), shape), x, axis=1)

    def pixels(self, frames: str, patch: int, size: int) -> str:
        """uint8 [n, H, W, 3] to float32 [n * N, patch * patch * 3]."""
        side = size // patch
        x = self.reshape(self("Cast", frames, to=1), -1, side, patch, side, patch, 3)
        return self.reshape(self("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), -1, patch * patch * 3)

    def vit(self, frames: str, vit: PlainViT, size: int) -> str:
        """uint8 [n, H, W, 3] to features [n, N, D]."""
        count, width = vit.places.shape
        x = self.framed(self.affine(self.pixels(frames, vit.patch, size), vit.embed), count, width)
        x = self("Add", x, self.constant(vit.places))
        prefix = len(vit.prefix)
        x = self.flat(self.before(vit.prefix, x) if prefix else x, width)
        x = x if vit.first is None else self.norm(x, vit.first)
        for layer in vit.blocks:
            x = self.layer(x, layer, prefix + count)
        return self.norm(self.part(self.framed(x, prefix + count, width), prefix, prefix + count, axis=1), vit.last)

    def _fused(self, now: str, later: str, encoder: FusedPairEncoder) -> str:
        """Features [n, N, D] twice to query tokens."""
        (places, width), queries = encoder.places.shape, len(encoder.queries)
        change = self("Mul", self("Sub", later, now), self.constant(np.float32(3)))
        rows = self.flat(self("Concat", now, later, change, axis=2), encoder.project.weight.shape[1])
        x = self("Add", self.framed(self.affine(rows, encoder.project), places, width), self.constant(encoder.places))
        x = self.flat(self.before(encoder.queries, x), width)
        for place, layer in enumerate(encoder.layers):
            x = self.layer(x, layer, queries + places, encoder.used(place))
        return self.framed(self.norm(x, encoder.norm), queries, width)

    def _frame(self, features: str, encoder: TwoFrameEncoder) -> str:
        """Features [n, N, D] to [n, tokens, width]."""
        places, width = encoder.places.shape
        rows = self.flat(self.norm(features, encoder.norm_in), encoder.embed.weight.shape[1])
        x = self.framed(self.norm(self.affine(rows, encoder.embed), encoder.norm_out), places, width)
        x = self.flat(self.before(encoder.queries, self("Add", x, self.constant(encoder.places))), width)
        return self.framed(self._space(x, encoder, 0), *encoder.held)

    def _two_frames(self, now: str, later: str, encoder: TwoFrameEncoder) -> str:
        """[n, tokens, width] twice to query tokens."""
        width = encoder.places.shape[1]
        x = self.flat(self("Concat", now, later, axis=0), width)
        for place, block in enumerate(encoder.blocks):
            x = x if place == 0 else self._space(x, encoder, place)
            x = self._time(x, block, width, only_later=place == len(encoder.blocks) - 1)
            x = self.feed_forward(x, block.norms[2], block.widen, block.narrow)
        return self.framed(x, len(encoder.queries), width)

    def _space(self, x: str, encoder: TwoFrameEncoder, place: int) -> str:
        block, tokens = encoder.blocks[place], len(encoder.queries) + len(encoder.places)
        return self.residual(x, block.norms[0], block.qkv, block.mix, block.heads, tokens, encoder.used(place))

    def _time(self, x: str, block: TwoFrameBlock, width: int, only_later: bool) -> str:
        first, second = self._frames(self.norm(x, block.norms[1]), width)
        alone, change = self.affine(first, block.time_alone), self("Sub", second, first)
        key, value = (self.affine(change, half) for half in block.time_change.split(width, width))
        query = self.affine(second, block.time_query)
        query, key, value = (self.reshape(x, -1, block.heads, width // block.heads) for x in (query, key, value))
        score = self("ReduceSum", self("Mul", query, key), self.constant(np.array([2])), keepdims=1)
        change = self.flat(self("Mul", value, self("Sigmoid", score)), width)
        later = self("Gemm", change, self.constant(block.time_mix.weight.T), alone)
        if only_later:
            return self("Add", self._frames(x, width)[1], later)
        return self("Add", x, self("Concat", alone, later, axis=0))

    def _frames(self, x: str, width: int) -> tuple[str, str]:
        """Rows of the earlier and of the later frames."""
        both = self.reshape(x, 2, -1, width)
        return self.flat(self.part(both, 0, 1, axis=0), width), self.flat(self.part(both, 1, 2, axis=0), width)
