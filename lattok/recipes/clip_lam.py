"""Recipe of LatBot's latent action model: dataset, clips with instructions and actions, backbone, model and loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

import torch

from lattok.backbones import SCRATCH
from lattok.backbones.model import with_base
from lattok.data import RobotDataset, camera_keys, select_episodes
from lattok.data.episodes import check_horizon, check_strides_in
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.image_lam.clips.decoder import PREFIX, SanaDecoder, open_sana, sizes_of
from lattok.nn.normalize import Normalizer
from lattok.recipes.common import QUANTILES, Recipe
from lattok.recipes.policy_data import ActedOptions, policy_batches
from lattok.recipes.run_folder import finish
from lattok.samples.mixture import same_actions, same_cameras
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows
from lattok.samples.stream import keep_frames
from lattok.training import LoopOptions, fit
from lattok.utils import checks


@dataclass(frozen=True)
class ClipOptions(ActedOptions):
    """What a model of clips learns from.

    Attributes:
        horizon: actions that are decoded, from the first frame on (default: those of the clip)
    """

    horizon: int | None = None


@dataclass(frozen=True)
class ClipLAMRecipe(Recipe[ClipLAM]):
    """Train LatBot's latent action model of clips with instructions.

    - `full`: the paper's numbers, where it has some; it does not say how many steps
    - `tiny`: a small one that learns from nothing on two cores
    """

    kind = "clip-lam"
    looks = True
    data: ClipOptions = field(default_factory=ClipOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    model: ClipLAMConfig = field(default_factory=ClipLAMConfig)
    common = ("backbone", "frames", "stride", "horizon", "cameras", "decoder_exchange", *Recipe.common)
    example = MappingProxyType({"preset": "tiny"})
    default_preset = "full"
    presets = MappingProxyType(
        {
            "full": {
                **QUANTILES,
                "backbone_train": "all_but_vision",
                "backbone_lora_projector": True,  # where backbone_train=lora is chosen
                "steps": 100_000,
                "batch_size": 512,
                "lr": 1e-4,
                "schedule": "cosine",
                "warmup_steps": 2000,
                "min_lr": 2.5e-6,
                "optimizer": "adamw",
                "beta2": 0.95,
                "weight_decay": 0.01,  # the paper does not say; torch's own
                "log_every": 100,
            },
            "tiny": {
                "backbone": SCRATCH,
                "backbone_train": "full",
                "prompt": "{task}",
                "frames": 4,
                "stride": "0.2s",
                "scene_tokens": 4,
                "motion_tokens": 4,
                "latent_dim": 32,
                "image_size": 64,
                "backbone_patch_size": 32,
                "interpolation": "bilinear",
                "features_size": 64,
                "backbone_depth": 3,
                "decoder_width": 128,
                "decoder_depth": 3,
                "decoder_heads": 4,
                "separation_weight": 0.02,  # 0.1 drives where objects are out of the scene as well
                "steps": 1500,
                "batch_size": 32,
                "lr": 1e-3,
                "optimizer": "adamw",
                "weight_decay": 0.01,
                "schedule": "one_cycle",
                "threads": 1,
            },
        }
    )

    def train(self, resume: bool = False, resume_command: str = "") -> ClipLAM:
        """Train as every recipe does."""
        out, data = self.folder(resume), self.data
        sources = self.open()
        datasets = [source.dataset for source in sources]
        cameras = camera_keys(datasets[0], data.cameras)
        views = [cameras, *(same_cameras(dataset, cameras) for dataset in datasets[1:])]
        torch.manual_seed(self.loop.seed)
        model = ClipLAM(*with_base(_config(self, datasets, cameras), self.model.frames))
        parts = [_windows(self, model, *each) for each in zip(datasets, views, strict=True)]
        weights = [source.weight for source in sources]
        samples = _normalised(model, parts, weights)
        revision = model.config.backbone.revision
        inputs = {"backbone": revision} if revision else {}
        with self.begin(resume, sources, inputs, resume_command) as contents:
            model.features.load()
            if isinstance(model.decoder, SanaDecoder) and not resume:
                model.decoder.load(model.config.decoder.name)
            model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
            if data.action_episodes is not None:
                model.trained_on["labels"] = {"episodes": data.action_episodes}
            window = self.data.window(self.model.image_size, parts[0].cameras)
            memory = keep_frames(parts, window, self.data.memory_gb, self.loop.device)
            batches = policy_batches(self, samples, model.prepared, True, memory)
            weighted: Mapping[str, float] = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weighted, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            return finish({"": model}, out)[""]

    def next_step(self) -> str:
        """Return what to type when it is trained."""
        return f"Label with it: lattok annotate DATASET --model {self.out} --out DIR"


def _config(recipe: ClipLAMRecipe, datasets: Sequence[RobotDataset], cameras: tuple[str, ...]) -> ClipLAMConfig:
    """Return the recipe's model for this data."""
    chosen, key, horizon = recipe.options(), recipe.data.action_key, recipe.data.horizon
    names = same_actions(datasets, key)
    strides = [checks.stride_in_frames(chosen["stride"], dataset.fps) for dataset in datasets]
    for dataset, stride in zip(datasets, strides, strict=True):
        check_strides_in(dataset, recipe.data.episodes, [stride])
    mean, std = known_scaling(chosen["features"], chosen["features_size"], chosen["features_revision"])
    if horizon is None:
        steps = set(strides)
        if len(steps) > 1:
            got = f"{chosen['stride']}, which is {checks.listed(map(str, sorted(steps)))} steps"
            checks.fail("horizon", "a number of actions for datasets whose clips differ in steps", got)
        horizon = steps.pop()
    absent = sorted(set.intersection(*(set(dataset.absent.get(key, ())) for dataset in datasets)))
    known: dict[str, Any] = {"cameras": cameras, "action_dim": len(names), "action_names": names}
    known |= {"absent": tuple(absent), "action_key": key, "horizon": horizon}
    known["normalizers"] = tuple(dataset.name for dataset in datasets) if len(datasets) > 1 else ()
    if chosen["decoder"].startswith(PREFIX):
        known["decoder_sana"] = sizes_of(open_sana(chosen["decoder"]))
    return recipe.config(**known, mean=mean, std=std)


def _windows(recipe: ClipLAMRecipe, model: ClipLAM, dataset: RobotDataset, cameras: tuple[str, ...]) -> PolicyWindows:
    """Return every clip of a dataset, without its frames, with the instruction and the actions."""
    data, config = recipe.data, model.config
    episodes = select_episodes(dataset, data.episodes)
    check_horizon(config.horizon, episodes)
    where = f" in {dataset.name}" if config.normalizers else ""
    gaps = config.gaps(model.stride_frames(dataset.fps), where)[1:]
    windows = PolicyWindows(
        dataset,
        config.horizon,
        cameras=cameras,
        size=config.image_size,
        interpolation=config.interpolation,
        action_key=data.action_key,
        state_key=None,
        episodes=data.episodes,
        action_episodes=data.action_episodes,
        gaps=gaps,
        confident_share=data.confident_share,
    )
    windows.check_share(data.acted_share)
    return windows


def _normalised(
    model: ClipLAM, parts: Sequence[PolicyWindows], weights: Sequence[float]
) -> PolicyWindows | MixedPolicyWindows:
    """Fit the normalisers; batches of a mixture come normalised, each dataset by its own."""
    each = cast(Sequence[Normalizer], model.normalizers if model.config.normalizers else [model.action_normalizer])
    for part, normalizer in zip(parts, each, strict=True):
        normalizer.fit(part.known_actions, model.config.action_kinds)
    return parts[0] if len(parts) == 1 else MixedPolicyWindows(parts, weights, [{"action": one} for one in each])
