"""Latent action model of Moto (Chen et al., 2025) and LARA (Liu et al., 2026), which predicts the later frame's pixels.

Its encoder reads frozen features of both frames in one sequence; its decoder sees pixels, in patches (`parts.py`). A
second decoder may predict features next to that, and LPIPS compare the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lattok.image_lam.base import losses
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.trained import TrainedPairModel, of_pairs
from lattok.image_lam.moto.config import HELD, MotoLAMConfig
from lattok.image_lam.moto.parts import HeldViT, PatchDecoder, PerceptualLoss, SequenceEncoder
from lattok.types import LossTerms, PairBatch


class MotoLAM(TrainedPairModel):
    """Latent actions of frame pairs: P codes with which pixels of the later frame are predicted from the first.

    >>> lam = lattok.convert.moto_lam("latent_motion_tokenizer")
    >>> lam.encode(frames).codes                             # uint8 [B, 2, V, H, W, 3] -> int64 [B, P]
    """

    type = "moto-lam"
    config_class = MotoLAMConfig
    pixels: FrozenFeatures

    def __init__(self, config: MotoLAMConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        self.feature_decoder: PatchDecoder | None = None
        if config.loss.features > 0:
            self.feature_decoder = self._decoder(config.of_features, self.features)

    def summary(self) -> str:
        return f"{super().summary()}, a decoder of width {self.config.decoder.width or self.config.width}"

    def new_pixels(self) -> FrozenFeatures:
        return FrozenFeatures("pixels", *self._sight(self.config), patch=self.config.decoder.patch)

    def new_encoder(self, queries: int, places: int) -> nn.Module:
        return SequenceEncoder(self.config, queries, self.features.dim, places)

    def new_heads(self) -> list[nn.Module]:
        config, hidden = self.config, self.config.decoder.width or self.config.width
        return [nn.Sequential(nn.Linear(config.width, hidden), nn.Tanh(), nn.Linear(hidden, config.latent_dim))]

    def new_decoder(self) -> PatchDecoder:
        return self._decoder(self.config.decoder, self.pixels)

    def _decoder(self, decoder: Any, seen: FrozenFeatures) -> PatchDecoder:
        return PatchDecoder(self.config, decoder, self.streams, seen.dim, len(self.cameras) * seen.count)

    @property
    def decodes(self) -> bool:
        return super().decodes or self.config.loss.perceptual > 0

    @classmethod
    def frozen_features(cls, config: MotoLAMConfig) -> FrozenFeatures:
        network = HeldViT(config.image_encoder, config.image_size) if cls.holds_features(config) else None
        options = {"revision": config.features_revision, "class_token": config.class_token, "network": network}
        return FrozenFeatures(config.features, *cls._sight(config), **options)

    @staticmethod
    def holds_features(config: MotoLAMConfig) -> bool:
        return config.features == HELD

    @torch.no_grad()
    def frame_targets(self, frames: Tensor) -> Tensor:
        return self._seen_by(self.pixels, frames)

    @torch.no_grad()
    def features_of(self, targets: Tensor) -> Tensor:
        images = self.pixels.pixels_of(targets.reshape(-1, self.pixels.count, self.pixels.dim))
        return self.features.of_pixels(images).reshape(len(targets), -1, self.features.dim)

    def new_perceptual(self) -> PerceptualLoss | None:
        return PerceptualLoss() if self.config.loss.perceptual > 0 else None

    def predictions(
        self,
        batch: PairBatch,
        pairs: Sequence[Sequence[int]],
        features: Tensor,
        vectors: Sequence[Tensor],
        conditions: Mapping[str, Any],
        perceptual: nn.Module | None,
    ) -> LossTerms:
        """Return the terms of pixels, and of features where a second decoder predicts these."""
        terms: LossTerms = {}
        seen = of_pairs(self.frame_targets(batch.frames), pairs)
        if self.config.loss.prediction > 0 or perceptual is not None:
            predicted = self.decoder(seen[:, 0], *vectors)
            terms["prediction"] = losses.prediction(predicted, seen[:, 1])
            if perceptual is not None:
                terms["perceptual"] = perceptual(*(self._shown(patches) for patches in (predicted, seen[:, 1])))
        if self.feature_decoder is not None:
            terms["features"] = losses.prediction(self.feature_decoder(features[:, 0], *vectors), features[:, 1])
        return terms

    def _shown(self, patches: Tensor) -> Tensor:
        """Turn patches of pixels [B, V*N, D] into images [B*V, 3, H, W], 0 black and 1 white."""
        images = self.pixels.pixels_of(patches.reshape(-1, self.pixels.count, self.pixels.dim))
        return (images * self.pixels.std + self.pixels.mean).movedim(-1, 1)
