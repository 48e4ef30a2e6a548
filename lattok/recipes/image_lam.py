"""Recipe of the image latent action model: presets, and the stages in which it may be trained."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lattok.data import RobotDataset, select_episodes
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.recipes import earlier
from lattok.recipes.pair_data import embed
from lattok.recipes.pairs import SMALL, TINY, PairOptions, PairRecipe
from lattok.samples.batches import Instructions
from lattok.utils import checks
from lattok.utils.checks import LattokError

PUBLISHED_IMAGES = {  # how the published code changes them, here and for its policies
    "crop": 0.9,
    "crop_most": 0.9,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
}
FULL: Mapping[str, Any] = {
    "steps": 100_000,
    "batch_size": 64,
    "lr": 1e-4,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip_norm": 0.1,
    "log_every": 100,
    **PUBLISHED_IMAGES,
}
P2T: Mapping[str, Any] = {"action_target": "first", "codebook_restart_every": 100, "camera_count": 1}


@dataclass(frozen=True)
class StageOptions(PairOptions):
    """What is read from the dataset, which actions may supervise, and which earlier models are built on.

    Attributes:
        stage: 1: environment codes, from instructions; 2: controllable codes with them; left out: one
        env_codebook: model of stage 1, whose codebook stage 2 keeps as it is
        text_features: vectors of the instructions, for language="precomputed"
    """

    stage: int | None = None
    env_codebook: str | None = None
    text_features: str | None = None


@dataclass(frozen=True)
class ImageLAMRecipe(PairRecipe[ImageLAM]):
    """Train a latent action model of video.

    - sizes: `full` (paper), `small` (one GPU), `tiny` (two cores)
    - joined with a size ("tiny+robust"): `p2t` (paper) or `robust`
    - `libero`, `robotwin`, `jaka`: `full+p2t`, the paper's recipe for its robots (A.1, D.2), which is one for all
    - joined with `robust`: `flow`, codes that also say how pixels move, for few labels or none; `shared`, one codebook
    - joined with `p2t`: `p2t_code`, where the published code's action head differs from the paper
    """

    kind = "image-lam"
    lam = ImageLAM
    data: StageOptions = field(default_factory=StageOptions)
    model: ImageLAMConfig = field(default_factory=ImageLAMConfig)
    common = (
        *("features", "stride", "cameras", "tokens", "codebook_size", "labelled_fraction"),
        *("stage", "env_codebook", "init", "feature_cache", *PairRecipe.common),
    )
    example = MappingProxyType({"preset": "tiny+robust", "features": "pixels"})
    default_preset = "small+robust+flow"
    presets = MappingProxyType(
        {
            "full": FULL,
            "small": SMALL,
            "tiny": TINY,
            "p2t": P2T,
            "libero": {**FULL, **P2T},
            "robotwin": {**FULL, **P2T},
            "jaka": {**FULL, **P2T},
            "p2t_code": {"action_head": "codes", "action_target": "chunk", "action_steps": 32, "loss_action": 0.5},
            "robust": {
                "encoder": "fused",
                "encoder_query_start": "normal",
                "latent_heads": "per_token",
                "latent_norm": "batch",
                "quantizer": "residual",
                "codebook_update": "ema",
                "codebook_start": "kmeans",
                "codebook_continuous_steps": 300,
                "codebook_revive_below": 0.03,
                "decoder_conditioning": "add",
                "decoder_predict_change": True,
                "loss_commitment": 0.02,  # a moving-average codebook follows the latents by itself
            },
            "shared": {"quantizer": "vq", "loss_decorrelation": 0.1},
            "flow": {"loss_flow": 0.3},
        }
    )

    @classmethod
    def settled(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, with what follows from the stage and from earlier models between the two."""
        return earlier.combined(preset, given)

    def earlier(self) -> ImageLAM | None:
        name = self.data.init or self.data.env_codebook
        return None if name is None else ImageLAM.from_pretrained(name)

    def take_over(self, model: ImageLAM, before: ImageLAM | None) -> None:
        super().take_over(model, before)
        if before is not None and self.data.init is None:
            model.take_environment(before)

    def words(self, datasets: Sequence[RobotDataset], before: ImageLAM | None) -> Instructions | None:
        """Return vectors of the datasets' instructions, where the model reads them."""
        language = self.model.language
        if language is None:
            if self.data.text_features is not None:
                raise LattokError("`text_features` are for stage 1, which reads instructions. Set stage=1.")
            return None
        episodes = [episode for dataset in datasets for episode in select_episodes(dataset, self.data.episodes)]
        words = embed(language, self.data.text_features, [(*episode.tasks, "")[0] for episode in episodes])
        if before is not None:
            known = before.config.language_dim
            checks.size("language", "numbers per word, as in the model to continue", words.vectors.shape[2], known)
        return words

    def widths(self, before: ImageLAM | None, words: Instructions | None) -> dict[str, int]:
        if words is not None:
            return {"language_dim": words.vectors.shape[2]}
        return {} if before is None or self.data.init is None else {"language_dim": before.config.language_dim}

    def inputs(self, before: ImageLAM | None) -> dict[str, str]:
        found, name = super().inputs(before), self.data.text_features
        if before is not None and self.data.init is None:
            found["env_codebook"] = before.describe()["weights_sha256"]
        if name is not None:
            found["text_features"] = hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()
        return found

    def next_step(self) -> str:
        """Return what to type when it is trained; a model of stage 1 is there for stage 2."""
        if self.model.language is None:
            return super().next_step()
        source = [self.dataset] if self.dataset is not None else ["--mix", *self.data.mix]
        words = ["lattok", "train", self.kind, *source, "--out", "NEW", "--preset", self.preset]
        return f"Go on to stage 2: {shlex.join([*words, '--stage', '2', '--env-codebook', self.out])}"
