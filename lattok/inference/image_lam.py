"""`ImageLAM` as a labeller in another precision or by another backend.

Heads and quantizer are always float32. A label made in bfloat16 is another label: `describe` says how it was made.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.image_lam import ImageLAM
from lattok.image_lam.base.labelling import Video, VideoEncoder, torch_encoder
from lattok.image_lam.p2t.pair_encoders import pair_encoder
from lattok.inference.onnx_encoder import onnx_encoder, package
from lattok.inference.vit import PlainViT
from lattok.types import LatentActions, VideoLabeller
from lattok.utils import checks
from lattok.utils.arrays import Values, like

BACKENDS = ("torch", "onnxruntime")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class FastImageLAM(VideoLabeller):
    """What `lattok.for_inference` makes of an `ImageLAM`: labels videos and pairs with a copy of the weights."""

    def __init__(self, lam: ImageLAM, backend: str, precision: str, threads: int):
        checks.one_of("backend", backend, BACKENDS)
        checks.one_of("precision", precision, PRECISIONS)
        checks.counts(threads=threads)
        lam.check_reads_video_alone()
        if backend == "onnxruntime" and precision != "float32":
            checks.fail("precision", "float32 with the backend onnxruntime", precision, 'Use backend="torch".')
        if backend == "torch" and threads != 1:
            checks.fail("threads", "1 with the backend torch", threads, "Use torch.set_num_threads.")
        self._lam = copy.deepcopy(lam).eval()
        self._how = (backend, precision, threads)
        self.cameras, self.codebook_size = lam.cameras, lam.codebook_size
        with self._lam._inference(), torch.no_grad():
            if backend == "onnxruntime":
                self._encoder = onnx_encoder(self._lam.cpu(), threads)
            else:
                self._encoder = _encoder(self._lam, PRECISIONS[precision])

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave sessions behind: workers make their own."""
        return FastImageLAM, (self._lam, *self._how)

    def to(self, device: str) -> FastImageLAM:
        """Return the same on another device, for workers."""
        return FastImageLAM(copy.deepcopy(self._lam).to(device), *self._how)

    def stride_frames(self, fps: float) -> int:
        return self._lam.stride_frames(fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return self._lam.resize(frames)

    def label_video(self, frames: Video, stride: int) -> LatentActions:
        return self._lam.label_video(frames, stride, self._encoder)

    @torch.no_grad()
    def encode(self, frames: Values) -> LatentActions:
        """Turn frame pairs uint8 [B, 2, V, H, W, 3] into latent actions; both frames of every pair are computed."""
        given, frames = frames, self._lam.checked_pairs(frames)
        if not len(frames):
            return self._lam.encode(given)  # onnxruntime refuses to compute nothing
        with self._lam._inference():
            now, later = self._encoder.frames(frames.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            return like(given, self._lam.from_tokens(self._encoder.pairs(now, later)))

    def describe(self) -> dict[str, Any]:
        """Return the model's identity, and how labels are computed."""
        backend, precision, _ = self._how
        if backend == "onnxruntime":
            backend += f" {package(backend).__version__}"
        return {**self._lam.describe(), "backend": backend, "precision": precision}


def _encoder(lam: ImageLAM, dtype: torch.dtype) -> VideoEncoder:
    """Round matrices to `dtype`; those of the frozen features by `PlainViT`, or in autocast where that cannot be."""
    encoder, features = pair_encoder(lam.encoder, dtype), lam.features
    if dtype == torch.float32:
        return torch_encoder(lam.frame_features, encoder)
    vit = PlainViT(features, dtype) if PlainViT.understands(features) else None

    def rounded(frames: Tensor) -> Tensor:
        if vit is None:
            with torch.autocast(features.mean.device.type, dtype):
                return lam.frame_features(frames).float()
        small = features.resize(frames).to(features.mean.device)
        return vit(small.flatten(0, 1)).unflatten(0, small.shape[:2]).flatten(1, 2)

    return torch_encoder(rounded, encoder)
