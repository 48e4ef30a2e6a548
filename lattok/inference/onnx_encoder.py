"""Query tokens by onnxruntime on the CPU, in float32; needs the extra `onnx`."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.image_lam import ImageLAM
from lattok.image_lam.fast_encoders import pair_encoder
from lattok.inference.onnx_graph import Described, Graph
from lattok.inference.vit import PlainViT

HELD = (np.float32, ("n", "tokens", "width"))


def package(name: str) -> Any:
    """The module onnx or onnxruntime."""
    try:
        return importlib.import_module(name)
    except ImportError:
        checks.fail(name, "an installed package", "none", "Run: pip install 'lattok[onnx]'")


class OnnxVideoEncoder:
    """A `labelling.VideoEncoder`. Features that `PlainViT` does not know are computed by torch, the rest as graphs."""

    @torch.no_grad()
    def __init__(self, lam: ImageLAM, threads: int = 1):
        self._lam, encoder, features = lam, pair_encoder(lam.encoder), lam.features
        self._vit = features.network is not None and PlainViT.understands(features)
        graph, source = Graph(package("onnx")), "source"
        if self._vit:
            size = features.image_size
            single = graph.reshape(source, -1, size, size, 3)
            patches = graph.vit(single, PlainViT(features), size)
            source = graph.reshape(patches, -1, len(lam.cameras) * features.count, features.dim)
        graph("Identity", graph.alone(source, encoder), name="result")
        frames = (np.uint8, ("n", len(lam.cameras), features.image_size, features.image_size, 3))
        self._alone = _session(graph, {"source": frames if self._vit else HELD}, threads)
        graph = Graph(package("onnx"))
        graph("Identity", graph.pairs("now", "later", encoder), name="result")
        self._pairs = _session(graph, {"now": HELD, "later": HELD}, threads)

    def frames(self, frames: Tensor) -> Tensor:
        """What the pairs of these frames need."""
        lam = self._lam
        return _run(self._alone, source=lam.features.resize(frames) if self._vit else lam.frame_features(frames))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Query tokens of pairs."""
        return _run(self._pairs, now=now, later=later)


def _session(graph: Graph, inputs: Described, threads: int) -> Any:
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
