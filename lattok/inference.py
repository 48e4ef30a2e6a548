"""A latent action model for labelling alone, faster: for_inference(lam, precision="bfloat16"), on a CPU or a GPU."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.labelling import Video, VideoEncoder, torch_encoder
from lattok.image_lam.base.video_file import Files
from lattok.types import Gap, LatentActions, VideoLabeller
from lattok.utils import checks
from lattok.utils.arrays import Values, in_pairs, like
from lattok.utils.devices import float32_by_default

PRECISIONS = {  # of matrices, and of what layers add to and hand on
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.float32),
    "bfloat16-all": (torch.bfloat16, torch.bfloat16),
}


@float32_by_default()
def for_inference(model: TrainedPairModel, precision: str = "float32") -> "FastImageLAM":
    """Return a faster labeller with the weights that a latent action model has now, in float32, "bfloat16" or
    "bfloat16-all", which also rounds what layers hand on.

    In bfloat16 a few codes differ; `describe()` of the labeller says how labels were made.
    """
    if not isinstance(model, TrainedPairModel):
        hint = "Other models have no faster form: use them as they are."
        checks.fail("model", "an ImageLAM or a MotoLAM", type(model).__name__, hint)
    return FastImageLAM(model, precision)


class FastImageLAM(VideoLabeller):
    """What `lattok.for_inference` makes of a latent action model: it labels with a copy of the weights.

    Heads and quantizer are always float32. Labels made in bfloat16 differ: `describe` says in which precision they were
    made.
    """

    def __init__(self, lam: TrainedPairModel, precision: str):
        checks.one_of("precision", precision, PRECISIONS)
        lam.check_reads_video_alone()
        self._lam, self._precision = copy.deepcopy(lam).eval(), precision
        self.cameras, self.codebook_size = lam.cameras, lam.codebook_size
        with self._lam.inference(), torch.no_grad():
            self._encoder = _encoder(self._lam, *PRECISIONS[precision])

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the encoder behind: workers make their own."""
        return FastImageLAM, (self._lam, self._precision)

    def to(self, device: str) -> "FastImageLAM":
        """Return the same on another device, for workers."""
        return FastImageLAM(copy.deepcopy(self._lam).to(device), self._precision)

    @property
    def device(self) -> torch.device:
        return self._lam.device

    def stride_frames(self, fps: float) -> int:
        return self._lam.stride_frames(fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return self._lam.resize(frames)

    def label_video(self, frames: Video | Files, stride: Gap = None, *, fps: float | None = None) -> LatentActions:
        return self._lam.label_video(frames, stride, self._encoder, fps=fps)

    @torch.no_grad()
    def encode(self, frames: Values, later: Values | None = None) -> LatentActions:
        """Turn frame pairs uint8 [B, 2, V, H, W, 3] into latent actions; both frames of every pair are computed."""
        frames = frames if later is None else in_pairs(frames, later)
        given, frames = frames, self._lam.checked_pairs(frames)
        if not len(frames):
            return self._lam.encode(given)
        with self._lam.inference():
            now, later = self._encoder.frames(frames.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            return like(given, self._lam.from_tokens(self._encoder.pairs(now, later)))

    def describe(self) -> dict[str, Any]:
        """Return the model's identity, and in which precision labels are computed."""
        return {**self._lam.describe(), "precision": self._precision}


def _encoder(lam: TrainedPairModel, products: torch.dtype, stream: torch.dtype) -> VideoEncoder:
    """Round matrices to `products`; those of the frozen features act in autocast, which need not round them each time.
    Where the `stream` is rounded, too, all of both networks is."""
    if products == torch.float32:
        return torch_encoder(lam.frame_features, lam.encoder.for_videos())
    encoder, features = lam.encoder, copy.deepcopy(lam.features)
    fold_scales(features)
    if stream == products:
        encoder, features.precision = copy.deepcopy(encoder).to(stream), stream
        if features.network is not None:
            features.network.to(stream)
    else:
        for layer in features.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(products)

    def rounded(frames: Tensor) -> Tensor:
        with torch.autocast(features.mean.device.type, products, enabled=stream != products):
            return lam.frame_features(frames, features).to(stream)

    return torch_encoder(rounded, encoder.for_videos(products))


@torch.no_grad()
def fold_scales(network: nn.Module) -> None:
    """Let the last product of attention and MLP scale itself in blocks of a timm ViT that scale what these return."""
    for block in network.modules():
        for scale, part, name in (("ls1", "attn", "proj"), ("ls2", "mlp", "fc2")):
            gamma = getattr(getattr(block, scale, None), "gamma", None)
            last = getattr(getattr(block, part, None), name, None)
            if gamma is not None and isinstance(last, nn.Linear):
                for own in last.parameters(recurse=False):  # a row of the weight, a number of the bias for each output
                    own.mul_(gamma.unflatten(0, (-1, *(1,) * (own.ndim - 1))))
                setattr(block, scale, nn.Identity())
