"""`ImageLAM` as a labeller in another precision or by another backend.

Heads and quantizer are always float32. A label made in bfloat16 is another label: `describe` says how it was made.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.arrays import Values, like
from lattok.image_lam import ImageLAM
from lattok.image_lam.fast_encoders import pair_encoder
from lattok.image_lam.labelling import TorchVideoEncoder, Video, VideoEncoder
from lattok.inference.onnx_encoder import OnnxVideoEncoder, package
from lattok.inference.vit import PlainViT
from lattok.types import LatentActions, VideoLabeller

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
        with self._lam._inference(), torch.no_grad():
            self._encoder = self._new_encoder()

    def _new_encoder(self) -> VideoEncoder:
        backend, precision, threads = self._how
        if backend == "onnxruntime":
            return OnnxVideoEncoder(self._lam.cpu(), threads)
        dtype = PRECISIONS[precision]
        encoder = pair_encoder(self._lam.encoder, dtype)
        if precision == "float32":
            return TorchVideoEncoder(self._lam.frame_features, encoder)
        return TorchVideoEncoder(RoundedFeatures(self._lam, dtype), encoder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions stay behind: workers make their own."""
        return FastImageLAM, (self._lam, *self._how)

    def to(self, device: str) -> FastImageLAM:
        """The same on another device, for workers."""
        return FastImageLAM(copy.deepcopy(self._lam).to(device), *self._how)

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
        return self._lam.label_video(frames, stride, self._encoder)

    @torch.no_grad()
    def encode(self, frames: Values) -> LatentActions:
        """Frame pairs uint8 [B, 2, V, H, W, 3] to latent actions; both frames of every pair are computed."""
        given, frames = frames, self._lam.checked_pairs(frames)
        if not len(frames):
            return self._lam.encode(given)  # onnxruntime refuses to compute nothing
        with self._lam._inference():
            now, later = self._encoder.frames(frames.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            return like(given, self._lam.from_tokens(self._encoder.pairs(now, later)))

    def describe(self) -> dict[str, Any]:
        """The model's identity, and how labels are computed."""
        backend, precision, _ = self._how
        if backend == "onnxruntime":
            backend += f" {package(backend).__version__}"
        return {**self._lam.describe(), "backend": backend, "precision": precision}


class RoundedFeatures:
    """Frozen features with matrices rounded to `dtype`: by `PlainViT`, or in autocast where that cannot be."""

    def __init__(self, lam: ImageLAM, dtype: torch.dtype):
        self._lam, self._dtype, features = lam, dtype, lam.features
        self._vit = None
        if features.network is not None and PlainViT.understands(features):
            self._vit = PlainViT(features, dtype)

    def __call__(self, frames: Tensor) -> Tensor:
        features = self._lam.features
        if self._vit is not None:
            small = features.resize(frames).to(features.mean.device)
            return self._vit(small.flatten(0, 1)).unflatten(0, small.shape[:2]).flatten(1, 2)
        with torch.autocast(features.mean.device.type, self._dtype):
            return self._lam.frame_features(frames).float()
