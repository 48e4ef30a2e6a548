"""`ImageLAM` as a labeller in another precision or by another backend.

    labeller = lam.compile(precision="bfloat16")       # torch, CPU or CUDA
    labeller = lam.compile("onnxruntime")              # float32 on the CPU, its matrix products instead of torch's
    lattok.annotate(dataset, {"latent": labeller}, out)

Heads and quantizer are always float32. A label made in bfloat16 is another label: `describe` says how it was made.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from lattok import checks
from lattok.arrays import Values, like
from lattok.graphs import package
from lattok.image_lam.labelling import Engine, TorchEngine, Video, check_reads_video_alone, label_video, quantized
from lattok.image_lam.model import ImageLAM
from lattok.image_lam.onnx_engine import OnnxEngine
from lattok.types import LatentActions, VideoLabeller

BACKENDS = ("torch", "onnxruntime")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compile_lam(lam: ImageLAM, backend: str, precision: str, threads: int) -> CompiledImageLAM:
    """See `ImageLAM.compile`."""
    checks.one_of("backend", backend, BACKENDS)
    checks.one_of("precision", precision, PRECISIONS)
    checks.counts(threads=threads)
    check_reads_video_alone(lam)
    if backend == "onnxruntime" and precision != "float32":
        checks.fail("precision", "float32 with the backend onnxruntime", precision, 'Use backend="torch".')
    if backend == "torch" and threads != 1:
        checks.fail("threads", "1 with the backend torch", threads, "Use torch.set_num_threads.")
    return CompiledImageLAM(lam, backend, precision, threads)


class CompiledImageLAM(VideoLabeller):
    """What `ImageLAM.compile` gives: labels videos and pairs with a copy of the weights, and does nothing else."""

    def __init__(self, lam: ImageLAM, backend: str, precision: str, threads: int):
        self._lam = copy.deepcopy(lam).eval()
        self._how = (backend, precision, threads)
        self._backend = backend
        if backend == "onnxruntime":
            self._backend += f" {package('onnxruntime').__version__}"
            self._lam.cpu()
        with self._lam._inference():
            onnx = backend == "onnxruntime"
            self._engine: Engine = (
                OnnxEngine(self._lam, threads) if onnx else TorchEngine(self._lam, PRECISIONS[precision])
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions stay behind: workers compile anew."""
        return CompiledImageLAM, (self._lam, *self._how)

    def to(self, device: str) -> CompiledImageLAM:
        """The same on another device, for workers."""
        return CompiledImageLAM(copy.deepcopy(self._lam).to(device), *self._how)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in the order of the V axis."""
        return self._lam.cameras

    @property
    def codebook_size(self) -> int:
        """Codes that each of the P can be, K."""
        return self._lam.codebook_size

    def stride_frames(self, fps: float) -> int:
        """The model's stride in frames of a dataset."""
        return self._lam.stride_frames(fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """The model's own resizing, uint8 [n, H, W, 3] to [n, s, s, 3]."""
        return self._lam.resize(frames)

    def label_video(self, frames: Video, stride: int) -> LatentActions:
        """As `ImageLAM.label_video`."""
        return label_video(self._lam, self._engine, frames, stride)

    @torch.no_grad()
    def encode(self, frames: Values) -> LatentActions:
        """Frame pairs uint8 [B, 2, V, H, W, 3] to latent actions; both frames of every pair are computed."""
        given, frames = frames, self._lam.checked_pairs(frames)
        if not len(frames):
            return self._lam.encode(given)  # onnxruntime refuses to compute nothing
        with self._lam._inference():
            now, later = self._engine.frames(frames.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            return like(given, quantized(self._lam, self._engine.pairs(now, later)))

    def describe(self) -> dict[str, Any]:
        """The model's identity, and how labels are computed."""
        return {**self._lam.describe(), "backend": self._backend, "precision": self._how[1]}
