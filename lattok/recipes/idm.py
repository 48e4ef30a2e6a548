"""Recipe of inverse dynamics models, which read actions from the frames around them."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset, action_spaces, camera_keys, dimension_names, select_episodes
from lattok.data.content import Content
from lattok.data.episodes import any_unmeasured, check_strides_in
from lattok.data.opening import Source
from lattok.data.schema import vector_key
from lattok.hub.weights import from_anywhere
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMap, ProprioMapConfig
from lattok.image_lam.inverse.proprio_map import check_offsets
from lattok.image_lam.inverse.states import state_changes, values_at
from lattok.labels.spec import fillers, inferred_episodes, measured_episodes, prefix_flags
from lattok.recipes.common import ImageOptions, Recipe
from lattok.recipes.policy_data import batch_options
from lattok.recipes.proprio import fit_proprio, map_text, route_text, weigh_video
from lattok.recipes.run_folder import finish, first_process
from lattok.samples.batches import PolicyBatches
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.training import fit
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.log import say
from lattok.utils.options import check_choices
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
LEAVE_OUT_EVERY = 4  # every fourth known episode, or the last, says how much video adds to the map
SINGLE_PIXELS = {"features": "pixels", "image_size": 64, "threads": 1}


@dataclass(frozen=True)
class InverseOptions(ImageOptions):
    """What is read from the dataset, and whose actions are known.

    Attributes:
        from_: what actions are read from: "video"; "proprio", by a closed-form map of how the robot's state changes; or
            "both", by that map and what video adds to it in known episodes
        state_offsets: frames whose state the map reads, such as -1 0 1 2 4; left out: by how long after an action the
            state moves
        add_state: absolute commands are learned as what they add to the robot's state, and inferred as state + change
        action_episodes: episodes whose actions are known (default: all of `episodes`); others teach only by loss_flow,
            loss_forward or loss_reversal
        acted_share: share of a batch from episodes with known actions, if others teach too
    """

    from_: Literal["video", "proprio", "both"] = "video"
    state_offsets: tuple[int, ...] = ()
    add_state: bool = True
    action_episodes: str | None = None
    acted_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        if self.state_offsets:
            check_offsets(self.state_offsets)
        if not 0 < self.acted_share < 1:
            checks.fail("acted_share", "a share between 0 and 1", self.acted_share)


@dataclass(frozen=True)
class InverseDynamicsRecipe(Recipe[Any]):
    """Train an inverse dynamics model: actions read from the frames around them, or from the robot's state.

    - `small`: frozen DINOv2 features, one GPU
    - `tiny`: from pixels of 64 x 64, two cores, a few minutes
    """

    kind = "idm"
    data: InverseOptions = field(default_factory=InverseOptions)
    model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    common = (
        *("from_", "action_episodes", "action_key", "cameras", "offsets", "stride", "members", "features"),
        *("task_given", "proprio", "reversible", "loss_flow", "loss_reversal", *Recipe.common),
    )
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny", "action_episodes": "2 per task"}
    default_preset = "small"
    presets: ClassVar[Mapping[str, Any]] = {
        "small": {**SHARED, "steps": 5000, "batch_size": 64, "lr": 1e-3},
        "tiny": {**SHARED, **SINGLE_PIXELS, "steps": 1000, "batch_size": 128, "lr": 2e-3},
    }

    def train(self, resume: bool = False, resume_command: str = "") -> InverseDynamics | ProprioMap:
        out, sources, data = self.folder(resume), self.open(), self.data
        dataset = sources[0].dataset
        known = self._known(dataset)
        found = fit_proprio(self.model, data, dataset, known)
        if data.from_ == "proprio":
            assert found is not None  # video alone goes without a map
            with self.begin(resume, sources, resume_command=resume_command) as contents:
                model = found.model
                model.trained_on = self._learned(sources, contents)
                if first_process():
                    say(map_text(found, data.action_key, len(known)))
                return finish({"": model}, out)[""]
        torch.manual_seed(self.loop.seed)
        config = self._config(dataset, None if found is None else found.model.config)
        model = InverseDynamics(config)
        samples, judged = self._windows(model, dataset, known)
        share = 0.0 if samples.acted.all() else data.acted_share
        parts, size = self.loop.shares, self.loop.batch_size  # in each part every member has a known action to learn
        if (most := int((share or 1.0) * size) // parts) < config.members:
            expected = f"clips with known actions for all {config.members} members in each of {parts} parts"
            checks.fail("batch_size", expected, f"{size}, of which {most} in a part", "Or fewer members.")
        if model.proprio_map is not None and found is not None:
            model.proprio_map.load_state_dict(found.model.state_dict())
            samples.teach(samples.actions - found.said(samples.episodes))
        elif config.anchors:
            samples.teach(samples.actions - values_at(cast(Tensor, samples.states), config.anchors))
        model.set_range(samples.known_actions)
        if model.state_normalizer is not None:
            states = samples.proprio(samples.acted.nonzero().flatten()).unflatten(1, (len(config.offsets), -1))
            model.state_normalizer.fit(state_changes(states, config.offsets).flatten(0, 1))
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            if found is not None and first_process():
                say(route_text(found, data, config, len(known)))
            model.features.load()
            model.trained_on = self._learned(sources, contents)
            drawn = replace(batch_options(data, self.loop, samples, config.image_size), acted_share=share)
            batches = PolicyBatches(samples, drawn)
            weights = config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            if found is not None and model.proprio_map is not None:
                weighed = weigh_video(model, found, dataset, judged)
                if first_process():
                    say(weighed)
            return finish({"": model}, out)[""]

    def _learned(self, sources: Sequence[Source], contents: Sequence[Content]) -> dict[str, Any]:
        record = self.trained_on(sources, self.loop.batch_size, contents)
        record.pop("inferred_actions", None)  # none of which it learned
        record["labels"] = {"fraction": 1.0, "unit": "episodes"} | record.get("labels", {})
        return record

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

    def _config(self, dataset: RobotDataset, known_map: ProprioMapConfig | None) -> InverseDynamicsConfig:
        chosen, data = self.model, self.data
        names = dimension_names(vector_key(dataset, "action_key", data.action_key))
        known: dict[str, Any] = {"cameras": camera_keys(dataset, data.cameras), "action_key": data.action_key}
        known |= {"action_dim": len(names), "action_names": names}
        if known_map is not None and (data.from_ == "both" or (data.add_state and known_map.anchors)):
            known |= {"state_dim": known_map.state_dim, "state_names": known_map.state_names}
            known |= {"proprio_map": known_map} if data.from_ == "both" else {"anchors": known_map.anchors}
        space = action_spaces(dataset).get(data.action_key)
        modes = set() if space is None or "anchors" in known else {getattr(each, "mode", "") for each in space.parts}
        if chosen.reverses and "absolute" in modes:
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

    def _known(self, dataset: RobotDataset) -> list[Episode]:
        """Return the episodes that are trained on whose actions were measured, and may teach."""
        data = self.data
        chosen = select_episodes(dataset, data.episodes)
        asked = {episode.index for episode in select_episodes(dataset, data.action_episodes)}
        inferred = inferred_episodes(dataset, data.action_key, chosen)
        known = [episode for episode in chosen if episode.index in asked.difference(inferred)]
        if inferred and not known:
            got = f"those that a model inferred in {dataset.name}"
            checks.fail("action_key", "actions that were measured in one of the episodes", got)
        return measured_episodes(dataset, data.action_key, known)

    def _windows(
        self, model: InverseDynamics, dataset: RobotDataset, measured: Sequence[Episode]
    ) -> tuple[PolicyWindows, list[Episode]]:
        """Return a clip around every frame; episodes whose actions are not known only where they teach. Also those of
        the known ones that do not teach, as they say how much video adds to the map of state changes."""
        data, config = self.data, model.config
        name = "stride" if config.span == 1 else "stride with offsets"
        check_strides_in(dataset, data.episodes, [model.stride_frames(dataset.fps)], name)
        judged = list(measured[LEAVE_OUT_EVERY - 1 :: LEAVE_OUT_EVERY] or measured[-1:]) if config.proprio_map else []
        if judged and len(measured) == 1:
            hint = "One alone is enough for from_=proprio."
            checks.fail("from_", "two episodes with known actions for both, of which one judges video", "one", hint)
        apart = {episode.index for episode in judged}
        inferred = inferred_episodes(dataset, data.action_key, select_episodes(dataset, data.episodes))
        acted = [episode.index for episode in measured if episode.index not in apart]
        options = WindowOptions(
            1,
            config.image_size,
            cameras=config.cameras,
            interpolation=config.interpolation,
            action_key=data.action_key,
            state_key=config.state_key if config.reads_state else None,
            episodes=data.episodes,
            action_episodes=acted if inferred or judged else data.action_episodes,
            gaps=[gap for gap in config.gaps(model.unit_frames(dataset.fps)) if gap],
            states_around=True,
        )
        if judged and not config.learns_from_video:
            return PolicyWindows(dataset, replace(options, episodes=acted)), judged
        samples = PolicyWindows(dataset, options)
        if config.learns_from_video or samples.acted.all():
            return samples, judged
        known = np.unique(samples.episode_of[samples.acted.numpy()]).tolist()
        return PolicyWindows(dataset, replace(options, episodes=known)), judged
