"""Recipe of the latent action model of Moto and LARA, which predicts pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lattok.image_lam import MotoLAM, MotoLAMConfig
from lattok.recipes.pairs import SHOWN, SMALL, TINY, PairRecipe

MOTO: dict[str, Any] = {  # LARA's loop and images; sizes and losses are the configuration's
    "steps": 300_000,
    "batch_size": 1536,
    "lr": 1e-4,
    "log_every": 100,
    "schedule": "one_cycle",
    "camera_count": 1,
    "labelled_fraction": 0.0,
    "optimizer": "adamw",
    "weight_decay": 1e-4,
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
    common = (*SHOWN, "init", "feature_cache", *PairRecipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny"}
    small = "tiny"
    default_preset = "moto"
    presets: ClassVar[Mapping[str, Any]] = {"moto": MOTO, "small": {**MOTO, **SMALL}, "tiny": {**MOTO, **TINY}}

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options; pixels have no class token."""
        options = super().combined(preset, given)
        without = options.get("features") == "pixels" and "class_token" not in given
        return {**options, "class_token": False} if without else options
