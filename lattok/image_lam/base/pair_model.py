"""What every latent action model shares that sees frames through frozen features, and what those of frame pairs share.

Features are computed once per frame, and a video is labelled in blocks.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lattok.hub import HubModel
from lattok.hub.client import FilePath
from lattok.image_lam.base.features import PIXEL_PATCH, FrozenFeatures
from lattok.image_lam.base.labelling import Video, VideoEncoder, as_latents, block_size, of_cameras, query_tokens
from lattok.image_lam.base.video_file import Files, are_files, label_files
from lattok.types import Gap, LatentActions, VideoLabeller, join
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, in_pairs, like

PACKAGES = {"timm": "timm", "hf": "transformers", "dc-ae": "diffusers"}  # by the source of features
WHITE = {"unit": 1.0, "bytes": 255.0}  # a white pixel as `encode_pixels` gets it; else "normalized", by mean and std


class FrozenFeaturesModel(HubModel, VideoLabeller, ABC):
    """A model that sees frames through `features`, whose weights its artefact names and does not hold."""

    label_source = "video"
    features: FrozenFeatures
    pixels: Any  # FrozenFeatures by which a decoder sees frames, where that is not as features; otherwise None
    config: Any  # has `stride`
    pixel_patch: ClassVar[int] = PIXEL_PATCH  # side of the patches of features "pixels"

    @property
    def packages(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        source = PACKAGES.get(str(getattr(self.config, "features", "")).partition(":")[0])
        return ("torch", "torchvision", "numpy", "av") + (() if source is None else (source,))

    @classmethod
    def frozen_features(cls, config: Any) -> FrozenFeatures:
        """Build the frozen features that a configuration names, without their weights."""
        return FrozenFeatures(config.features, *cls.sight(config), config.features_revision, patch=cls.pixel_patch)

    @staticmethod
    def sight(config: Any) -> tuple[Any, Any, Any, Any]:
        """Return the size and normalisation in which the model looks at frames."""
        return config.image_size, config.mean, config.std, config.interpolation

    @staticmethod
    def holds_features(config: Any) -> bool:
        """Return whether artefacts of this configuration hold the weights of its features."""
        return False

    @classmethod
    def opened(cls, config: Any, folder: Path, backbone: FilePath | None = None) -> tuple[Any, dict[str, Any]]:
        """Build the frozen features, unless the artefact holds them, whose sizes are compared with its file first."""
        config, parts = super().opened(config, folder, backbone)
        return config, parts if cls.holds_features(config) else {**parts, "features": cls.frozen_features(config)}

    @classmethod
    def how_made(cls) -> str:
        return f'Train one: lattok.train("{cls.type}", DATASET, out=FOLDER). {super().how_made()}'

    def saved_tensors(self) -> dict[str, Tensor]:
        held = self.holds_features(self.config)
        return {name: x for name, x in super().saved_tensors().items() if held or not name.startswith("features.")}

    def fresh(self, config: Any = None) -> Self:
        """Make a model of the same or another configuration with random weights; frozen features are shared."""
        return type(self)(config or self.config, features=self.features)

    def rate(self, *preferred: int) -> int:
        """Return a frame rate for an example, one that the model's stride fits."""
        for fps in (*preferred, 10, 20, 30, 50, 100):
            with suppress(checks.LattokError):
                self.check_rate(fps)
                return fps
        return 1000

    def check_rate(self, fps: float) -> None:
        """Refuse a frame rate at which the stride is less than a frame."""
        self.stride_frames(fps)

    def usage_of(self, line: str) -> list[str]:
        """Return lines for the card that end with this one, which says what becomes of a video."""
        video = f"video = np.zeros((20, {len(self.cameras)}, 128, 128, 3), np.uint8)  # yours: [T, V, H, W, 3]"
        return ["", "import numpy as np", "", video, line]

    def after_load(self) -> None:
        self.features.load()

    def describe(self) -> dict[str, Any]:
        described = super().describe() | {"backend": "torch", "precision": "float32"}
        weights = self.features.weights_hash()
        return described if weights is None else described | {"features_sha256": weights}

    @torch.no_grad()
    def frame_features(self, frames: Tensor, network: FrozenFeatures | None = None) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into features [..., V*N, D], those of another network where one is given."""
        network = network or self.features
        checks.size("frames", f"cameras ({', '.join(self.cameras)})", frames.shape[-4], len(self.cameras))
        frames = network.resize(frames).to(network.mean.device)
        patches = network(frames.reshape(-1, *frames.shape[-3:]))
        return patches.reshape(*frames.shape[:-4], len(self.cameras) * network.count, network.dim)

    def frame_targets(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into what a decoder predicts: features, or pixels in patches [..., V*N, D]."""
        return self.frame_features(frames, self.pixels)

    def check_reads_video_alone(self) -> None:
        """Refuse a stage-1 model: it also reads instructions, which a video does not hold."""
        if self.language is not None:
            hint = "Its codebook is for stage 2: lattok train image-lam --stage 2 --env-codebook MODEL."
            checks.fail("model", "one that labels video", "a stage-1 model, which also reads instructions", hint)

    def stride_frames(self, fps: float) -> int:
        return checks.stride_in_frames(self.config.stride, fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return self.features.resize(torch.from_numpy(frames)).numpy()


class PairModel(FrozenFeaturesModel, ABC):
    """A model of frame pairs. Its `config` has `stride`, and sizes of its codes as `ImageLAMConfig` names them."""

    env: Any  # the environment stream, None where there is none
    pixel_range = "normalized"  # of `encode_pixels`
    numbers_per_frame: int  # that a layer holds of a frame; of published models the widest, the feed-forward
    any_grid = False  # whether places of patches are a rule, so that there may be more or fewer of them

    @abstractmethod
    def encode_features(self, features: Values) -> LatentActions:
        """Turn features [B, 2, V*N, D] into `LatentActions`."""

    @abstractmethod
    def from_tokens(self, tokens: Tensor) -> LatentActions:
        """Turn what the encoder makes of pairs, [B, queries, width], into `LatentActions`."""

    @abstractmethod
    def predict(self, features: Tensor, latents: LatentActions) -> Tensor:
        """Predict features of the later frame [B, N, D] from current ones [B, N, D] and quantized latent actions."""

    @abstractmethod
    def video_encoder(self) -> VideoEncoder:
        """Return the encoder that labels videos, bound to the weights as they are now."""

    def usage(self) -> list[str]:
        if self.language is not None:
            return []
        return self.usage_of(f"labels = model.label_video(video, fps={self.rate()})  # .codes int64 [T, P]")

    def summary(self) -> str:
        c = self.config
        if self.codebook_size is None:
            labels = f"{c.tokens} x {c.latent_dim} numbers"
        else:
            labels = f"{checks.counted(c.tokens, 'code')} of {c.codebook_size}, latents of width {c.latent_dim}"
        return f"{labels}, {self.size}, frames of {c.image_size} pixels"

    def encode(self, frames: Values, later: Values | None = None) -> LatentActions:
        """Turn frame pairs uint8 [B, 2, V, H, W, 3] into `LatentActions`; V may be left out when there is one camera.

        Pairs may also come apart: first frames [B, V, H, W, 3], and the `later` ones. Arrays in, arrays out. For all
        pairs of a video see `label_video`.
        """
        if later is not None and len(shape := np.shape(frames)) == 3 + (len(self.cameras) > 1):
            expected, hint = "a batch [B, V, H, W, 3]", "A batch of one: encode(frames[None], later[None])."
            checks.fail("frames", expected, f"shape {list(shape)}", hint)
        frames = frames if later is None else in_pairs(frames, later)
        with self.inference():
            return like(frames, self.encode_features(self.frame_features(self.checked_pairs(frames))))

    @torch.no_grad()
    def encode_pixels(self, pixels: Values) -> LatentActions:
        """Turn pixels of frame pairs [B, 2, 3, H, W], of several cameras [B, 2, V, 3, H, W], into `LatentActions`:
        `encode` without resizing frames to the model's size, in its `pixel_range`.

        Arrays in, arrays out.
        """
        found = of_cameras("pixels", as_tensor("pixels", pixels), "B 2 V 3 H W", self.cameras)
        shape = [2, len(self.cameras), 3, *self.features.frame_size]
        if list(found.shape[1:]) != shape or not (found.is_floating_point() or self.pixel_range == "bytes"):
            expected = f"{self.pixel_range} floats [B, {', '.join(map(str, shape))}]"
            hint = "encode takes uint8 frames of any size."
            checks.fail("pixels", expected, f"{found.dtype} of shape {list(found.shape)}", hint)
        frames, network = found.to(self.features.mean).flatten(0, 2).movedim(1, -1), self.features
        if self.pixel_range in WHITE:
            frames = (frames / WHITE[self.pixel_range] - network.mean) / network.std
        with self.inference():
            features = network.of_pixels(frames).reshape(len(found), 2, -1, network.dim)
            return like(pixels, self.encode_features(features))

    def checked_features(self, features: Values) -> Tensor:
        """Return features of this model's frame pairs, [B, 2, V*N, D], on its device."""
        found = as_tensor("features", features)
        checks.rank("features", found, "B 2 N D")
        checks.size("features", "frames per sample", found.shape[1], 2)
        checks.size("features", f"channels, as {self.features.name} has", found.shape[3], self.features.dim)
        if not self.any_grid:
            checks.size("features", "patches", found.shape[2], len(self.cameras) * self.features.count)
        return found.to(self.features.mean)

    @torch.no_grad()
    def decode(self, frames: Values, latents: LatentActions) -> Any:
        """Predict later frames, as `predict` does, from frames uint8 [B, V, H, W, 3] and their latent actions.

        Arrays in, arrays out.
        """
        now = of_cameras("frames", as_tensor("frames", frames), "B V H W 3", self.cameras)
        checks.size("latents", "latent actions, one for each frame", len(as_latents(latents).quantized), len(now))
        with self.inference():
            return like(frames, self.predict(self.frame_targets(now), latents))

    @torch.no_grad()
    def features_of(self, targets: Tensor) -> Tensor:
        """Turn what the decoder predicts [B, V*N, D] into features, as `frame_features` gives them."""
        if self.pixels is None:
            return targets
        return self.features.of_pixels(self.images_of(targets)).reshape(len(targets), -1, self.features.dim)

    def images_of(self, targets: Tensor) -> Tensor:
        """Turn patches of pixels [B, V*N, D] into normalised images [B*V, H, W, 3]."""
        return self.pixels.pixels_of(targets.reshape(-1, self.pixels.count, self.pixels.dim))

    @torch.no_grad()
    def label_video(
        self,
        frames: Video | Files,
        stride: Gap = None,
        encoder: VideoEncoder | None = None,
        *,
        fps: float | None = None,
    ) -> LatentActions:
        """Turn video uint8 [T, V, H, W, 3] into T latent actions of the pairs (t, min(t + stride, T - 1)), in float32.

        `valid` says which pairs end in the video. A video file, or one for each camera, gives arrays; `fps` is its
        rate where the file does not tell.

        `stride` is a number of frames, or seconds ("0.2s") of a video at `fps`; left out: the model's own. V may be
        left out when there is one camera; arrays in, arrays out. The video may also come in pieces, in order, from any
        iterable: only `stride` frames are held. Every frame is computed once, in blocks from frame 0, so that
        labels do not depend on the pieces. `lattok.for_inference` has faster encoders of an `ImageLAM`.
        """
        self.check_reads_video_alone()
        if are_files(frames):
            return label_files(self, frames, stride, fps, encoder=encoder)
        stride = checks.gap(stride, fps, self.config.stride)
        size = block_size(self.numbers_per_frame, self.features.mean.device)
        with self.inference():
            encoder = encoder or self.video_encoder()
            tokens = query_tokens(encoder, frames, self.cameras, (0, stride), size)
            return like(frames, join([self.from_tokens(part) for part in tokens]).of_video(stride, fps))

    def checked_pairs(self, frames: Values) -> Tensor:
        """Return frame pairs of this model's cameras as [B, 2, V, H, W, 3]; V may be left out when there is one."""
        found = of_cameras("frames", as_tensor("frames", frames), "B 2 V H W 3", self.cameras)
        checks.size("frames", "frames per sample", found.shape[1], 2)
        return found
