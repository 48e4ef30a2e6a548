"""What published latent action models share here: one camera, the pixels that they were trained on, codes or none.

Features are patches of a system's own pixels, scaled as it wants them, or those of a frozen network. Models are read
for inference; lattok does not train them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lattok.data.pixels import INTERPOLATIONS, MOST_PIXELS, check_scaling
from lattok.hub import WEIGHTS
from lattok.hub.checkpoint import FilePath, read_settings, read_system
from lattok.hub.trials import Trial
from lattok.image_lam.base.bottlenecks import between, fixed_codes
from lattok.image_lam.base.convert import check_view
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import VideoEncoder, as_latents
from lattok.image_lam.base.pair_model import WHITE, PairModel
from lattok.nn.kmeans import nearest
from lattok.types import LatentActions
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.options import SavedConfig

ENTRIES = ("state_dict", "model")  # under which a container may hold the weights


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(SavedConfig):
    """Preprocessing of a published model, and the sizes of its latent actions."""

    quantizer: ClassVar[str] = "vq"  # "none": a continuous model
    least: ClassVar[Mapping[str, int]] = {"codebook_size": 2}  # of whole numbers, where that is not 1
    latent_norm: ClassVar[str] = "none"
    target: ClassVar[str] = "features"  # what the decoder predicts; of patches of pixels these are pixels

    cameras: tuple[str, ...] = ("image",)  # the one that it looks at in datasets
    stride: str  # gap of a pair, in frames ("30") or seconds ("1.6s")
    image_size: int  # side of the frames in pixels
    pixels: str = "unit"  # range of `encode_pixels`: "unit" [0, 1], "bytes" [0, 255], "normalized" by mean and std
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of pixels in [0, 1], taken away before the model sees them
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    tokens: int  # P, latent actions of a pair
    latent_dim: int  # d
    codebook_size: int = 1  # K; 1: no codes

    def __post_init__(self) -> None:
        check_view(self.cameras, self.stride)
        for field in fields(self):
            if field.type is int:
                most = MOST_PIXELS if field.name.startswith("image_") else math.inf
                checks.counts(self.least.get(field.name, 1), most, **{field.name: getattr(self, field.name)})
        checks.one_of("pixels", self.pixels, (*WHITE, "normalized"))
        checks.one_of("interpolation", self.interpolation, INTERPOLATIONS)
        if self.quantizer == "none":
            checks.one_of("tokens", self.tokens, (1,))
        check_scaling(self.mean, self.std)


class PublishedLAM(PairModel, ABC):
    """A published model of frame pairs, as it labels: `encode`, `label_video`, `encode_pixels`, `encode_features`."""

    cut: ClassVar[type[FrozenFeatures]] = FrozenFeatures  # what cuts frames into patches of pixels
    codebook: nn.Parameter | None  # [K, d]

    def __init__(self, config: PublishedConfig, features: FrozenFeatures | None = None):
        super().__init__()
        self.config, self.cameras, self.env, self.pixels = config, config.cameras, None, None
        self.pixel_range = config.pixels
        continuous = config.quantizer == "none"
        self.codebook_size = None if continuous else config.codebook_size
        self.features = features or self.frozen_features(config)
        self.codebook = None if continuous else nn.Parameter(torch.randn(config.codebook_size, config.latent_dim))

    @classmethod
    def frozen_features(cls, config: Any) -> FrozenFeatures:
        """Make what is in front of the model, by default patches of its pixels."""
        return cls.cut("pixels", *cls.sight(config), patch=config.patch)

    @classmethod
    def how_made(cls) -> str:
        return f"Published weights become one by lattok convert. {super(PairModel, cls).how_made()}"

    @abstractmethod
    def of_frame(self, features: Tensor) -> Tensor:
        """Turn features [n, N, D] of frames into what their pairs need of them, whichever role they play."""

    @abstractmethod
    def of_pair(self, now: Tensor, later: Tensor) -> Tensor:
        """Turn outputs of `of_frame` for both frames of n pairs into latents [n, P, d]."""

    @abstractmethod
    def _predict(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Predict features of the later frame [B, N, D] from current ones and quantized latent actions [B, P, d]."""

    def predict(self, features: Tensor, latents: LatentActions) -> Tensor:
        here = self.features.mean
        return self._predict(as_tensor("features", features).to(here), as_latents(latents).quantized.to(here))

    @torch.no_grad()
    def encode_features(self, features: Values) -> LatentActions:
        """Turn features [B, 2, N, D], as `frame_features` gives them, into `LatentActions`."""
        with self.inference():
            now, later = (self.of_frame(frame) for frame in self.checked_features(features).unbind(1))
            return like(features, self.from_tokens(self.of_pair(now, later)))

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Fill this model, without gradients: torch multiplies some matrices in another order where a parameter has
        one, also where none is asked for."""
        super().load_tensors(tensors, where)
        self.requires_grad_(False)

    def from_tokens(self, tokens: Tensor) -> LatentActions:
        """Turn latents [B, P, d] into `LatentActions`: the nearest rows of the codebook, or no codes."""
        if self.codebook is None:
            return LatentActions.of_latents(tokens)
        codes = nearest(tokens, self.codebook)
        return LatentActions(codes, tokens, self.codebook.detach()[codes])

    def trial(self) -> Trial | None:
        if self.codebook is None:
            return None
        rows = self.codebook.detach()[fixed_codes(self.config.tokens, self.config.codebook_size)]
        part = nn.ParameterList([self.codebook])
        return Trial(part, between(rows), lambda books, latents: nearest(latents, books[0]))

    def video_encoder(self) -> VideoEncoder:
        return VideoEncoder(lambda frames: self.of_frame(self.frame_features(frames)), self.of_pair)


def read_published(path: FilePath, kind: str, *prefixes: str) -> dict[str, Tensor]:
    """Read the weights of one system as `read_system` does, found under their usual entry; a prefix may be missing."""
    path = Path(path).expanduser()
    entry = next((entry for entry in ENTRIES if read_settings(path, entry)), None)
    return read_system(path, kind, entry, prefixes=(*prefixes, ""))


def weights_of(path: FilePath) -> Path:
    """Return the file of weights, in a folder the one that it has."""
    path = Path(path).expanduser()
    return path / WEIGHTS if path.is_dir() else path
