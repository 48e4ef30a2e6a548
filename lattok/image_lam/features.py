"""Frozen image features: patch tokens after the final norm of a timm ViT or of V-JEPA 2, or normalised patch pixels.

The module carries no weights into an artefact: a saved model names its features and their revision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode

from lattok import checks, files
from lattok.checks import LattokError
from lattok.data.pixels import resize_pixels

PIXEL_PATCH = 16
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = '"pixels", "timm:MODEL" or "hf:MODEL"'


class FrozenFeatures(nn.Module):
    """uint8 frames [n, H, W, 3] to patch features [n, N, D] of one fixed, frozen network.

    `name` is "pixels"; "timm:MODEL", where MODEL is any vision transformer that `timm.create_model` takes, also as
    "hf-hub:org/name" or "local-dir:/folder" (DINOv2 and 3, SigLIP 2 ...); or "hf:MODEL", a V-JEPA 2 of transformers.
    Weights load with `load()`, never in the constructor.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
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
        checks.counts(image_size=image_size)
        if name == "pixels":
            self.network, self.patch, self.loaded = None, PIXEL_PATCH, True
            self.dim = 3 * PIXEL_PATCH**2
        else:
            self.network, self.loaded = _network(name, image_size, revision, pretrained=False), False
            self.patch = _patch_size(name, self.network)
            self.dim = int(self.network.num_features)
        if image_size % self.patch:
            checks.fail("image_size", f"a multiple of the patch size {self.patch}", image_size)
        self.count = (image_size // self.patch) ** 2
        self.requires_grad_(False)

    def load(self) -> FrozenFeatures:
        """Load the pretrained weights (from the Hub or a folder); does nothing for pixels."""
        if not self.loaded and self.network is not None:
            pretrained = _network(self.name, self.image_size, self.revision, pretrained=True)
            self.network.load_state_dict(pretrained.state_dict())
            self.loaded = True
        return self

    def weights_hash(self) -> str | None:
        """SHA-256 of the network's weights, which no artefact holds; None for pixels."""
        if self.network is None:
            return None
        weights = hashlib.sha256()
        for tensor in self.network.state_dict().values():
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return weights.hexdigest()

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Frozen parts stay in evaluation mode."""
        return super().train(False)

    def resize(self, frames: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] to uint8 [..., s, s, 3]; frames of the right size are returned as they are."""
        return resize_pixels(frames, self.image_size, self.interpolation.value)

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
    """Mean and deviation of the pixels (0 to 1) that a network was trained with; ImageNet's where it does not say."""
    if not name.startswith("timm:"):
        return IMAGENET
    facts = _network(name, image_size, revision, pretrained=False).pretrained_cfg
    return tuple(facts["mean"]), tuple(facts["std"])


class StillVideo(nn.Module):
    """A video encoder for single frames: each is shown for the few steps that the encoder joins into one token."""

    num_prefix_tokens = 0

    def __init__(self, encoder: nn.Module, config: Any):
        super().__init__()
        self.encoder, self.steps = encoder, int(config.tubelet_size)
        self.patch_size, self.num_features = config.patch_size, config.hidden_size

    def forward_features(self, pixels: Tensor) -> Tensor:
        """[n, 3, H, W] to [n, N, D]."""
        return self.encoder(pixels[:, None].expand(-1, self.steps, -1, -1, -1)).last_hidden_state


def _network(name: str, image_size: int, revision: str | None, pretrained: bool) -> Any:
    """The network behind a name, in evaluation mode: `forward_features`, `num_prefix_tokens`, `num_features`."""
    source, _, model = name.partition(":")
    if source == "timm" and model:
        return _timm(name, model, image_size, revision, pretrained).eval()
    if source == "hf" and model:
        return _video(name, model, image_size, revision, pretrained).eval()
    return checks.fail("features", NAMES, repr(name))


def _timm(name: str, model: str, image_size: int, revision: str | None, pretrained: bool) -> Any:
    import timm

    if revision and model.startswith("hf-hub:"):
        model = f"{model}@{revision}"
    elif revision:
        raise LattokError(f'`features_revision` {revision!r} is for "timm:hf-hub:org/name" and "hf:org/name".')
    try:
        network = timm.create_model(
            model, pretrained=pretrained, num_classes=0, img_size=image_size, dynamic_img_size=False
        )
    except TypeError as error:  # the network has no image size: a convolutional one, say
        checks.fail("features", f"a timm vision transformer; {name!r} is none", files.first_line(error))
    except Exception as error:  # timm and huggingface_hub raise many kinds; the user needs one line
        checks.fail("features", f"a timm vision transformer; {name!r} could not be built", files.first_line(error))
    if not (hasattr(network, "num_prefix_tokens") and hasattr(network, "patch_embed")):
        checks.fail("features", f"a timm vision transformer; {name!r} is none", type(network).__name__)
    return network


def _video(name: str, model: str, image_size: int, revision: str | None, pretrained: bool) -> StillVideo:
    try:
        from transformers import AutoConfig, VJEPA2Model
    except ImportError:
        checks.fail("features", f"transformers with V-JEPA 2 for {name!r}", "none", "pip install 'lattok[vla]'")
    where, kind = str(Path(model).expanduser()) if model.startswith("~") else model, cast(Any, VJEPA2Model)
    try:
        config = AutoConfig.from_pretrained(where, revision=revision)
        if config.model_type != "vjepa2":
            hint = "For image transformers use timm:MODEL."
            checks.fail("features", f"a V-JEPA 2 model as {name!r}", f"a model of type {config.model_type}", hint)
        config.crop_size = image_size  # its positions are computed from it
        if not pretrained:
            return StillVideo(kind(config).encoder, config)
        found, report = kind.from_pretrained(where, revision=revision, config=config, output_loading_info=True)
    except checks.LattokError:
        raise
    except Exception as error:  # transformers and huggingface_hub raise many kinds; the user needs one line
        checks.fail("features", f"a V-JEPA 2 model; {name!r} could not be built", files.first_line(error))
    missing = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    if any("encoder." in key for key in missing):  # transformers fills these with random numbers
        checks.fail("features", f"a V-JEPA 2 model; {name!r} lacks weights", ", ".join(missing))
    return StillVideo(found.encoder, config)


def _patch_size(name: str, network: Any) -> int:
    size = network.patch_size if isinstance(network, StillVideo) else network.patch_embed.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        checks.fail("features", f"square patches; {name!r} has others", f"{height} x {width}")
    return int(height)
