"""Recipe of the image latent action model: dataset, frame pairs, frozen features, model and loop put together."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from lattok.data import RobotDataset, camera_keys, select_episodes
from lattok.data.content import Content
from lattok.data.schema import short_name
from lattok.evaluation.evidence.split import training_entries
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.base.feature_cache import FeatureCache
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.base.perceptual import PerceptualLoss
from lattok.recipes import earlier
from lattok.recipes.common import ImageOptions, MixOptions, Recipe, check_warm_up
from lattok.recipes.pair_data import embed, frames_or_features, gaps_in_frames, read_pairs
from lattok.recipes.run_folder import agree, finish, first_process
from lattok.samples.batches import Instructions, PairBatches
from lattok.samples.mixture import MixedPairs, Source, has_actions, same_actions, same_cameras
from lattok.samples.windows import FramePairs
from lattok.training import LoopOptions, fit
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
P2T: Mapping[str, Any] = {"action_target": "first", "restart_every": 100, "camera_count": 1}
MOTO: Mapping[str, Any] = {  # sizes and losses of Moto and LARA, LARA's loop and images
    "features": "hf:facebook/vit-mae-large",
    "class_token": True,
    "stride": "15",
    "camera_count": 1,
    "encoder": "sequence",
    "encoder_depth": 4,
    "query_start": "normal",
    "tokens": 8,
    "codebook_size": 128,
    "latent_dim": 32,
    "latent_heads": "mlp",
    "target": "pixels",
    "conditioning": "pool",
    "commitment_weight": 1.0,  # the published quantizer weights the codebook's term instead
    "codebook_weight": 0.25,
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
# the other terms only shape latents
LEARNED_FROM = ("prediction_weight", "feature_weight", "perceptual_weight", "action_weight", "flow_weight")


@dataclass(frozen=True)
class PairOptions(ImageOptions, MixOptions):
    """What is read from the dataset, which actions may supervise, and which earlier models are built on.

    Attributes:
        camera_count: where `cameras` names none: the first so many of the dataset; 0: all
        labelled_fraction: share of the pairs whose actions supervise
        action_episodes: episodes whose actions are known, and so share out labels (default: all)
        labelled: or "episodes": whole episodes, for people who have only some labelled ones
        labelled_per_batch: extra labelled pairs in every batch, beyond those drawn by chance
        stage: 1: environment codes, from instructions; 2: controllable codes with them; left out: one
        env_codebook: model of stage 1, whose codebook stage 2 keeps as it is
        init: model to fine-tune, a folder or a Hub id; its architecture stays
        text_features: vectors of the instructions, for language="precomputed"
        feature_cache: folder that keeps frozen features for all runs; left out: computed at each step
        feature_cache_dtype: "float16" takes half the room; training then differs in the last digits
    """

    camera_count: int = 0
    labelled_fraction: float = 0.05
    action_episodes: str | None = None
    labelled: str = "pairs"
    labelled_per_batch: int = 0
    stage: int | None = None
    env_codebook: str | None = None
    init: str | None = None
    text_features: str | None = None
    feature_cache: str | None = None
    feature_cache_dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cache()
        checks.whole(labelled_per_batch=self.labelled_per_batch, camera_count=self.camera_count)
        if self.feature_cache is not None and self.augmentation.changes:
            hint = "Features of changed images cannot be kept: crop=1, and 0 for brightness, contrast, saturation, hue."
            raise LattokError(f"`feature_cache` cannot be used while images are cropped or recoloured. {hint}")

    def cache(self) -> FeatureCache:
        """Tell where frozen features are kept, if `feature_cache` names a folder."""
        folder = Path(self.feature_cache or "").expanduser()
        return FeatureCache(folder, self.feature_cache_dtype)


@dataclass(frozen=True)
class ImageLAMRecipe(Recipe[ImageLAM]):
    """Train a latent action model of video.

    - sizes: `full` (paper), `small` (one GPU), `tiny` (two cores)
    - joined with a size ("tiny+robust"): `p2t` (paper) or `robust`
    - `libero`, `robotwin`, `jaka`: `full+p2t`, the paper's recipe for its robots (A.1, D.2), which is one for all
    - joined with `robust`: `flow`, codes that also say how pixels move, for few labels or none; `shared`, one codebook
    - joined with `p2t`: `p2t_code`, where the published code's action head differs from the paper
    - `moto`: the model of Moto and LARA, which predicts pixels; `moto+tiny` is a small one
    """

    kind = "image-lam"
    looks = True
    data: PairOptions = field(default_factory=PairOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    model: ImageLAMConfig = field(default_factory=ImageLAMConfig)
    common = (
        *("features", "stride", "cameras", "tokens", "codebook_size", "labelled_fraction"),
        *("stage", "env_codebook", "init", "feature_cache", *Recipe.common),
    )
    example = MappingProxyType({"preset": "tiny+robust", "features": "pixels"})
    default_preset = "small+robust+flow"
    presets = MappingProxyType(
        {
            "full": FULL,
            "small": {
                "width": 384,
                "heads": 6,
                "encoder_depth": 6,
                "decoder_depth": 6,
                "steps": 30_000,
                "batch_size": 64,
                "lr": 3e-4,
                "optimizer": "adamw",
                "schedule": "one_cycle",
                "weight_decay": 0.01,
                "log_every": 100,
            },
            "tiny": {
                "image_size": 64,
                "interpolation": "bilinear",  # bicubic keeps fine detail that nothing predicts
                "stride": "0.2s",
                "latent_dim": 64,
                "width": 64,
                "heads": 4,
                "encoder_depth": 2,
                "decoder_depth": 2,
                "steps": 1200,
                "batch_size": 32,
                "lr": 2e-3,
                "optimizer": "adamw",
                "schedule": "one_cycle",
                "weight_decay": 0.01,
                "labelled_per_batch": 8,
                "threads": 1,  # more are little faster, much slower where others work too, and other weights
            },
            "moto": MOTO,
            "p2t": P2T,
            "libero": {**FULL, **P2T},
            "robotwin": {**FULL, **P2T},
            "jaka": {**FULL, **P2T},
            "p2t_code": {"action_head": "codes", "action_target": "chunk", "action_steps": 32, "action_weight": 0.5},
            "robust": {
                "encoder": "fused",
                "query_start": "normal",
                "latent_heads": "per_token",
                "latent_norm": "batch",
                "quantizer": "residual",
                "codebook_update": "ema",
                "codebook_start": "kmeans",
                "continuous_steps": 300,
                "revive_below": 0.03,
                "conditioning": "add",
                "predict_change": True,
                "commitment_weight": 0.02,  # a moving-average codebook follows the latents by itself
            },
            "shared": {"quantizer": "vq", "decorrelation_weight": 0.1},
            "flow": {"flow_weight": 0.3},
        }
    )

    def __post_init__(self) -> None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.model.latent_norm == "batch" and self.loop.batch_size < 2 * processes:
            checks.fail("batch_size", "at least 2 pairs per process with latent_norm=batch", self.loop.batch_size)
        check_warm_up(self.model, self.loop, self.data.init)
        weights = {name: getattr(self.model, name) for name in LEARNED_FROM}
        if self.data.labelled_fraction == 0:
            weights["action_weight"] = 0.0
        if not any(weights.values()):
            expected = "more than 0 where neither actions (labelled_fraction, action_weight) nor flow supervise"
            checks.fail("prediction_weight", expected, "0", "Nothing would be learned.")

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, with what follows from the stage and from earlier models between the two.

        The presets' continuous warm-up is at most a third of the run: a codebook has to be learned after it.
        """
        options = earlier.combined(preset, given)
        warm, steps = options.get("continuous_steps", 0), options.get("steps", LoopOptions.steps)
        if "continuous_steps" in given or given.get("init") is not None or warm <= steps // 3:
            return options
        return {**options, "continuous_steps": steps // 3}

    def train(self, resume: bool = False, resume_command: str = "") -> ImageLAM:
        """Train as every recipe does; the action head is not saved."""
        out, data = self.folder(resume), self.data
        usual = max(self.presets[name].get("continuous_steps", 0) for name in self.preset.split("+"))
        if not resume and first_process() and (warm := self.model.continuous_steps) == self.loop.steps // 3 < usual:
            said = (
                f"latents stay continuous for {warm} steps, a third of the run, instead of {usual} (continuous_steps)"
            )
            print(f"note: {said}", file=sys.stderr)
        sources = self.open()
        datasets = [source.dataset for source in sources]
        before = _earlier(self)
        words = _words(self, datasets, before)
        cameras = _cameras(self, datasets[0], before)
        torch.manual_seed(self.loop.seed)
        model = _model(self, cameras, before, words)
        for dataset in datasets:  # before anything is written
            gaps_in_frames(model.config, dataset.fps)
        views = [cameras, *(same_cameras(dataset, cameras) for dataset in datasets[1:])]
        labelled = _with_actions(self, datasets)
        with self.begin(resume, sources, _inputs(self, before), resume_command) as contents:
            model.features.load()
            named = zip(datasets, views, strict=True)
            parts = [read_pairs(self, model, dataset, view, dataset in labelled) for dataset, view in named]
            weights = [source.weight for source in sources]
            memory, window = frames_or_features(self, model, parts), data.window(model.config.image_size, cameras)
            pairs = MixedPairs(parts, weights) if data.mix else parts[0]
            attach_action_head(model, pairs)
            model.perceptual = PerceptualLoss() if model.config.perceptual_weight > 0 else None
            size, seed = self.loop.batch_size, self.loop.seed
            batches = PairBatches(pairs, size, data.labelled_per_batch, seed, words, data.augmentation, window, memory)
            model.trained_on = _history(self, contents, sources, batches.samples, before)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            model.action_head = model.perceptual = None
            agree(model)
            return finish({"": model}, out)[""]

    def next_step(self) -> str:
        """Return what to type when it is trained; a model of stage 1 is there for stage 2."""
        if self.model.language is None:
            return super().next_step()
        source = [self.dataset] if self.dataset is not None else ["--mix", *self.data.mix]
        words = ["lattok", "train", self.kind, *source, "--out", "NEW", "--preset", self.preset]
        return f"Go on to stage 2: {shlex.join([*words, '--stage', '2', '--env-codebook', self.out])}"


def _earlier(recipe: ImageLAMRecipe) -> ImageLAM | None:
    """Return the model that this one is built on, with its weights."""
    name = recipe.data.init or recipe.data.env_codebook
    return None if name is None else ImageLAM.from_pretrained(name)


def _words(recipe: ImageLAMRecipe, datasets: Sequence[RobotDataset], before: ImageLAM | None) -> Instructions | None:
    """Return vectors of the datasets' instructions, where the model reads them."""
    language = recipe.model.language
    if language is None:
        if recipe.data.text_features is not None:
            raise LattokError("`text_features` are for stage 1, which reads instructions. Set stage=1.")
        return None
    episodes = [episode for dataset in datasets for episode in select_episodes(dataset, recipe.data.episodes)]
    words = embed(language, recipe.data.text_features, [(*episode.tasks, "")[0] for episode in episodes])
    if before is not None:
        known = before.config.language_dim
        checks.size("language", "numbers per word, as in the model to continue", words.vectors.shape[2], known)
    return words


def _cameras(recipe: ImageLAMRecipe, dataset: RobotDataset, before: ImageLAM | None) -> tuple[str, ...]:
    """The cameras asked for; otherwise those of the model that goes on, if the dataset has them; otherwise all, or the
    first `camera_count`."""
    asked, count = recipe.data.cameras, recipe.data.camera_count
    if before is None or recipe.data.init is None:
        return camera_keys(dataset, asked)[: count if asked is None and count else None]
    if asked is None and set(before.cameras) <= set(dataset.cameras):
        asked = before.cameras
    cameras = camera_keys(dataset, asked)
    short = ", ".join(map(short_name, cameras))
    if len(cameras) != len(before.cameras):
        expected = f"{len(before.cameras)}, as many as the model in init has"
        checks.fail("cameras", expected, f"{len(cameras)} ({short})", "Name them in order.")
    return cameras


def _model(
    recipe: ImageLAMRecipe, cameras: tuple[str, ...], before: ImageLAM | None, words: Instructions | None
) -> ImageLAM:
    """Return a fresh model, or one with the weights or the environment of an earlier one."""
    config = recipe.config(cameras=cameras)
    if before is None:  # mean and deviation of the pixels are those that the features know
        mean, std = known_scaling(config.features, config.image_size, config.features_revision)
    else:
        mean, std = before.config.mean, before.config.std
    width = config.language_dim if before is None or recipe.data.init is None else before.config.language_dim
    width = width if words is None else words.vectors.shape[2]
    config = replace(config, mean=mean, std=std, language_dim=width)
    model = ImageLAM(config)
    if before is not None:
        model.features = before.features  # the same ones, loaded already
        if recipe.data.init is not None:
            model.load_tensors(before.saved_tensors(), recipe.data.init)
        else:
            model.take_environment(before)
    if config.prediction_weight == config.perceptual_weight == 0:
        model.decoder.requires_grad_(False)  # several processes would wait for its gradients
    return model


def _with_actions(recipe: ImageLAMRecipe, datasets: Sequence[RobotDataset]) -> list[RobotDataset]:
    """Return the datasets whose actions may supervise; they have the same dimensions. In a mixture others have none."""
    key = recipe.data.action_key
    if recipe.data.labelled_fraction == 0:
        return []
    found = [
        dataset for dataset in datasets if key in dataset.features or (recipe.data.mix and has_actions(dataset, key))
    ]
    if not found:
        whose = ", ".join(dataset.name for dataset in datasets)
        expected = f"a column of {whose}, or labelled_fraction=0 for video without actions"
        checks.fail("action_key", expected, repr(key))
    if recipe.data.mix:
        same_actions(found, key)
    return found


def _inputs(recipe: ImageLAMRecipe, before: ImageLAM | None) -> dict[str, str]:
    """Hash what the run depends on besides dataset and options."""
    inputs = {}
    if before is not None:
        name = "env_codebook" if recipe.data.init is None else "init"
        inputs[name] = before.describe()["weights_sha256"]
    if recipe.data.text_features is not None:
        inputs["text_features"] = hashlib.sha256(Path(recipe.data.text_features).expanduser().read_bytes()).hexdigest()
    return inputs


def _history(
    recipe: ImageLAMRecipe, contents: Sequence[Content], sources: list[Source], samples: int, before: ImageLAM | None
) -> dict[str, Any]:
    """Return what the artefact says about its training; what the earlier model has seen counts as seen."""
    data = recipe.data
    history = recipe.trained_on(sources, samples, contents)
    labels = {"fraction": data.labelled_fraction, "unit": data.labelled, "per_batch": data.labelled_per_batch}
    history["labels"] = labels if data.action_episodes is None else labels | {"episodes": data.action_episodes}
    if before is not None:
        history["init" if data.init is not None else "env_codebook"] = before.describe()
        now = training_entries(history)
        others = [entry for entry in training_entries(before.trained_on) if entry not in now]
        history |= {"earlier": others} if others else {}
    return history


def attach_action_head(model: ImageLAM, pairs: FramePairs | MixedPairs) -> None:
    """Attach a head for the labelled actions; those of a mixture come normalised, each dataset by its statistics."""
    if not pairs.labelled.any():
        return
    if isinstance(pairs, FramePairs):
        model.attach_action_head(torch.from_numpy(pairs.actions_of(pairs.labelled.nonzero()[0])))
    else:
        model.attach_action_head(torch.zeros(1, pairs.action_dim))
