"""Query tokens by onnxruntime on the CPU: the encoders for labels as ONNX graphs in float32, built node by node.

Two graphs as in `labelling.VideoEncoder`: frames to what their pairs need, and pairs to query tokens. Rows are flat,
[n * tokens, width], so that a matrix product with its bias is one `Gemm`. Written for onnxruntime's CPU kernels, which
reach twice the rate of torch's in float32. Why not `torch.onnx.export`: docs/decisions.md, "Fast inference". Needs the
extra `onnx`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.image_lam import ImageLAM
from lattok.image_lam.base.labelling import Affine, FlatPairEncoder, Layer, VideoEncoder
from lattok.image_lam.moto.pair_encoder import SequencePairEncoder
from lattok.image_lam.p2t.pair_encoders import FusedPairEncoder, TwoFrameBlock, TwoFrameEncoder, pair_encoder
from lattok.inference.vit import PlainViT
from lattok.utils import checks

OPSET = 23  # has attention as one operator
IR_VERSION = 10

HELD = (np.float32, ("n", "tokens", "width"))
Described = Mapping[str, tuple[type, Sequence[Any]]]


def package(name: str) -> Any:
    """Import onnx or onnxruntime."""
    try:
        return importlib.import_module(name)
    except ImportError:
        checks.fail(name, "an installed package", "none", "Run: pip install 'lattok[onnx]'")


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
        """Write the graph as a file; types and shapes (names for free axes) of what goes in, and of its `result`."""
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
        """Put an array or a tensor into the graph."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape as numpy does, 0 for an axis that stays."""
        return self("Reshape", x, self.constant(np.array(shape, dtype=np.int64)))

    def affine(self, x: str, affine: Affine) -> str:
        """Compute x W^T + b."""
        matrix = self.constant(affine.weight.T)
        return self("MatMul", x, matrix) if affine.bias is None else self("Gemm", x, matrix, self.constant(affine.bias))

    def norm(self, x: str, norm: Any) -> str:
        """Normalise the last axis."""
        return self("LayerNormalization", x, self.constant(norm.weight), self.constant(norm.bias), epsilon=norm.eps)

    def attend(self, rows: str, layer: Layer, tokens: int, used: int | None) -> str:
        """Mix values of rows [n * tokens, width], with `used` only for the first tokens of each frame.

        One matrix each for queries, keys and values spares a split.
        """
        width = layer.qkv.weight.shape[1]
        query, key, value = layer.qkv.split(width, width, width)
        asking = rows if used is None else self.first(rows, tokens, width, used)
        count, scale = used or tokens, (width // layer.heads) ** -0.5
        q, k, v = self.affine(asking, query), self.affine(rows, key), self.affine(rows, value)
        parts = [self.framed(q, count, width), self.framed(k, tokens, width), self.framed(v, tokens, width)]
        mixed = self("Attention", *parts, q_num_heads=layer.heads, kv_num_heads=layer.heads, scale=scale)
        return self.flat(mixed, width)

    def space(self, x: str, layer: Layer, tokens: int, used: int | None) -> str:
        """Add attention among the tokens, with `used` only to the first of each frame."""
        mixed = self.attend(self.norm(x, layer.norms[0]), layer, tokens, used)
        x = x if used is None else self.first(x, tokens, layer.qkv.weight.shape[1], used)
        return self("Add", x, self.affine(mixed, layer.mix))

    def feed_forward(self, x: str, layer: Layer) -> str:
        """Add W gelu(V norm(x))."""
        return self(
            "Add", x, self.affine(self("Gelu", self.affine(self.norm(x, layer.norms[-1]), layer.widen)), layer.narrow)
        )

    def layer(self, x: str, layer: Layer, tokens: int, used: int | None = None) -> str:
        """Compute a pre-norm layer."""
        return self.feed_forward(self.space(x, layer, tokens, used), layer)

    def framed(self, rows: str, tokens: int, width: int) -> str:
        """Turn [n * tokens, width] into [n, tokens, width]."""
        return self.reshape(rows, -1, tokens, width)

    def flat(self, x: str, width: int) -> str:
        """Turn [..., width] into rows."""
        return self.reshape(x, -1, width)

    def first(self, rows: str, tokens: int, width: int, count: int) -> str:
        """Keep the rows of the first `count` tokens of each frame."""
        return self.flat(self.part(self.framed(rows, tokens, width), 0, count, axis=1), width)

    def part(self, x: str, begin: int, end: int, axis: int) -> str:
        """Cut out a slice."""
        return self("Slice", x, *(self.constant(np.array([value])) for value in (begin, end, axis)))

    def before(self, tokens: Tensor, x: str) -> str:
        """Put tokens [k, width] before those of every x [n, t, width]."""
        count = self("Slice", self("Shape", x), *(self.constant(np.array([value])) for value in (0, 1)))
        shape = self("Concat", count, self.constant(np.array(tokens.shape)), axis=0)
        return self("Concat", self("Expand", self.constant(tokens[None]), shape), x, axis=1)

    def vit(self, frames: str, vit: PlainViT, size: int) -> str:
        """Turn uint8 [n, H, W, 3] into features [n, N, D]."""
        (count, width), patch, side = vit.places.shape, vit.patch, size // vit.patch
        x = self.reshape(self("Cast", frames, to=1), -1, side, patch, side, patch, 3)
        x = self.flat(self("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), 3 * patch**2)  # patches, float32
        x = self.framed(self.affine(x, vit.embed), count, width)
        x = self("Add", x, self.constant(vit.places))
        prefix = len(vit.prefix)
        x = self.flat(self.before(vit.prefix, x) if prefix else x, width)
        x = x if vit.first is None else self.norm(x, vit.first)
        for layer in vit.blocks:
            x = self.layer(x, layer, prefix + count)
        return self.norm(self.part(self.framed(x, prefix + count, width), prefix, prefix + count, axis=1), vit.last)

    def fused_pairs(self, now: str, later: str, encoder: FusedPairEncoder) -> str:
        """Compute `FusedPairEncoder.pairs`."""
        (places, width), queries = encoder.places.shape, len(encoder.queries)
        change = self("Mul", self("Sub", later, now), self.constant(np.float32(3)))
        rows = self.flat(self("Concat", now, later, change, axis=2), encoder.project.weight.shape[1])
        x = self("Add", self.framed(self.affine(rows, encoder.project), places, width), self.constant(encoder.places))
        return self._flat_layers(self.before(encoder.queries, x), encoder, queries + places)

    def sequence_frames(self, features: str, encoder: SequencePairEncoder) -> str:
        """Compute `SequencePairEncoder.frames`."""
        rows = self.flat(features, encoder.project.weight.shape[1])
        return self.framed(self.affine(rows, encoder.project), *encoder.now.shape)

    def sequence_pairs(self, now: str, later: str, encoder: SequencePairEncoder) -> str:
        """Compute `SequencePairEncoder.pairs`."""
        first = self.before(encoder.first, self("Add", now, self.constant(encoder.now)))
        second = self.before(encoder.middle, self("Add", later, self.constant(encoder.later)))
        return self._flat_layers(self("Concat", first, second, axis=1), encoder, len(encoder.places))

    def _flat_layers(self, x: str, encoder: FlatPairEncoder, tokens: int) -> str:
        """Compute all layers of [n, tokens, width]; the queries come first."""
        width, queries = encoder.queries.shape[1], len(encoder.queries)
        x = self.flat(x, width)
        for place, layer in enumerate(encoder.layers):
            x = self.layer(x, layer, tokens, encoder.used(place))
        return self.framed(self.norm(x, encoder.norm), queries, width)

    def two_frame_frames(self, features: str, encoder: TwoFrameEncoder) -> str:
        """Compute `TwoFrameEncoder.frames`."""
        places, width = encoder.places.shape
        rows = self.flat(self.norm(features, encoder.norm_in), encoder.embed.weight.shape[1])
        x = self.framed(self.norm(self.affine(rows, encoder.embed), encoder.norm_out), places, width)
        x = self.flat(self.before(encoder.queries, self("Add", x, self.constant(encoder.places))), width)
        tokens = len(encoder.queries) + places
        x = self.space(x, encoder.layers[0], tokens, encoder.used(0))
        return self.framed(x, encoder.used(0) or tokens, width)

    def two_frame_pairs(self, now: str, later: str, encoder: TwoFrameEncoder) -> str:
        """Compute `TwoFrameEncoder.pairs`."""
        (places, width), queries = encoder.places.shape, len(encoder.queries)
        x = self.flat(self("Concat", now, later, axis=0), width)
        for place, layer in enumerate(encoder.layers):
            x = x if place == 0 else self.space(x, layer, queries + places, encoder.used(place))
            x = self.feed_forward(self._time(x, layer, width, only_later=place == len(encoder.layers) - 1), layer)
        return self.framed(x, queries, width)

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
        """Return the rows of the earlier and of the later frames."""
        both = self.reshape(x, 2, -1, width)
        return self.flat(self.part(both, 0, 1, axis=0), width), self.flat(self.part(both, 1, 2, axis=0), width)


@torch.no_grad()
def onnx_encoder(lam: ImageLAM, threads: int) -> VideoEncoder:
    """Write a model's encoder as graphs; features that `PlainViT` does not know are computed by torch."""
    encoder, features, cameras = pair_encoder(lam.encoder), lam.features, len(lam.cameras)
    size, onnx = features.image_size, package("onnx")
    vit = PlainViT(features) if PlainViT.understands(features) else None
    graph, source, given = Graph(onnx), "source", HELD
    if vit is not None:
        given = (np.uint8, ("n", cameras, size, size, 3))
        patches = graph.vit(graph.reshape(source, -1, size, size, 3), vit, size)
        source = graph.reshape(patches, -1, cameras * features.count, features.dim)
    of_pairs = Graph(onnx)
    if isinstance(encoder, TwoFrameEncoder):
        held, result = graph.two_frame_frames(source, encoder), of_pairs.two_frame_pairs("now", "later", encoder)
    elif isinstance(encoder, SequencePairEncoder):
        held, result = graph.sequence_frames(source, encoder), of_pairs.sequence_pairs("now", "later", encoder)
    else:
        assert isinstance(encoder, FusedPairEncoder)
        held, result = source, of_pairs.fused_pairs("now", "later", encoder)
    alone = _session(graph, held, {"source": given}, threads)
    together = _session(of_pairs, result, {"now": HELD, "later": HELD}, threads)
    prepare = lam.frame_features if vit is None else features.resize
    return VideoEncoder(
        lambda frames: _run(alone, source=prepare(frames)), lambda now, later: _run(together, now=now, later=later)
    )


def _session(graph: Graph, result: str, inputs: Described, threads: int) -> Any:
    graph("Identity", result, name="result")
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # a sum before a norm would become one operator that is slower than the two
    disabled = ["SkipLayerNormFusion"]
    return onnxruntime.InferenceSession(
        graph.serialized(inputs, HELD), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def _run(session: Any, **inputs: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])
