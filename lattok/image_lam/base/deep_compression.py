"""Deep-compression autoencoders of diffusers (DC-AE, Chen et al., 2024) as frozen features that turn back into pixels.

Models of diffusers are opened here, also SANA for `lattok.image_lam.clips`. They need the extra sana.
"""

from __future__ import annotations

import importlib
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from lattok.utils import checks

INSTALL = "pip install 'lattok[sana]'"


def diffusers_class(argument: str, kind: str) -> Any:
    """Return a class of diffusers, or say how to get the package."""
    try:
        return getattr(importlib.import_module("diffusers"), kind)
    except ImportError as error:
        return checks.fail(argument, f"the package diffusers ({INSTALL})", checks.first_line(error))


def open_diffusers(argument: str, kind: str, model: str, part: str, revision: str | None, pretrained: bool) -> Any:
    """Open a model of diffusers in a folder or on the Hub, of a whole pipeline its `part`; random unless `pretrained`.

    Weights are read from safetensors only. Raises `LattokError` where it cannot be read, or lacks weights.
    """
    family = diffusers_class(argument, kind)
    expected = f"{kind} of diffusers, a folder or a Hub id"
    try:
        where = _place(family, model, part, revision)
        if not pretrained:
            return family.from_config(family.load_config(model, revision=revision, **where))
        options = {"use_safetensors": True, "output_loading_info": True, "revision": revision}
        found, report = family.from_pretrained(model, **options, **where)
    except Exception as error:  # diffusers and huggingface_hub raise many kinds; the user needs one line
        checks.fail(argument, f"{expected}; {model!r} could not be read", checks.first_line(error))
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        checks.fail(argument, f"a whole model; {model!r} lacks weights", ", ".join(missing[:3]))
    return found


def _place(family: Any, model: str, part: str, revision: str | None) -> dict[str, str]:
    """Tell where in a repository the model lies: below `part` in a pipeline, else at the top."""
    try:
        family.load_config(model, revision=revision, subfolder=part)
    except OSError:
        return {}
    return {"subfolder": part}


class DeepCompression(nn.Module):
    """Frames [n, 3, H, W] between -1 and 1 to scaled latents, a token for each place, and back."""

    num_prefix_tokens = 0

    def __init__(self, network: Any):
        super().__init__()
        self.network, self.scaling = network, float(network.config.scaling_factor)
        self.patch_size, self.num_features = network.spatial_compression_ratio, network.config.latent_channels

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Turn [n, 3, H, W] into [n, N, D]."""
        return rearrange(self.scaling * self.network.encode(pixels, return_dict=False)[0], "n d y x -> n (y x) d")

    def pixels_of(self, tokens: Tensor, side: int) -> Tensor:
        """Turn [n, N, D] of `side` x `side` places back into [n, H, W, 3]."""
        latents = rearrange(tokens, "n (y x) d -> n d y x", y=side) / self.scaling
        return rearrange(self.network.decode(latents, return_dict=False)[0], "n c h w -> n h w c")
