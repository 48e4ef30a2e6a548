"""Datasets and models whose right answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.data import Feature
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.types import Episode, LatentActions

CAMERA = "observation.images.front"
STRIDE = 4


class World:
    """A dataset in memory. Frames are noise and show nothing but, in two pixels, the frame's number."""

    fps = 10.0
    root = Path("world")
    tasks = ("go",)
    cameras: tuple[str, ...] = (CAMERA,)

    def __init__(
        self, episodes: int = 10, length: int = 40, names: tuple[str, ...] = ("x", "y", "z"), state: bool = True
    ):
        rng = np.random.default_rng(0)
        self.name = "planted"
        self.episodes = tuple(Episode(i, length, self.tasks) for i in range(episodes))
        self.features = {
            "action": Feature("float32", (len(names),), names),
            CAMERA: Feature("video", (16, 16, 3), None),
        }
        if state:
            self.features["observation.state"] = Feature("float32", (2,), None)
        held = rng.standard_normal((episodes, length // STRIDE + 1, len(names)))
        self.actions = np.repeat(held, STRIDE, axis=1)[:, :length].astype(np.float32)
        self.states = rng.standard_normal((episodes, length, 2)).astype(np.float32)
        self.video = rng.integers(0, 255, (episodes, length, 1, 16, 16, 3), dtype=np.uint8)
        index = np.arange(episodes * length).reshape(episodes, length)
        for digit in range(2):  # the model below reads the frame's number here
            self.video[:, :, 0, digit, 0, 0] = index // 256**digit % 256

    def columns(self, episode_index: int, keys: Any) -> dict[str, np.ndarray]:
        values = {"action": self.actions, "observation.state": self.states}
        return {key: values[key][episode_index] for key in keys}

    def frames(self, episode_index: int, cameras: Any = None, indices: Any = None, transform: Any = None) -> np.ndarray:
        return self.video[episode_index]


def tiny_lam(**options: Any) -> ImageLAM:
    """A LAM that runs in milliseconds."""
    config = {
        "cameras": ("front",), "stride": str(STRIDE), "features": "pixels", "image_size": 16, "tokens": 2,
        "codebook_size": 4, "latent_dim": 8, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
        "encoder": "fused", "quantizer": "residual", "codebook_update": "ema", "codebook_start": "kmeans",
        "latent_norm": "batch", "predict_change": True,
    }  # fmt: skip
    torch.manual_seed(0)
    return ImageLAM(ImageLAMConfig(**{**config, **options})).eval()


class Oracle(ImageLAM):
    """Knows the mean action of every pair: it reads the frame's number from the image."""

    world: World

    def encode_features(self, features: Tensor) -> LatentActions:
        pixels = features.reshape(len(features), 2, 16, 16, 3) * self.features.std + self.features.mean
        digits = (pixels[:, 0, :2, 0, 0] * 255).round().long()
        episode, frame = np.divmod((digits[:, 0] + 256 * digits[:, 1]).numpy(), self.world.actions.shape[1])
        span = frame[:, None] + np.arange(STRIDE)
        actions = torch.from_numpy(self.world.actions[episode[:, None], span].mean(1))
        codes = (actions[:, : self.config.tokens] > 0).long() * 3  # one bit per dimension
        latents = torch.nn.functional.pad(actions, (0, self.config.latent_dim - actions.shape[1]))[:, None]
        return LatentActions(codes, latents, latents)
