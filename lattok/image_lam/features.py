"""Frozen image features: patch tokens of any timm ViT after its final norm, or `pixels` (normalised patch pixels).

The module carries no weights into an artefact: a saved model names its features and their revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lattok import checks

PIXEL_PATCH = 16


class FrozenFeatures(nn.Module):
    """uint8 frames [n, H, W, 3] to patch features [n, N, D] of one fixed, frozen network.

    `name` is "pixels" or "timm:MODEL", where MODEL is anything `timm.create_model` takes ("hf-hub:org/name",
    "local-dir:/folder"). Weights load with `load()`, never in the constructor.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        interpolation: str = "bicubic",
        revision: str | None = None,
    ):
        super().__init__()
        self.name, self.image_size, self.revision = name, image_size, revision
        self.interpolation = InterpolationMode(interpolation)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        if name == "pixels":
            self.network, self.patch, self.loaded = None, PIXEL_PATCH, True
            self.dim = 3 * PIXEL_PATCH**2
        elif name.startswith("timm:"):
            self.network, self.loaded = _timm_model(name, image_size, revision, pretrained=False), False
            self.patch = int(self.network.patch_embed.patch_size[0])
            self.dim = int(self.network.num_features)
        else:
            checks.fail("features", '"pixels" or "timm:MODEL"', repr(name))
        if image_size % self.patch:
            checks.fail("image_size", f"a multiple of the patch size {self.patch}", image_size)
        self.count = (image_size // self.patch) ** 2
        self.requires_grad_(False)

    def load(self) -> FrozenFeatures:
        """Load the pretrained weights of a timm network (from the Hub or a folder); does nothing for pixels."""
        if not self.loaded and self.network is not None:
            pretrained = _timm_model(self.name, self.image_size, self.revision, pretrained=True)
            self.network.load_state_dict(pretrained.state_dict())
            self.loaded = True
        return self

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Frozen parts stay in evaluation mode."""
        return super().train(False)

    def resize(self, frames: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] to uint8 [..., s, s, 3]; frames of the right size are returned as they are."""
        if not isinstance(frames, Tensor):
            checks.fail("frames", "a torch tensor", type(frames).__name__, "Use torch.from_numpy(frames).")
        if frames.dtype != torch.uint8:
            hint = "For LeRobot's float batches use lattok.data.frames_from_lerobot(batch, cameras)."
            checks.fail("frames", "uint8 pixels 0..255", f"dtype {frames.dtype}", hint)
        if frames.ndim < 3 or frames.shape[-1] != 3:
            checks.fail("frames", "shape [..., H, W, 3] (RGB, channels last)", f"shape {list(frames.shape)}")
        if tuple(frames.shape[-3:-1]) == (self.image_size, self.image_size):
            return frames
        flat = rearrange(frames.reshape(-1, *frames.shape[-3:]), "n h w c -> n c h w")
        small = resize(flat, [self.image_size] * 2, interpolation=self.interpolation, antialias=True)
        return rearrange(small, "n c h w -> n h w c").reshape(*frames.shape[:-3], self.image_size, self.image_size, 3)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [n, H, W, 3] to [n, N, D]."""
        checks.rank("frames", frames, "n H W 3")
        pixels = (self.resize(frames).to(self.mean) / 255 - self.mean) / self.std
        if self.network is None:
            return rearrange(pixels, "n (y p) (x q) c -> n (y x) (p q c)", p=self.patch, q=self.patch)
        if not self.loaded:
            raise RuntimeError(f"features {self.name!r} have no weights yet: call .load() first")
        tokens = self.network.forward_features(rearrange(pixels, "n h w c -> n c h w"))
        return tokens[:, self.network.num_prefix_tokens :]


def known_scaling(name: str, image_size: int, revision: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels (0 to 1) that a network was trained with; ImageNet's for `pixels`."""
    if not name.startswith("timm:"):
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    facts = _timm_model(name, image_size, revision, pretrained=False).pretrained_cfg
    return tuple(facts["mean"]), tuple(facts["std"])


def _timm_model(name: str, image_size: int, revision: str | None, pretrained: bool) -> Any:
    import timm

    model = name.removeprefix("timm:")
    if revision and model.startswith("hf-hub:"):
        model = f"{model}@{revision}"
    elif revision:
        checks.fail("features_revision", 'none, unless features are "timm:hf-hub:org/name"', revision)
    try:
        return timm.create_model(
            model, pretrained=pretrained, num_classes=0, img_size=image_size, dynamic_img_size=False
        ).eval()
    except Exception as error:  # timm and huggingface_hub raise many kinds; the user needs one line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        checks.fail("features", f"a timm vision transformer; {name!r} could not be built", reason)
