"""Recipe of inverse dynamics models, which read actions from the frames around them."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from lattok.data import RobotDataset, action_spaces, camera_keys, dimension_names, select_episodes
from lattok.data.episodes import any_unmeasured, check_strides_in
from lattok.data.schema import vector_key
from lattok.hub.weights import from_anywhere
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.image_lam.inverse.model import state_changes
from lattok.labels.spec import fillers, inferred_episodes, prefix_flags
from lattok.recipes.common import ImageOptions, Recipe
from lattok.recipes.policy_data import batch_options
from lattok.recipes.run_folder import finish
from lattok.samples.batches import PolicyBatches
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.training import fit
from lattok.utils import checks
from lattok.utils.output import unused

SHARED: dict[str, Any] = {
    "shift": 0.125,
    "brightness": 0.2,
    "contrast": 0.2,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "one_cycle",
    "log_every": 100,
}
SINGLE_PIXELS = {"features": "pixels", "image_size": 64, "threads": 1}


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
            drawn = replace(batch_options(data, self.loop, samples, config.image_size), acted_share=share)
            batches = PolicyBatches(samples, drawn)
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
        options = WindowOptions(
            1,
            config.image_size,
            cameras=config.cameras,
            interpolation=config.interpolation,
            action_key=data.action_key,
            state_key=config.state_key if config.proprio else None,
            episodes=data.episodes,
            action_episodes=acted if inferred else data.action_episodes,
            gaps=[gap for gap in config.gaps(model.unit_frames(dataset.fps)) if gap],
            states_around=True,
        )
        samples = PolicyWindows(dataset, options)
        if config.learns_from_video or samples.acted.all():
            return samples
        known = np.unique(samples.episode_of[samples.acted.numpy()]).tolist()
        return PolicyWindows(dataset, replace(options, episodes=known))
