"""The folded encoder as an ONNX graph, built node by node; needs the extra `onnx`.

Two forms: chunks to codes in standard operators (opset 17) for `export_onnx`, and centred rows to scores for the
compiled tokenizer, which takes the maximum itself. Formulated for onnxruntime's CPU kernels: the residual is the third
input of a `Gemm`, since a sum before `LayerNormalization` becomes a fused operator that is ten times slower; `Gemm`
and `Relu` become one node; one matrix each for queries, keys and values spares a split.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lattok import files
from lattok.action_vq.folding import Affine, Array, Folded, FoldedBlock, fold
from lattok.action_vq.model import P2TActionVQ
from lattok.graphs import Graph, package
from lattok.version import __version__

PORTABLE_OPSET = 17
ATTENTION_OPSET = 23  # has attention as one operator
ATTENTION_SINCE = (1, 23)  # the onnxruntime that computes it


def export_onnx(model: P2TActionVQ, path: str | os.PathLike[str]) -> Path:
    """Write the encoder: `chunks` float32 [batch, H, m] in physical units to `codes` int64 [batch, H].

    Bound to the weights as they are now; it neither pads nor checks. The metadata hold horizon, action_dim, vocab_size
    and lattok's version.
    """
    path, content = Path(path), codes_model(model)
    with files.whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def codes_model(model: P2TActionVQ) -> bytes:
    """Physical chunks to codes, in standard operators only."""
    folded, horizon = fold(model), model.horizon
    graph = _Graph(operator=False)
    rows = graph("Sub", graph.reshape("chunks", -1, len(folded.shift)), graph.constant(folded.shift))
    if folded.reach is not None:
        rows = graph("Min", graph("Max", rows, graph.constant(-folded.reach)), graph.constant(folded.reach))
    best = graph("ArgMax", _scores(graph, folded, rows), axis=1, keepdims=0)
    stored = graph.reshape(best, -1, horizon)
    place = np.argsort(np.array(folded.order))
    graph("Gather", stored, graph.constant(place), axis=1, name="codes")
    facts = {
        "horizon": model.horizon,
        "action_dim": model.action_dim,
        "vocab_size": model.vocab_size,
        "lattok_version": __version__,
    }
    source = (np.float32, ("batch", horizon, model.action_dim))
    return graph.serialized({"chunks": source}, {"codes": (np.int64, ("batch", horizon))}, facts, PORTABLE_OPSET)


def scores_model(folded: Folded, operator: bool) -> bytes:
    """Centred rows [rows, H * m] to scores [rows * H, K]; `operator`: attention as one operator."""
    graph = _Graph(operator)
    _scores(graph, folded, "centred")
    source = (np.float32, ("rows", len(folded.shift)))
    result = (np.float32, ("steps", len(folded.scores.bias)))
    opset = ATTENTION_OPSET if operator else PORTABLE_OPSET
    return graph.serialized({"centred": source}, {"scores": result}, {}, opset)


class _Graph(Graph):
    """A graph with the parts of this encoder."""

    def __init__(self, operator: bool):
        super().__init__()
        self.operator = operator

    def affine(self, x: str, affine: Affine, relu: bool = False, name: str = "") -> str:
        y = self("Gemm", x, self.constant(affine.weight), self.constant(affine.bias), name=name)
        return self("Relu", y) if relu else y

    def add_product(self, base: str, x: str, weight: Array) -> str:
        """base + x @ weight."""
        return self("Gemm", x, self.constant(weight), base)

    def norm(self, x: str, gain: Affine | None, dim: int, eps: float) -> str:
        given = (np.ones(dim, dtype=np.float32),) if gain is None else gain
        return self("LayerNormalization", x, *map(self.constant, given), axis=-1, epsilon=eps)


def _scores(graph: _Graph, folded: Folded, rows: str) -> str:
    """Centred rows [n, H * m] to scores [n * H, K], steps in storage order."""
    horizon, dim = len(folded.order), len(folded.offset)
    x = graph.affine(rows, folded.entry, folded.entry_relu)
    for place, conv in enumerate(folded.convs):
        if conv.index is not None:
            x = graph.reshape(x, -1, horizon + (place == 0), dim)  # the entry gives a step of zeros
            x = x if place == 0 else graph("Pad", x, graph.constant(np.array([0, 0, 0, 0, 1, 0])))
            x = graph("Gather", x, graph.constant(conv.index.flatten()), axis=1)  # n (H 3) d
        x = graph.affine(graph.reshape(x, -1, len(conv.affine.weight)), conv.affine, relu=True)
    x = graph("Add", graph.reshape(x, -1, dim), graph.constant(folded.offset))
    for block in folded.blocks:
        mixed = graph.reshape(_attention(graph, block, x, horizon, dim), -1, dim)
        x = graph.norm(graph.add_product(x, mixed, block.mix), block.norm1, dim, block.eps[0])
        wide = graph.affine(x, block.widen, relu=True)
        x = graph.norm(graph.add_product(x, wide, block.narrow), block.norm2, dim, block.eps[1])
    return graph.affine(x, folded.scores, name="scores")


def _attention(graph: _Graph, block: FoldedBlock, x: str, horizon: int, dim: int) -> str:
    """Rows [n * H, d] to attention's mix of values, before the matrix behind it."""
    query = graph.affine(x, block.query)
    key = graph("MatMul", x, graph.constant(block.key))
    value = graph.affine(x, block.value)
    if graph.operator:
        parts = [graph.reshape(part, -1, horizon, dim) for part in (query, key, value)]
        return graph("Attention", *parts, q_num_heads=block.heads, kv_num_heads=block.heads, scale=1.0)

    def by_head(part: str, perm: list[int]) -> str:
        return graph("Transpose", graph.reshape(part, -1, horizon, block.heads, dim // block.heads), perm=perm)

    scores = graph("MatMul", by_head(query, [0, 2, 1, 3]), by_head(key, [0, 2, 3, 1]))  # n heads H H
    shares = graph("Softmax", scores, axis=-1)
    mixed = graph("MatMul", shares, by_head(value, [0, 2, 1, 3]))  # n heads H d/heads
    return graph("Transpose", mixed, perm=[0, 2, 1, 3])


class OnnxScorer:
    """Runs the graph in memory. Buffers for the usual block sizes are bound once: at one chunk that saves a tenth."""

    def __init__(self, session: Any, width: int, steps: int, size: int, bound: tuple[int, ...]):
        self._session = session
        self._width = width
        self._ready: dict[int, tuple[Array, Array, Any]] = {}
        for rows in bound:
            source, result = np.zeros((rows, width), np.float32), np.zeros((rows * steps, size), np.float32)
            binding = session.io_binding()
            binding.bind_input("centred", "cpu", 0, np.float32, source.shape, source.ctypes.data)
            binding.bind_output("scores", "cpu", 0, np.float32, result.shape, result.ctypes.data)
            self._ready[rows] = (source, result, binding)

    def buffer(self, rows: int) -> Array:
        """Where the next `rows` centred rows go."""
        ready = self._ready.get(rows)
        return ready[0] if ready else np.empty((rows, self._width), np.float32)

    def __call__(self, buffer: Array) -> Array:
        """Scores [rows * H, K] of a filled buffer; valid until the next call."""
        ready = self._ready.get(len(buffer))
        if ready is None:
            return self._session.run(["scores"], {"centred": buffer})[0]
        self._session.run_with_iobinding(ready[2])
        return ready[1]


def open_session(folded: Folded) -> Any:
    """An onnxruntime session over `scores_model`, one thread."""
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    model = scores_model(folded, operator=version >= ATTENTION_SINCE)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
