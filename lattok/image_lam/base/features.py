"""Frozen networks before the latent action model: artefacts name them with their revision.

Images: patch tokens after the final norm of a timm ViT, of V-JEPA 2 or of ViT-MAE, or normalised patch pixels. Texts,
for language conditioning (stage 1): the last hidden states of a T5 encoder.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from lattok.data.pixels import resize_pixels
from lattok.hub.weights import check_whole, from_pretrained, one_line, open_diffusers, plan_network
from lattok.utils import checks
from lattok.version import install_extra

PIXEL_PATCH = 16
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = '"pixels", "timm:MODEL", "hf:MODEL" or "dc-ae:MODEL"'
MAX_TOKENS = 512  # T5's own limit; instructions have about ten


class FrozenNetwork(nn.Module):
    """A network that stays in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class FrozenFeatures(FrozenNetwork):
    """uint8 frames [n, H, W, 3] to patch features [n, N, D] of one fixed, frozen network.

    `name` is "pixels"; "timm:MODEL", where MODEL is any vision transformer that `timm.create_model` takes, also as
    "hf-hub:org/name" or "local-dir:/folder" (DINOv2 and 3, SigLIP 2 ...); "hf:MODEL", a V-JEPA 2 or ViT-MAE of
    transformers; or "dc-ae:MODEL", a deep-compression autoencoder of diffusers. Weights load with `load()`, never in
    the constructor: until then a network takes no memory. Any other name is that of a `network` of the model's own,
    whose weights are saved with it. With `class_token` the first of the N tokens is the network's class token. `patch`
    is the side of the patches of "pixels".
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        interpolation: str = "bicubic",
        revision: str | None = None,
        class_token: bool = False,
        patch: int = PIXEL_PATCH,
        network: Any = None,
    ):
        super().__init__()
        self.name, self.image_size, self.revision, self.class_token = name, image_size, revision, class_token
        self.interpolation, self.frame_size = interpolation, (image_size, image_size)
        self.mean = nn.Buffer(torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.std = nn.Buffer(torch.tensor(std, dtype=torch.float32), persistent=False)
        self.precision = torch.float32  # of normalised pixels
        checks.counts(image_size=image_size)
        if name == "pixels":
            self.network, self.patch, self.loaded = None, patch, True
            self.dim = 3 * patch**2
        else:
            self.network, self.loaded = network or _outline(name, image_size, revision), network is not None
            self.patch = _patch_size(name, self.network)
            self.dim = int(self.network.num_features)
        if image_size % self.patch:
            below = image_size // self.patch * self.patch
            near = " or ".join(f"image_size={size}" for size in (below, below + self.patch) if size)
            checks.fail(
                "image_size", f"a multiple of the patch size {self.patch} of {name}", image_size, f"Such as {near}."
            )
        if class_token and (self.network is None or not self.network.num_prefix_tokens):
            checks.fail("class_token", f"False with features={name}, which have none", class_token)
        self.side = image_size // self.patch  # in patches
        self.count = self.side**2 + class_token
        self.requires_grad_(False)

    def load(self, pretrained: bool = True) -> "FrozenFeatures":
        """Load the pretrained weights (from the Hub or a folder), or random ones; does nothing for pixels."""
        if not self.loaded and self.network is not None:
            found = _network(self.name, self.image_size, self.revision, pretrained)
            self.network, self.loaded = found.requires_grad_(False).to(self.mean.device), True
        return self

    def weights_hash(self) -> str | None:
        """Return the SHA-256 of the network's weights, which are not saved with a model; None for pixels."""
        if self.network is None:
            return None
        weights = hashlib.sha256()
        for tensor in self.network.state_dict().values():
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return weights.hexdigest()

    def resize(self, frames: Tensor) -> Tensor:
        """Resize uint8 [..., H, W, 3] to uint8 [..., s, s, 3]; frames of the right size are returned as they are."""
        return resize_pixels(frames, self.image_size, self.interpolation)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Turn uint8 [n, H, W, 3] into [n, N, D]."""
        checks.rank("frames", frames, "n H W 3")
        frames = self.resize(frames)
        rows, side = frames.flatten(-2).to(self.mean), frames.shape[-2]  # four times as fast as three numbers at a time
        rows.div_(255).sub_(self.mean.repeat(side)).div_(self.std.repeat(side))
        return self.of_pixels(rows.unflatten(-1, (side, 3)))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Turn normalised pixels [n, s, s, 3] into [n, N, D]."""
        pixels = pixels.to(self.precision)
        if self.network is None:
            return rearrange(pixels, "n (y p) (x q) c -> n (y x) (p q c)", p=self.patch, q=self.patch)
        if not self.loaded:
            raise RuntimeError(f"features {self.name!r} have no weights yet: call .load() first")
        tokens = self.network.forward_features(rearrange(pixels, "n h w c -> n c h w"))
        prefix = self.network.num_prefix_tokens
        return torch.cat([tokens[:, : int(self.class_token)], tokens[:, prefix:]], 1) if prefix else tokens

    @property
    def decodes(self) -> bool:
        """Return whether `pixels_of` works for these features."""
        return self.network is None or isinstance(self.network, DeepCompression)

    def pixels_of(self, patches: Tensor) -> Tensor:
        """Turn patches [n, N, D] of features "pixels" or "dc-ae" back into normalised pixels [n, s, s, 3]."""
        if isinstance(self.network, DeepCompression):
            return self.network.pixels_of(patches, self.side)
        size = {"y": self.side, "p": self.patch, "q": self.patch}
        return rearrange(patches, "n (y x) (p q c) -> n (y p) (x q) c", **size)


def known_scaling(name: str, image_size: int, revision: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the pixels (0 to 1) that a network was trained with; else ImageNet's."""
    if name.startswith("dc-ae:"):
        return (0.5,) * 3, (0.5,) * 3
    if not name.startswith("timm:"):
        return IMAGENET
    facts = _outline(name, image_size, revision).pretrained_cfg
    return tuple(facts["mean"]), tuple(facts["std"])


class StillVideo(nn.Module):
    """A video encoder for single frames: each is shown for the few steps that the encoder joins into one token."""

    num_prefix_tokens = 0

    def __init__(self, encoder: nn.Module, config: Any):
        super().__init__()
        self.encoder, self.steps = encoder, int(config.tubelet_size)
        self.patch_size, self.num_features = config.patch_size, config.hidden_size

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into [n, N, D]."""
        return self.encoder(pixels[:, None].expand(-1, self.steps, -1, -1, -1)).last_hidden_state


class OrderedMAE(nn.Module):
    """transformers' `ViTMAEModel` without masking: all patches, in their order.

    The published encoder shuffles them even where it masks none, anew at each call, and so do the latent action models
    on top of it (Moto, LARA): their labels were drawn with a random order.
    """

    num_prefix_tokens = 1

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        encoder.config.mask_ratio = 0.0
        self.patch_size, self.num_features = encoder.config.patch_size, encoder.config.hidden_size

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into class token and patches [n, 1 + N, D]."""
        count = pixels.shape[-2] * pixels.shape[-1] // self.patch_size**2
        order = torch.arange(count, device=pixels.device, dtype=torch.float32)  # the noise that patches are sorted by
        return self.encoder(pixels, noise=order.expand(len(pixels), -1)).last_hidden_state


class DeepCompression(nn.Module):
    """A deep-compression autoencoder of diffusers (Chen et al., 2024): a scaled latent for each place, and back."""

    num_prefix_tokens = 0

    def __init__(self, network: Any):
        super().__init__()
        self.network, self.scaling = network, float(network.config.scaling_factor)
        self.patch_size, self.num_features = network.spatial_compression_ratio, network.config.latent_channels

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] between -1 and 1 into [n, N, D]."""
        return rearrange(self.scaling * self.network.encode(pixels, return_dict=False)[0], "n d y x -> n (y x) d")

    def pixels_of(self, tokens: Tensor, side: int) -> Tensor:
        """Turn [n, N, D] of `side` x `side` places back into [n, H, W, 3]."""
        latents = rearrange(tokens, "n (y x) d -> n d y x", y=side) / self.scaling
        return rearrange(self.network.decode(latents, return_dict=False)[0], "n c h w -> n h w c")


class TextEncoder(FrozenNetwork):
    """Texts to vectors of one fixed, frozen encoder: `TextEncoder("t5:google-t5/t5-base").load().encode(["lift it"])`.

    `name` is "t5:MODEL", where MODEL is a Hub id or a folder. Nothing is read before `load()`.
    """

    def __init__(self, name: str):
        super().__init__()
        if not name.startswith("t5:") or name == "t5:":
            checks.fail("language", '"t5:MODEL", where MODEL is a Hub id or a folder', repr(name))
        self.name = name
        self.network: Any = None
        self.tokenizer: Any = None

    def load(self) -> "TextEncoder":
        """Load tokenizer and weights, from the Hub or a folder; a second call does nothing."""
        if self.network is not None:
            return self
        try:
            from transformers import AutoTokenizer, T5EncoderModel
        except ImportError:
            hint = "Or give text vectors yourself: language=precomputed."
            checks.fail("language", f"the package transformers ({install_extra('vla')})", "none", hint)
        model, kind = self.name.removeprefix("t5:"), cast(Any, T5EncoderModel)
        if model.startswith((".", "/", "~")) and not (Path(model).expanduser() / "config.json").is_file():
            checks.fail("language", "a folder with config.json, or a Hub id like google-t5/t5-base", model)
        with one_line("language", f"a T5 encoder; {model!r} could not be read"):
            self.tokenizer = from_pretrained("language", AutoTokenizer, os.path.expanduser(model))
            network, report = from_pretrained("language", kind, os.path.expanduser(model), output_loading_info=True)
        check_whole("language", f"a T5 encoder; {model!r}", report)
        self.network = network.float().eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn B texts into vectors [B, S, D] float32 and mask [B, S] bool, S of the longest; padding is zero."""
        if self.network is None:
            raise RuntimeError(f"text encoder {self.name!r} has no weights yet: call .load() first")
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            checks.fail("texts", "a list of at least one text", repr(texts))
        options = {"padding": True, "truncation": True, "max_length": MAX_TOKENS, "return_tensors": "pt"}
        rows = self.tokenizer([*texts], **options).to(self.network.device)
        mask = rows["attention_mask"]
        vectors = self.network(input_ids=rows["input_ids"], attention_mask=mask).last_hidden_state
        return vectors * mask[..., None], mask.bool()


def _outline(name: str, image_size: int, revision: str | None) -> Any:
    """Build the same without memory, for its sizes."""
    return plan_network(lambda: _network(name, image_size, revision, pretrained=False), f"features {name}")


def _network(name: str, image_size: int, revision: str | None, pretrained: bool) -> Any:
    """Build the network behind a name, in evaluation mode: `forward_features`, `num_prefix_tokens`, `num_features`."""
    source, _, model = name.partition(":")
    if source == "timm" and model:
        return _timm(name, model, image_size, revision, pretrained).eval()
    if source == "hf" and model:
        return _transformers(name, model, image_size, revision, pretrained).eval()
    if source == "dc-ae" and model:
        network = open_diffusers("features", "AutoencoderDC", os.path.expanduser(model), "vae", revision, pretrained)
        return DeepCompression(network).eval()
    return checks.fail("features", NAMES, repr(name), checks.did_you_mean(name, ["pixels"]))


def _timm(name: str, model: str, image_size: int, revision: str | None, pretrained: bool) -> Any:
    import timm

    if revision and model.startswith("hf-hub:"):
        model = f"{model}@{revision}"
    elif revision:
        raise checks.LattokError(f'`features_revision` {revision!r} is for "timm:hf-hub:org/name" and "hf:org/name".')
    expected = f"a timm vision transformer; {name!r} "
    with one_line("features", expected + "could not be built"):
        try:
            options = {"num_classes": 0, "img_size": image_size, "dynamic_img_size": False}
            network = timm.create_model(model, pretrained=pretrained, **options)
        except TypeError as error:  # the network has no image size: a convolutional one, say
            checks.fail("features", expected + "is none", checks.first_line(error))
    if not (hasattr(network, "num_prefix_tokens") and hasattr(network, "patch_embed")):
        checks.fail("features", expected + "is none", type(network).__name__)
    return network


def _transformers(name: str, model: str, image_size: int, revision: str | None, pretrained: bool) -> nn.Module:
    try:
        from transformers import AutoConfig, ViTMAEModel, VJEPA2Model
    except ImportError:
        checks.fail("features", f"the package transformers for {name!r}", "none", install_extra("vla"))
    where, expected = os.path.expanduser(model), "a V-JEPA 2 or ViT-MAE model"
    with one_line("features", f"{expected}; {name!r} could not be built"):
        config = from_pretrained("features", AutoConfig, where, revision=revision)
        kinds: dict[str, Any] = {"vjepa2": VJEPA2Model, "vit_mae": ViTMAEModel}
        if config.model_type not in kinds:
            hint = "For image transformers use timm:MODEL."
            checks.fail("features", f"{expected} as {name!r}", f"a model of type {config.model_type}", hint)
        kind, video = kinds[config.model_type], config.model_type == "vjepa2"
        setattr(config, "crop_size" if video else "image_size", image_size)  # positions are computed from it
        if pretrained:
            options = {"revision": revision, "config": config, "output_loading_info": True}
            found, report = from_pretrained("features", kind, where, **options)
            found = found.float()  # they may be stored in half precision
            check_whole("features", f"{expected}; {name!r}", report, needed="encoder." if video else "")
        else:
            found = kind(config)
    return StillVideo(found.encoder, config) if video else OrderedMAE(found)


def _patch_size(name: str, network: Any) -> int:
    size = network.patch_embed.patch_size if name.startswith("timm:") else network.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        checks.fail("features", f"square patches; {name!r} has others", f"{height} x {width}")
    return int(height)
