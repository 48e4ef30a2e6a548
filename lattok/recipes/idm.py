"""Recipe of inverse dynamics models, which read actions from the frames around them."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset, action_spaces, dimension_names, open_dataset, select_episodes
from lattok.data.content import Content
from lattok.data.episodes import any_unmeasured, check_strides_in, select_acting
from lattok.data.opening import Source, in_format, parse_source
from lattok.data.problems import films_alone
from lattok.data.schema import vector_key
from lattok.evaluation.questions.history import training_entries
from lattok.hub.model import config_of
from lattok.hub.weights import from_anywhere
from lattok.image_lam.base.features import known_scaling
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMap, ProprioMapConfig
from lattok.image_lam.inverse.proprio_map import check_offsets
from lattok.image_lam.inverse.states import state_changes, values_at
from lattok.labels.spec import fillers, inferred_episodes, measured_episodes, prefix_flags
from lattok.recipes.common import ImageOptions, MixOptions, Recipe
from lattok.recipes.new_robot import fit_head, head_text, seen_by, start_from
from lattok.recipes.policy_data import batch_options
from lattok.recipes.proprio import KnownMap, fit_proprio, map_text, route_text, weigh_video
from lattok.recipes.run_folder import finish, first_process
from lattok.recipes.several_robots import Placed, shown_alike, together
from lattok.samples.batches import PolicyBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, WindowOptions
from lattok.training import fit
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.log import say
from lattok.utils.options import check_choices, flat
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
LEARNED = ("loss_flow", "loss_forward", "loss_kl", "loss_reversal")
CLOSED_FORM: dict[str, Any] = {"hidden": 0, "task_given": False, "proprio": False, **dict.fromkeys(LEARNED, 0.0)}
UNITS = ("normalize", "normalize_exceptions", "normalize_clip", "state_key", "smooth")
FREE = (*UNITS, *CLOSED_FORM, "loss_action", "action_loss", "unreversed")  # need not be as the model in `init` has it
FEW_FRAMES = 10_000  # whose columns are read again in a moment, also where images are beside them
LEAVE_OUT_EVERY = 4  # every fourth known episode, or the last, says how much video adds to the map
SINGLE_PIXELS = {"features": "pixels", "image_size": 64, "threads": 1}


@dataclass(frozen=True)
class InverseOptions(ImageOptions, MixOptions):
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
        init: inverse model whose encoder is used, a folder or a Hub id; of several robots, or of one
        freeze: "encoder": the encoder of init is not trained, and a head is fitted to known actions in closed form
    """

    from_: Literal["video", "proprio", "both"] = "video"
    state_offsets: tuple[int, ...] = ()
    add_state: bool = True
    action_episodes: str | None = None
    acted_share: float = 0.5
    init: str | None = None
    freeze: Literal["nothing", "encoder"] = "nothing"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        if self.state_offsets:
            check_offsets(self.state_offsets)
        if not 0 < self.acted_share < 1:
            checks.fail("acted_share", "a share between 0 and 1", self.acted_share)
        if len(self.mix) > 1 and self.from_ != "video":
            hint = "Robots share what is seen: train a map for each."
            checks.fail("from_", "video for several datasets", repr(self.from_), hint)
        if self.init is None and self.freeze != "nothing":
            checks.fail("freeze", "nothing without init", repr(self.freeze), "Name the model of that encoder: init.")
        if self.init is not None and self.mix:
            checks.fail("init", "none with a mixture", repr(self.init))
        if self.init is not None and self.from_ != "video":
            checks.fail("from_", "video with init", repr(self.from_))


@dataclass(frozen=True)
class InverseDynamicsRecipe(Recipe[Any]):
    """Train an inverse dynamics model: actions read from the frames around them, or from the robot's state.

    - `small`: frozen DINOv2 features, one GPU
    - `tiny`: from pixels of 64 x 64, two cores, a few minutes
    """

    kind = "idm"
    in_any_order = True
    data: InverseOptions = field(default_factory=InverseOptions)
    model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    common = (
        *("from_", "action_episodes", "action_key", "cameras", "offsets", "stride", "members", "features"),
        *("task_given", "proprio", "reversible", "loss_flow", "loss_reversal", *Recipe.common),
    )
    small = "tiny"
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny", "action_episodes": "2 per task"}
    default_preset = "small"
    presets: ClassVar[Mapping[str, Any]] = {
        "small": {**SHARED, "steps": 5000, "batch_size": 64, "lr": 1e-3},
        "tiny": {**SHARED, **SINGLE_PIXELS, "steps": 1000, "batch_size": 128, "lr": 2e-3},
    }

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options; those of the architecture are those of `init`: its config.json says which."""
        if given.get("init") is None:
            return super().combined(preset, given)
        own, before = cls.option_groups()["model"].keys(), flat(config_of("init", given["init"], InverseDynamics))
        model, free = {name: before[name] for name in own}, FREE
        if given.get("freeze") == "encoder":
            model, free = model | CLOSED_FORM, UNITS
        for name in sorted(own & given.keys()):
            if name not in free and given[name] != model[name]:
                checks.fail(name, f"{model[name]!r} with this init", repr(given[name]), "Leave it out.")
        rest = {name: value for name, value in preset.items() if name not in own}
        return super().combined(rest, {**model, **given})

    def train(self, resume: bool = False, resume_command: str = "") -> InverseDynamics | ProprioMap:
        out, data = self.folder(resume), self.data
        sources = self.open()
        known = [self._known(source.dataset) for source in sources]
        maps = [fit_proprio(self.model, data, s.dataset, own) for s, own in zip(sources, known, strict=True)]
        if data.from_ == "proprio":
            assert maps[0] is not None  # video alone goes without a map
            with self.begin(resume, sources, resume_command=resume_command) as contents:
                model = maps[0].model
                model.trained_on = self._learned(sources, contents)
                if first_process():
                    say(map_text(maps[0], data.action_key, len(known[0])))
                return finish({"": model}, out)[""]
        before = None if data.init is None else InverseDynamics.from_pretrained(data.init)
        torch.manual_seed(self.loop.seed)
        if before is None:
            seen = shown_alike([source.dataset for source in sources], data.cameras)
        else:
            seen = [seen_by(sources[0].dataset, data.cameras, before.config)]
        configs = [
            self._config(own, None if found is None else found.model.config)
            for found, own in zip(maps, seen, strict=True)
        ]
        config = configs[0] if len(configs) == 1 else together(configs, seen)
        model = InverseDynamics(config, None if before is None else before.features)
        inputs = dict[str, str]()
        if before is not None:
            start_from(model, before)
            inputs["init"] = before.describe()["weights_sha256"]
        views = [model.view(name) for name in model.datasets] or [model]
        prepared = [self._samples(*each) for each in zip(views, seen, known, maps, strict=True)]
        parts = [samples for samples, _ in prepared]
        weights = [source.weight for source in sources]
        if data.freeze == "encoder":
            if config.reversible:
                checks.fail("freeze", "nothing with an init whose members are reversible", repr(data.freeze))
            fitted = fit_head(model.eval(), sources[0].dataset, parts[0])
            with self.begin(resume, sources, inputs, resume_command) as contents:
                if first_process():
                    say(head_text(fitted, data.action_key))
                model.trained_on = self._learned(sources, contents, before)
                return finish({"": model}, out)[""]
        samples = parts[0] if len(parts) == 1 else MixedPolicyWindows(parts, weights, [None] * len(parts))
        share = 0.0 if samples.acted.all() else data.acted_share
        self._check_batch(config, share, min(weights) / sum(weights))
        with self.begin(resume, sources, inputs, resume_command) as contents:
            for source, view, found, own in zip(sources, views, maps, known, strict=True):
                if found is not None and first_process():
                    of = f"{source.dataset.name}: " if len(sources) > 1 else ""
                    say(of + route_text(found, data, view.config, len(own), source.dataset, self._typed()))
            model.features.load()
            model.trained_on = self._learned(sources, contents, before)
            drawn = replace(batch_options(data, self.loop, samples, config.image_size), acted_share=share)
            batches = PolicyBatches(samples, drawn)
            weights = config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            model.trained_on |= batches.record()
            if maps[0] is not None and model.proprio_map is not None:
                weighed = weigh_video(model, maps[0], sources[0].dataset, prepared[0][1])
                if first_process():
                    say(weighed)
            return finish({"": model}, out)[""]

    def _samples(
        self, model: InverseDynamics, seen: Placed, known: list[Episode], found: KnownMap | None
    ) -> tuple[PolicyWindows, list[Episode]]:
        """Return the samples of a dataset, and episodes that judge what video adds to the map; fit its normalisers."""
        samples, judged = self._windows(model, seen, known)
        config = model.config
        if model.proprio_map is not None and found is not None:
            model.proprio_map.load_state_dict(found.model.state_dict())
            samples.teach(samples.actions - found.said(samples.episodes))
        elif config.anchors:
            samples.teach(samples.actions - values_at(cast(Tensor, samples.states), config.anchors))
        model.set_range(samples.known_actions)
        if model.state_normalizer is not None:
            states = samples.proprio(samples.fitted).unflatten(1, (len(config.offsets), -1))
            model.state_normalizer.fit(state_changes(states, config.offsets).flatten(0, 1))
        return samples, judged

    def _check_batch(self, config: InverseDynamicsConfig, share: float, smallest: float) -> None:
        """Require that in each part every member has a known action to learn, of every dataset."""
        parts, size = self.loop.shares, self.loop.batch_size
        if (most := int((share or 1.0) * smallest * size) // parts) < config.members:
            expected = f"clips with known actions for all {config.members} members in each of {parts} parts"
            of = " of the dataset with the smallest share" if config.robots else ""
            checks.fail("batch_size", expected, f"{size}, of which {most} in a part{of}", "Or fewer members.")

    def _learned(
        self, sources: Sequence[Source], contents: Sequence[Content], before: InverseDynamics | None = None
    ) -> dict[str, Any]:
        record = self.trained_on(sources, self.loop.batch_size, contents)
        for entry in record.get("mixture", [record]):
            entry.pop("inferred_actions", None)  # none of which it learned
        record["labels"] = {"fraction": 1.0, "unit": "episodes"} | record.get("labels", {})
        if before is not None:
            record["init"], now = before.describe(), training_entries(record)
            record["earlier"] = [entry for entry in training_entries(before.trained_on) if entry not in now]
        return record

    def _typed(self) -> list[str]:
        """Return what was chosen of the preset, the state and episodes, as it is typed."""
        data, usual = self.data, type(self.data)
        chosen = (
            ("--preset", self.preset, self.default_preset),
            ("--state-key", self.model.state_key, type(self.model).state_key),
            ("--episodes", data.episodes, usual.episodes),
            ("--action-episodes", data.action_episodes, usual.action_episodes),
        )
        return [word for flag, own, default in chosen if own != default for word in (flag, str(own))]

    def _may_lack(self, dataset: RobotDataset) -> bool:
        """Return whether actions may be unknown in a dataset; of a large one nobody looks."""
        cheap = dataset.columns_apart or dataset.num_frames <= FEW_FRAMES
        return not cheap or any_unmeasured(dataset, self.data.action_key)

    def next_step(self) -> str:
        named = [self.dataset] if self.dataset else [parse_source(text)[0] for text in self.data.mix]
        words = ["lattok", "annotate", named[0], "--model", self.out, "--as", "actions"]
        words += ["--out", unused("filled")]
        words += [] if self.data.action_key == "action" else ["--action-key", self.data.action_key]
        with suppress(checks.LattokError):  # it may be gone by now
            key, opened = self.data.action_key, [open_dataset(each, labels=self.data.labels) for each in named]
            place = next((number for number, each in enumerate(opened) if self._may_lack(each)), None)
            dataset, words[2] = opened[place or 0], named[place or 0]
            if films_alone(dataset):
                words[2] = in_format(words[2].removeprefix(f"{dataset.kind}::"), "video")
                return f"{super().next_step()}\nThen fill in the actions of all films with it: {shlex.join(words)}"
            if fillers(dataset, key):  # as that which it was made from may be
                return super().next_step()
            if place is None:
                words[2] = "DATASET"  # another one: here all are known
            words += prefix_flags(dataset, "inferred")
        return f"{super().next_step()}\nThen fill in unknown actions with it: {shlex.join(words)}"

    def _config(self, seen: Placed, known_map: ProprioMapConfig | None) -> InverseDynamicsConfig:
        chosen, data, dataset = self.model, self.data, seen.dataset
        names = dimension_names(vector_key(dataset, "action_key", data.action_key))
        known: dict[str, Any] = {"cameras": seen.cameras, "action_key": data.action_key}
        known |= {"action_dim": len(names), "action_names": names}
        known |= {"views": seen.views, "places": seen.places} if seen.views else {}
        adds = data.add_state and not films_alone(dataset)  # whose states nobody knows
        if known_map is not None and (data.from_ == "both" or (adds and known_map.anchors)):
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
        asked = select_acting(dataset, data.action_episodes, data.action_key)
        inferred = inferred_episodes(dataset, data.action_key, chosen)
        known = [episode for episode in chosen if episode.index in asked.difference(inferred)]
        if inferred and not known:
            got = f"those that a model inferred in {dataset.name}"
            checks.fail("action_key", "actions that were measured in one of the episodes", got)
        return measured_episodes(dataset, data.action_key, known)

    def _windows(
        self, model: InverseDynamics, seen: Placed, measured: Sequence[Episode]
    ) -> tuple[PolicyWindows, list[Episode]]:
        """Return a clip around every frame; episodes whose actions are not known only where they teach. Also those of
        the known ones that do not teach, as they say how much video adds to the map of state changes."""
        data, config, dataset = self.data, model.config, seen.dataset
        name = "stride" if config.span == 1 else "stride with offsets"
        check_strides_in(dataset, data.episodes, [model.stride_frames(dataset.fps)], name)
        judged = list(measured[LEAVE_OUT_EVERY - 1 :: LEAVE_OUT_EVERY] or measured[-1:]) if config.proprio_map else []
        if judged and len(measured) == 1:
            hint = "One alone is enough for from_=proprio."
            checks.fail("from_", "two episodes with known actions for both, of which one tests video", "one", hint)
        apart = {episode.index for episode in judged}
        inferred = inferred_episodes(dataset, data.action_key, select_episodes(dataset, data.episodes))
        acted = [episode.index for episode in measured if episode.index not in apart]
        options = WindowOptions(
            1,
            config.image_size,
            cameras=seen.names,
            interpolation=config.interpolation,
            action_key=data.action_key,
            state_key=config.state_key if config.reads_state else None,
            episodes=data.episodes,
            action_episodes=acted if inferred or judged else data.action_episodes,
            gaps=[gap for gap in config.gaps(model.unit_frames(dataset.fps)) if gap],
            states_around=True,
            scattered=True,
        )
        if judged and not config.learns_from_video:
            return PolicyWindows(dataset, replace(options, episodes=acted)), judged
        samples = PolicyWindows(dataset, options)
        if config.learns_from_video or samples.acted.all():
            return samples, judged
        known = np.unique(samples.episode_of[samples.acted.numpy()]).tolist()
        return PolicyWindows(dataset, replace(options, episodes=known)), judged
