"""Labels by onnxruntime on the CPU, in float32, and the file for use elsewhere; needs the extra `onnx`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lattok import checks, files
from lattok.graphs import package
from lattok.image_lam.labelling import check_reads_video_alone
from lattok.image_lam.onnx_graph import EncoderGraph
from lattok.image_lam.pairs import FusedPairEncoder, PairEncoder, pair_encoder
from lattok.image_lam.parts import Stream
from lattok.image_lam.vit import Affine, PlainViT
from lattok.quantize import VectorQuantizer
from lattok.version import __version__

if TYPE_CHECKING:
    from lattok.image_lam.model import ImageLAM

OPSET = 20  # has the exact GELU as one operator
ATTENTION_OPSET = 23  # has attention as one operator
ATTENTION_SINCE = (1, 23)  # the onnxruntime that computes it
LARGEST = 2**31 - 2**20  # bytes of an ONNX file

Described = Mapping[str, tuple[type, Sequence[Any]]]


class OnnxEngine:
    """See `labelling.Engine`. Networks that `PlainViT` does not know are computed by torch, the rest as graphs."""

    @torch.no_grad()
    def __init__(self, lam: ImageLAM, threads: int = 1):
        self._lam, encoder = lam, pair_encoder(lam.encoder, torch.float32)
        self._whole = _understood(lam)
        version = tuple(int(part) for part in package("onnxruntime").__version__.split(".")[:2])
        operator = version >= ATTENTION_SINCE
        graph = EncoderGraph(operator)
        features = _features(graph, "source", lam) if self._whole else "source"
        graph("Identity", _alone(graph, features, encoder), name="result")
        sizes = (lam.features.image_size, lam.features.image_size, 3)
        source = (np.uint8, ("n", len(lam.cameras), *sizes)) if self._whole else (np.float32, ("n", "N", "D"))
        self._alone = _session(graph, {"source": source}, threads)
        graph = EncoderGraph(operator)
        graph("Identity", _pairs(graph, "now", "later", encoder), name="result")
        held = (np.float32, ("n", "tokens", "width"))
        self._pairs = _session(graph, {"now": held, "later": held}, threads)

    def frames(self, frames: Tensor) -> Tensor:
        """See `Engine`."""
        lam = self._lam
        return _run(self._alone, source=lam.features.resize(frames) if self._whole else lam.frame_features(frames))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """See `Engine`."""
        return _run(self._pairs, now=now, later=later)


def export_onnx(lam: ImageLAM, path: str | os.PathLike[str]) -> Path:
    """Write frame pairs `frames` uint8 [batch, 2, V, s, s, 3] to `codes` and `env.codes` int64 [batch, P].

    Bound to the weights as they are now; s is the model's size, and nothing is checked. The metadata hold the cameras,
    the stride and lattok's version.
    """
    path, content = Path(path), _codes_model(lam)
    if len(content) > LARGEST:
        checks.fail("model", f"at most {LARGEST / 1e9:.1f} GB as one ONNX file", f"{len(content) / 1e9:.1f} GB")
    with files.whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


@torch.no_grad()
def _codes_model(lam: ImageLAM) -> bytes:
    if not _understood(lam):
        checks.fail("features", "pixels or a plain timm vision transformer", repr(lam.features.name))
    check_reads_video_alone(lam)
    graph, encoder, size = EncoderGraph(operator=False), pair_encoder(lam.encoder, torch.float32), lam.config.image_size
    cameras = len(lam.cameras)
    single = graph.reshape("frames", -1, cameras, size, size, 3)
    held = _alone(graph, _features(graph, single, lam), encoder)
    both = graph.reshape(held, -1, 2, *encoder.held)
    now, later = (graph.reshape(graph.part(both, i, i + 1, axis=1), -1, *encoder.held) for i in (0, 1))
    found = _pairs(graph, now, later, encoder)
    outputs, first = {}, 0
    for name, stream in (("codes", lam.control), ("env.codes", lam.env)):
        if stream is not None:
            _codes(graph, graph.part(found, first, first + lam.config.tokens, axis=1), stream, name)
            outputs[name] = (np.int64, ("batch", lam.config.tokens))
            first += lam.config.tokens
    facts = {"cameras": ",".join(lam.cameras), "stride": lam.config.stride, "lattok_version": __version__}
    return graph.serialized({"frames": (np.uint8, ("batch", 2, cameras, size, size, 3))}, outputs, facts, OPSET)


def _understood(lam: ImageLAM) -> bool:
    return lam.features.network is None or PlainViT.understands(lam.features)


def _features(graph: EncoderGraph, frames: str, lam: ImageLAM) -> str:
    """uint8 [n, V, s, s, 3] to features [n, V * N, D]."""
    features = lam.features
    single = graph.reshape(frames, -1, features.image_size, features.image_size, 3)
    if features.network is None:
        gain = (1 / (255 * features.std.double())).repeat(features.patch**2)
        offset = -(features.mean.double() / features.std.double()).repeat(features.patch**2)
        rows = graph("Mul", graph.pixels(single, features.patch, features.image_size), graph.weights(gain.float()))
        found = graph("Add", rows, graph.weights(offset.float()))
    else:
        found = graph.vit(single, PlainViT(features), features.image_size)
    return graph.reshape(found, -1, len(lam.cameras) * features.count, features.dim)


def _alone(graph: EncoderGraph, features: str, encoder: PairEncoder) -> str:
    return features if isinstance(encoder, FusedPairEncoder) else graph.alone(features, encoder)


def _pairs(graph: EncoderGraph, now: str, later: str, encoder: PairEncoder) -> str:
    if isinstance(encoder, FusedPairEncoder):
        return graph.fused(now, later, encoder)
    return graph.pair(now, later, encoder)


def _codes(graph: EncoderGraph, tokens: str, stream: Stream, name: str) -> str:
    """Query tokens [n, P, width] of one stream to its codes."""
    config, quantizer, dim = stream.config, stream.quantizer, stream.config.latent_dim
    if not isinstance(quantizer, VectorQuantizer):
        checks.fail("quantizer", "vq or residual, for a file with codes", repr(config.quantizer))
    heads = [Affine(head.weight, head.bias) for head in stream.heads]  # pyright: ignore
    if len(heads) == 1:
        latents = graph.affine(graph.flat(tokens, heads[0].weight.shape[1]), heads[0])
    else:
        rows = [graph.flat(graph.part(tokens, i, i + 1, axis=1), config.width) for i in range(len(heads))]
        latents = graph("Concat", *(graph.affine(x, head) for x, head in zip(rows, heads, strict=True)), axis=1)
    latents = graph.reshape(latents, -1, config.positions * dim)
    if stream.norm is not None:
        deviation = (stream.norm.running_var + stream.norm.eps).sqrt()  # pyright: ignore
        latents = graph("Sub", latents, graph.weights(stream.norm.running_mean))  # pyright: ignore
        latents = graph("Div", latents, graph.weights(deviation))
    left, levels = graph.reshape(latents, -1, dim), []
    for book in quantizer.codebook_vectors:
        scores = graph.affine(left, Affine(book, -book.square().sum(-1) / 2))
        levels.append(graph("ArgMax", scores, axis=1, keepdims=0))
        left = graph("Sub", left, graph("Gather", graph.weights(book), levels[-1], axis=0))
    columns = [graph.reshape(codes, -1, 1) for codes in levels]
    codes = columns[0] if len(columns) == 1 else graph("Concat", *columns, axis=1)
    return graph("Reshape", codes, graph.constant(np.array([-1, config.tokens])), name=name)


def _session(graph: EncoderGraph, inputs: Described, threads: int) -> Any:
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    opset = ATTENTION_OPSET if graph.operator else OPSET
    model = graph.serialized(inputs, {"result": (np.float32, ("n", "rows", "channels"))}, {}, opset)
    # a sum before a norm would become one operator that is slower than the two
    disabled = ["SkipLayerNormFusion"]
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def _run(session: Any, **inputs: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])
