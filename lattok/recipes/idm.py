"""Recipe of inverse dynamics models: dataset, clips around every frame, model and loop put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from lattok.data import RobotDataset, action_spaces, camera_keys, dimension_names, select_episodes
from lattok.data.schema import vector_key
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.image_lam.inverse.model import state_changes
from lattok.labels.spec import inferred_episodes
from lattok.recipes.common import ImageOptions, Recipe
from lattok.recipes.policy_data import policy_batches
from lattok.recipes.run_folder import finish
from lattok.samples.policy import PolicyWindows
from lattok.training import fit
from lattok.utils import checks

PLAIN = (0.5,) * 3, (1.0,) * 3  # of pixels: changes of brightness are small numbers, as differences are
SHIFTED: dict[str, Any] = {"shift": 0.125, "brightness": 0.2, "contrast": 0.2}
SHARED = {**SHIFTED, "optimizer": "adamw", "weight_decay": 0.02, "schedule": "one_cycle", "log_every": 100}


@dataclass(frozen=True)
class InverseOptions(ImageOptions):
    """What is read from the dataset, and whose actions are known.

    Attributes:
        action_episodes: episodes whose actions are known (default: all of `episodes`); others teach with loss_flow or
            loss_reversal alone
        acted_share: share of a batch from episodes with known actions, where others teach
    """

    action_episodes: str | None = None
    acted_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.augmentation  # which checks its own numbers
        if not 0 < self.acted_share < 1:
            checks.fail("acted_share", "a share between 0 and 1", self.acted_share)


@dataclass(frozen=True)
class InverseDynamicsRecipe(Recipe[InverseDynamics]):
    """Train an inverse dynamics model: actions read from the frames around them.

    - `small`: frozen DINOv2 features, one GPU
    - `tiny`: from pixels of 64 x 64, two cores, a few minutes
    """

    kind = "idm"
    looks = True
    data: InverseOptions = field(default_factory=InverseOptions)
    model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    common = (
        *("action_episodes", "action_key", "cameras", "offsets", "stride", "members", "features"),
        *("task_given", "proprio", "loss_flow", "loss_reversal", *Recipe.common),
    )
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny", "action_episodes": "2 per task"}
    default_preset = "small"
    presets: ClassVar[Mapping[str, Any]] = {
        "small": {**SHARED, "steps": 5000, "batch_size": 64, "lr": 1e-3},
        "tiny": {
            **SHARED,
            "features": "pixels",
            "image_size": 64,
            "steps": 1000,
            "batch_size": 128,
            "lr": 2e-3,
            "threads": 1,
        },
    }

    def train(self, resume: bool = False, resume_command: str = "") -> InverseDynamics:
        out, sources, data = self.folder(resume), self.open(), self.data
        dataset = sources[0].dataset
        torch.manual_seed(self.loop.seed)
        config = _config(self, dataset)
        model = InverseDynamics(config)
        samples = _windows(self, model, dataset)
        model.set_range(samples.known_actions)
        if model.state_normalizer is not None:
            states = samples.proprio(samples.acted.nonzero().flatten()).unflatten(1, (len(config.offsets), -1))
            changes = state_changes(states, config.offsets)
            model.state_normalizer.fit(changes.flatten(0, 1))
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            model.features.load()
            model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
            labels = {"fraction": 1.0, "unit": "episodes"}
            model.trained_on["labels"] = labels | ({"episodes": data.action_episodes} if data.action_episodes else {})
            share = 0.0 if samples.acted.all() else data.acted_share
            batches = policy_batches(self, samples, flows=False, acted_share=share)
            weights = config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            return finish({"": model}, out)[""]


def _config(recipe: InverseDynamicsRecipe, dataset: RobotDataset) -> InverseDynamicsConfig:
    """Return the recipe's model for this data."""
    chosen, data = recipe.model, recipe.data
    names = dimension_names(vector_key(dataset, "action_key", data.action_key))
    known: dict[str, Any] = {"cameras": camera_keys(dataset, data.cameras), "action_key": data.action_key}
    known |= {"action_dim": len(names), "action_names": names}
    space = action_spaces(dataset).get(data.action_key)
    if chosen.loss_reversal and space and any(getattr(each, "mode", "") == "absolute" for each in space.parts):
        expected = "0 for actions that say where to: backwards they are others, not the opposite"
        checks.fail("loss_reversal", expected, chosen.loss_reversal)
    if chosen.proprio:
        known["state_dim"] = vector_key(dataset, "state_key", chosen.state_key).shape[0]
    if chosen.task_given:
        known["tasks"] = tuple(sorted({text for episode in dataset.episodes for text in episode.tasks[:1]}))
    mean, std = known_scaling(chosen.features, chosen.image_size, chosen.features_revision)
    if chosen.features == "pixels":
        mean, std = PLAIN
    return recipe.config(**known, mean=mean, std=std)


def _windows(recipe: InverseDynamicsRecipe, model: InverseDynamics, dataset: RobotDataset) -> PolicyWindows:
    """Return a clip around every frame; episodes whose actions are not known only where they teach."""
    data, config = recipe.data, model.config
    chosen = select_episodes(dataset, data.episodes)
    asked = {episode.index for episode in select_episodes(dataset, data.action_episodes)}
    inferred = inferred_episodes(dataset, data.action_key, chosen)  # which were not measured
    acted = [episode.index for episode in chosen if episode.index in asked.difference(inferred)]
    if inferred and not acted:
        got = f"those that a model inferred in {dataset.name}"
        checks.fail("action_key", "actions that were measured in one of the episodes", got)
    open_windows = partial(
        PolicyWindows,
        dataset,
        1,
        cameras=config.cameras,
        size=config.image_size,
        interpolation=config.interpolation,
        action_key=data.action_key,
        state_key=config.state_key if config.proprio else None,
        action_episodes=acted if inferred else data.action_episodes,
        gaps=[gap for gap in config.gaps(model.unit_frames(dataset.fps)) if gap],
        states_around=True,
    )
    samples = open_windows(episodes=data.episodes)
    if config.learns_from_video or samples.acted.all():
        return samples
    return open_windows(episodes=np.unique(samples.episode_of[samples.acted.numpy()]).tolist())
