"""Recipe of the latent action model of Moto and LARA: presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lattok.image_lam import MotoLAM, MotoLAMConfig
from lattok.recipes.pairs import SMALL, TINY, PairRecipe

MOTO: Mapping[str, Any] = {  # LARA's loop and images; sizes and losses are the configuration's
    "camera_count": 1,
    "labelled_fraction": 0.0,
    "steps": 300_000,
    "batch_size": 1536,
    "lr": 1e-4,
    "optimizer": "adamw",
    "weight_decay": 1e-4,
    "schedule": "one_cycle",
    "log_every": 100,
    "crop": 0.95,
    "crop_most": 0.95,
    "brightness": 0.3,
    "contrast": 0.4,
    "saturation": 0.5,
    "hue": 0.08,
}


@dataclass(frozen=True)
class MotoLAMRecipe(PairRecipe[MotoLAM]):
    """Train the latent action model of Moto and LARA, which predicts pixels.

    - `moto`: published sizes and LARA's loop, the batch of four GPUs in one
    - `small` (one GPU), `tiny` (two cores): the same with other sizes
    """

    kind = "moto-lam"
    lam = MotoLAM
    model: MotoLAMConfig = field(default_factory=MotoLAMConfig)
    learned_from = (*PairRecipe.learned_from, "features", "perceptual")
    common = (
        *("features", "stride", "cameras", "tokens", "codebook_size", "labelled_fraction"),
        *("init", "feature_cache", *PairRecipe.common),
    )
    example = MappingProxyType({"preset": "tiny"})
    default_preset = "moto"
    presets = MappingProxyType({"moto": MOTO, "small": {**MOTO, **SMALL}, "tiny": {**MOTO, **TINY}})
