"""Datasets and models whose right answers are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lattok.data import Feature, RobotDataset
from lattok.evaluation import Report
from lattok.evaluation.report import Answer
from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig, TrainedPairModel
from lattok.types import Episode, LatentActions

CAMERA = "observation.images.front"
STRIDE = 4
SIDE = 16
HELD_OUT = [5, 6, 7, 8, 9]
CORNERS = (0, SIDE - 4)  # where a row of four pixels holds the frame's number and its complement


class World(RobotDataset):
    """A dataset in memory. Frames are noise, or black, and show nothing but the frame's number, in two corners."""

    fps = 10.0
    kind = "memory"
    root = Path("world")
    cameras: tuple[str, ...] = (CAMERA,)
    damaged = ()

    def __init__(
        self,
        episodes: int = 10,
        length: int = 40,
        names: tuple[str, ...] = ("x", "y", "z"),
        state: bool = True,
        tasks: int = 1,
        black: bool = False,
    ):
        rng = np.random.default_rng(0)
        self.name = "planted"
        self.tasks = tuple(f"task {i}" for i in range(tasks))
        self.episodes = tuple(Episode(i, length, (self.tasks[i % tasks],)) for i in range(episodes))
        self.features = {
            "action": Feature("float32", (len(names),), names),
            CAMERA: Feature("video", (SIDE, SIDE, 3), None),
        }
        if state:
            self.features["observation.state"] = Feature("float32", (2,), None)
        held = rng.standard_normal((episodes, length // STRIDE + 1, len(names)))
        self.actions = np.repeat(held, STRIDE, axis=1)[:, :length].astype(np.float32)
        self.states = rng.standard_normal((episodes, length, 2)).astype(np.float32)
        self.video = rng.integers(0, 1 if black else 255, (episodes, length, 1, SIDE, SIDE, 3), dtype=np.uint8)
        index = np.arange(episodes * length).reshape(episodes, length)
        for digit in range(2):  # the models below read the frame's number here
            value = index // 256**digit % 256
            for corner in CORNERS:
                self.video[:, :, 0, corner and SIDE - 1, corner + digit, 0] = value
                self.video[:, :, 0, corner and SIDE - 1, corner + digit + 2, 0] = 255 - value

    def columns(self, episode_index: int, keys: Any) -> dict[str, np.ndarray]:
        values = {"action": self.actions, "observation.state": self.states}
        return {key: values[key][episode_index] for key in keys}

    def frames(self, episode_index: int, cameras: Any = None, indices: Any = None, transform: Any = None) -> np.ndarray:
        return self.video[episode_index]


# of a tiny model's options, those that Moto's has as well
SHARED = ("cameras", "stride", "image_size", "tokens", "codebook_size", "latent_dim", "width", "heads")


def tiny_lam(kind: type[TrainedPairModel] = ImageLAM, world: World | None = None, **options: Any) -> Any:
    """A LAM that runs in milliseconds."""
    config = {
        "cameras": ("front",), "stride": str(STRIDE), "features": "pixels", "image_size": SIDE, "tokens": 2,
        "codebook_size": 4, "latent_dim": 8, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
        "encoder": "fused", "quantizer": "residual", "codebook_update": "ema", "codebook_start": "kmeans",
        "latent_norm": "batch", "decoder_predict_change": True,
    }  # fmt: skip
    torch.manual_seed(0)
    if issubclass(kind, MotoLAM):
        return MotoLAM(MotoLAMConfig.of(**{name: config[name] for name in SHARED} | options)).eval()
    model = ImageLAM(ImageLAMConfig.of(**{**config, **options})).eval()
    model.__class__ = kind
    model.world = world  # type: ignore[assignment]
    return model


class Knowing(ImageLAM):
    """A model that knows the world; one with fresh weights does not."""

    def fresh(self, config: Any = None) -> ImageLAM:
        made = ImageLAM(config or self.config)  # that knows nothing
        made.features = self.features
        return made


class Oracle(Knowing):
    """Knows the sum of the actions between two frames: it reads their numbers. Its environment stream, where it has
    one, knows how the bright pixels moved."""

    world: World

    def encode_features(self, features: Tensor, text: Any = None, text_mask: Any = None) -> LatentActions:
        pixels = features.reshape(len(features), 2, SIDE, SIDE, 3) * self.features.std + self.features.mean
        number = (self._number(pixels[:, i]) for i in range(2))
        actions = torch.from_numpy(self.world.actions).double()
        total = (actions.cumsum(1) - actions).flatten(0, 1)  # before every frame
        now, later = (total[index.clamp(0, len(total) - 1)] for index in number)
        latents = F.pad((later - now) / STRIDE, (0, self.config.latent_dim - total.shape[1]))[:, None].float()
        env = None if self.env is None else self._stream(self._motion(pixels))
        return replace(self._stream(latents), env=env)

    def _stream(self, latents: Tensor) -> LatentActions:
        """One bit per dimension in the codes."""
        return LatentActions((latents[:, 0, : self.config.tokens] > 0).long() * 3, latents, latents)

    def _number(self, pixels: Tensor) -> Tensor:
        """The frame's number from the corner whose complement is right."""
        values = (pixels[..., 0] * 255).round().long()
        found = torch.zeros(len(pixels), dtype=torch.long)
        for corner in CORNERS:
            row = values[:, corner and SIDE - 1, corner : corner + 4]
            right = ((row[:, :2] + row[:, 2:]) == 255).all(1)
            found = torch.where(right, row[:, 0] + 256 * row[:, 1], found)
        return found

    def _motion(self, pixels: Tensor) -> Tensor:
        weight = pixels.mean(-1)  # b 2 h w
        weight[:, :, :: SIDE - 1] = 0  # the numbers
        place = torch.linspace(0, 1, SIDE)
        total = weight.sum((2, 3)).clamp_min(1e-6)
        centre = torch.stack([(weight.sum(3) @ place) / total, (weight.sum(2) @ place) / total], 2)
        return F.pad(centre[:, 1] - centre[:, 0], (0, self.config.latent_dim - 2))[:, None]


class Linear(Knowing):
    """Latents are the change of the first features, and the decoder adds them back: every law holds exactly."""

    def encode_features(self, features: Tensor, text: Any = None, text_mask: Any = None) -> LatentActions:
        latents = (features[:, 1] - features[:, 0])[:, :1, : self.config.latent_dim]
        return LatentActions((latents[:, 0, : self.config.tokens] > 0).long(), latents, latents)

    def predict(self, features: Tensor, latents: LatentActions, text: Any = None, text_mask: Any = None) -> Tensor:
        features = features.clone()
        features[:, 0, : self.config.latent_dim] += latents.quantized[:, 0]
        return features


class Symmetric(Linear):
    """Its latents do not know the direction of time, and its decoder does nothing with them."""

    def encode_features(self, features: Tensor, text: Any = None, text_mask: Any = None) -> LatentActions:
        found = super().encode_features(features)
        return replace(found, latents=found.latents.abs(), quantized=found.latents.abs())

    def predict(self, features: Tensor, latents: LatentActions, text: Any = None, text_mask: Any = None) -> Tensor:
        return features


def answer_of(report: Report) -> Answer:
    """Return the answer of a report that has one."""
    assert report.answer is not None
    return report.answer


def holds(report: Report) -> dict[str, bool | None]:
    """Verdicts by their keys."""
    return {verdict.key: verdict.holds for verdict in report.verdicts}


def tables(report: Report) -> dict[str, dict[str, Any]]:
    """Tables of report.json by their titles."""
    return {table["title"]: table for part in json.loads(report.to_json())["sections"] for table in part["tables"]}


def rows(report: Report, title: str) -> dict[str, dict[str, Any]]:
    """Rows of a table by their keys."""
    return {row["key"]: row for row in tables(report)[title]["rows"]}
