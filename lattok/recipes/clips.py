"""Recipes of models that learn from clips: LatBot's latent action model, which reads instructions too, and inverse
dynamics models, which read actions from the frames around them."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from lattok.backbones.model import with_base
from lattok.data import RobotDataset, action_spaces, camera_keys, dimension_names, select_episodes
from lattok.data.alike import same_actions
from lattok.data.episodes import any_unmeasured, check_horizon, check_strides_in
from lattok.data.opening import same_cameras
from lattok.data.schema import vector_key
from lattok.hub.weights import from_anywhere
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.image_lam.clips.decoder import PREFIX, SanaDecoder, open_sana, sizes_of
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.image_lam.inverse.model import state_changes
from lattok.labels.spec import fillers, inferred_episodes, prefix_flags
from lattok.recipes.common import ADAMW, FROM_NOTHING, LATBOT_RATE, QUANTILES, ImageOptions, Recipe
from lattok.recipes.policy_data import ActedOptions, policy_batches, windows_of
from lattok.recipes.run_folder import finish
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows
from lattok.training import CHECKPOINT, RUN, fit
from lattok.utils import checks
from lattok.utils.output import unused

FULL: dict[str, Any] = {**QUANTILES, **LATBOT_RATE, **ADAMW, "steps": 100_000, "batch_size": 512, "log_every": 100}
FULL |= {"backbone_train": "all_but_vision", "backbone_lora_projector": True}  # the latter with backbone_train=lora
TINY: dict[str, Any] = {**FROM_NOTHING, "frames": 4, "stride": "0.2s", "scene_tokens": 4, "motion_tokens": 4}
TINY |= {"latent_dim": 32, "features_size": 64, "decoder_width": 128, "decoder_depth": 3, "decoder_heads": 4}
TINY |= {"separation_weight": 0.02}  # 0.1 drives where objects are out of the scene as well
TINY |= {"steps": 1500, "batch_size": 32, "lr": 1e-3}
SHARED: dict[str, Any] = {"shift": 0.125, "brightness": 0.2, "contrast": 0.2, "optimizer": "adamw"}
SHARED |= {"weight_decay": 0.02, "schedule": "one_cycle", "log_every": 100}
SINGLE_PIXELS = {"features": "pixels", "image_size": 64, "threads": 1}


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

    - `full`: the paper's numbers, except the number of steps, which it does not give
    - `tiny`: a small one from random weights, on two cores
    """

    kind = "clip-lam"
    data: ClipOptions = field(default_factory=ClipOptions)
    model: ClipLAMConfig = field(default_factory=ClipLAMConfig)
    common = ("backbone", "frames", "stride", "horizon", "cameras", "decoder_exchange", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny"}
    default_preset = "full"
    presets: ClassVar[Mapping[str, Any]] = {"full": FULL, "tiny": TINY}

    def train(self, resume: bool = False, resume_command: str = "") -> ClipLAM:
        out, sources, data = self.folder(resume), self.open(), self.data
        datasets = [source.dataset for source in sources]
        cameras = camera_keys(datasets[0], data.cameras)
        views = [cameras, *(same_cameras(dataset, cameras) for dataset in datasets[1:])]
        torch.manual_seed(self.loop.seed)
        model = ClipLAM(*with_base(self._config(datasets, cameras)))
        parts = [self._windows(model, *each) for each in zip(datasets, views, strict=True)]
        maps: Any = model.normalizers if model.config.normalizers else [model.action_normalizer]
        for part, normalizer in zip(parts, maps, strict=True):
            normalizer.fit(part.known_actions, model.config.action_kinds)
        weights, named = [source.weight for source in sources], [{"action": normalizer} for normalizer in maps]
        samples = MixedPolicyWindows(parts, weights, named) if len(parts) > 1 else parts[0]
        revision = model.config.backbone.revision
        inputs = {"backbone": revision} if revision else {}
        with self.begin(resume, sources, inputs, resume_command) as contents:
            model.features.load()
            if isinstance(model.decoder, SanaDecoder) and not (resume and (out / RUN / CHECKPOINT).is_file()):
                model.decoder.load(model.config.decoder.name)
            model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
            batches = policy_batches(self, samples, prepared=model.prepared, flows=True)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            return finish({"": model}, out)[""]

    def _config(self, datasets: Sequence[RobotDataset], cameras: tuple[str, ...]) -> ClipLAMConfig:
        chosen, key, horizon = self.options(), self.data.action_key, self.data.horizon
        names = same_actions(datasets, key)
        strides = [checks.stride_in_frames(chosen["stride"], dataset.fps) for dataset in datasets]
        for dataset, stride in zip(datasets, strides, strict=True):
            check_strides_in(dataset, self.data.episodes, [stride])
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
        return self.config(**known, features=from_anywhere(chosen["features"]), mean=mean, std=std)

    def _windows(self, model: ClipLAM, dataset: RobotDataset, cameras: tuple[str, ...]) -> PolicyWindows:
        """Return every clip of a dataset, without its frames, with the instruction and the actions."""
        data, config = self.data, model.config
        check_horizon(config.horizon, select_episodes(dataset, data.episodes))
        where = f" in {dataset.name}" if config.normalizers else ""
        gaps = config.gaps(model.stride_frames(dataset.fps), where)[1:]
        options: dict[str, Any] = {"cameras": cameras, "state_key": None, "confident_share": data.confident_share}
        windows = windows_of(self, config, dataset, config.horizon, gaps=gaps, **options)
        windows.check_share(data.acted_share)
        return windows


@dataclass(frozen=True)
class InverseOptions(ImageOptions):
    """What is read from the dataset, and whose actions are known.

    Attributes:
        action_episodes: episodes whose actions are known (default: all of `episodes`); others teach only by loss_flow,
            loss_forward or loss_reversal
        acted_share: share of a batch from episodes with known actions, if others teach too
    """

    action_episodes: str | None = None
    acted_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.acted_share < 1:
            checks.fail("acted_share", "a share between 0 and 1", self.acted_share)


@dataclass(frozen=True)
class InverseDynamicsRecipe(Recipe[InverseDynamics]):
    """Train an inverse dynamics model: actions read from the frames around them.

    - `small`: frozen DINOv2 features, one GPU
    - `tiny`: from pixels of 64 x 64, two cores, a few minutes
    """

    kind = "idm"
    data: InverseOptions = field(default_factory=InverseOptions)
    model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    common = (
        *("action_episodes", "action_key", "cameras", "offsets", "stride", "members", "features"),
        *("task_given", "proprio", "reversible", "loss_flow", "loss_reversal", *Recipe.common),
    )
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny", "action_episodes": "2 per task"}
    default_preset = "small"
    presets: ClassVar[Mapping[str, Any]] = {
        "small": {**SHARED, "steps": 5000, "batch_size": 64, "lr": 1e-3},
        "tiny": {**SHARED, **SINGLE_PIXELS, "steps": 1000, "batch_size": 128, "lr": 2e-3},
    }

    def train(self, resume: bool = False, resume_command: str = "") -> InverseDynamics:
        out, sources, data = self.folder(resume), self.open(), self.data
        dataset = sources[0].dataset
        torch.manual_seed(self.loop.seed)
        config = self._config(dataset)
        model = InverseDynamics(config)
        samples = self._windows(model, dataset)
        share = 0.0 if samples.acted.all() else data.acted_share
        parts, size = self.loop.shares, self.loop.batch_size  # in each part every member has a known action to learn
        if (most := int((share or 1.0) * size) // parts) < config.members:
            expected = f"clips with known actions for all {config.members} members in each of {parts} parts"
            checks.fail("batch_size", expected, f"{size}, of which {most} in a part", "Or fewer members.")
        model.set_range(samples.known_actions)
        if model.state_normalizer is not None:
            states = samples.proprio(samples.acted.nonzero().flatten()).unflatten(1, (len(config.offsets), -1))
            model.state_normalizer.fit(state_changes(states, config.offsets).flatten(0, 1))
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            model.features.load()
            model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
            model.trained_on.pop("inferred_actions", None)  # none of which it learned
            model.trained_on["labels"] = {"fraction": 1.0, "unit": "episodes"} | model.trained_on.get("labels", {})
            batches = policy_batches(self, samples, flows=False, acted_share=share)
            weights = config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            return finish({"": model}, out)[""]

    def next_step(self) -> str:
        words = ["lattok", "annotate", str(self.dataset), "--model", self.out, "--as", "actions"]
        words += ["--out", unused("filled")]
        words += [] if self.data.action_key == "action" else ["--action-key", self.data.action_key]
        with suppress(checks.LattokError):  # it may be gone by now
            dataset = self.open()[0].dataset
            if fillers(dataset, self.data.action_key):  # as that which it was made from may be
                return super().next_step()
            if dataset.columns_apart and not any_unmeasured(dataset, self.data.action_key):
                words[2] = "DATASET"  # another one: here all are known
            words += prefix_flags(dataset, "inferred")
        return f"{super().next_step()}\nThen fill in unknown actions with it: {shlex.join(words)}"

    def _config(self, dataset: RobotDataset) -> InverseDynamicsConfig:
        chosen, data = self.model, self.data
        names = dimension_names(vector_key(dataset, "action_key", data.action_key))
        known: dict[str, Any] = {"cameras": camera_keys(dataset, data.cameras), "action_key": data.action_key}
        known |= {"action_dim": len(names), "action_names": names}
        space = action_spaces(dataset).get(data.action_key)
        if chosen.reverses and space and any(getattr(each, "mode", "") == "absolute" for each in space.parts):
            option = "loss_reversal" if chosen.loss_reversal else "reversible"
            expected = "0 for absolute actions: played backwards they are not the opposite ones"
            checks.fail(option, expected, getattr(chosen, option))
        if chosen.proprio:
            states = dimension_names(vector_key(dataset, "state_key", chosen.state_key))
            known |= {"state_dim": len(states), "state_names": states}
        if chosen.task_given:
            known["tasks"] = tuple(sorted({text for episode in dataset.episodes for text in episode.tasks}))
        mean, std = known_scaling(chosen.features, chosen.image_size, chosen.features_revision)
        if chosen.features == "pixels":
            mean, std = (0.5,) * 3, (1.0,) * 3  # changes of brightness are small numbers, as differences are
        return self.config(**known, features=from_anywhere(chosen.features), mean=mean, std=std)

    def _windows(self, model: InverseDynamics, dataset: RobotDataset) -> PolicyWindows:
        """Return a clip around every frame; episodes whose actions are not known only where they teach."""
        data, config = self.data, model.config
        name = "stride" if config.span == 1 else "stride with offsets"
        check_strides_in(dataset, data.episodes, [model.stride_frames(dataset.fps)], name)
        chosen = select_episodes(dataset, data.episodes)
        asked = {episode.index for episode in select_episodes(dataset, data.action_episodes)}
        inferred = inferred_episodes(dataset, data.action_key, chosen)  # which were not measured
        acted = [episode.index for episode in chosen if episode.index in asked.difference(inferred)]
        if inferred and not acted:
            got = f"those that a model inferred in {dataset.name}"
            checks.fail("action_key", "actions that were measured in one of the episodes", got)
        options: dict[str, Any] = {"state_key": config.state_key if config.proprio else None, "states_around": True}
        options["gaps"] = [gap for gap in config.gaps(model.unit_frames(dataset.fps)) if gap]
        options["action_episodes"] = acted if inferred else data.action_episodes
        samples = windows_of(self, config, dataset, 1, **options)
        if config.learns_from_video or samples.acted.all():
            return samples
        known = np.unique(samples.episode_of[samples.acted.numpy()]).tolist()
        return windows_of(self, config, dataset, 1, **options, episodes=known)
