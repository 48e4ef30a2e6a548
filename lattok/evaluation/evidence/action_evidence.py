"""Inverse dynamics models: the actions they infer on held-out episodes beside the known ones, and controls.

mean action        of the episodes whose actions are known                  R^2 is 0
moment             ridge on the task and the tenth of the episode        what the average episode has there
state              ridge on proprio at the moment and the instruction       what could be said without looking
block matching     PCA of the motion over the model's span, ridge           what a classical method shows
its k-means codes  of that motion, 4 of 16                                  the same in 16 bits
no later frames    the same network with its later frames as earlier ones   what a policy could know as well
state changes      `ProprioMap`: ridge on s_{t+k} - s_t                     what the robot's own sensors say
earlier ones       the same without k > 0                                   for scale

Controls learn from the episodes whose actions the model knew, as far as it says which, but for held-out ones. Of a
model whose actions are added to the state, what is added is judged: the state alone says most of a command.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.data import camera_keys, read_vectors
from lattok.data.alike import check_actions, check_states
from lattok.data.copies import with_copies
from lattok.data.episodes import select_acting
from lattok.data.instructions import instruction_of
from lattok.data.schema import same_split, vector_key
from lattok.evaluation.evidence import Case, Evidence, evenly, judged_episodes, measured, out_of, register_evidence
from lattok.evaluation.evidence.pair_set import BATCH, PairSource
from lattok.evaluation.evidence.probe_rows import MOMENT, NO_STATES, ProbeRow, Score
from lattok.evaluation.evidence.probes import Bootstrap, Probe, one_hot, one_hot_tasks, score
from lattok.evaluation.evidence.trained_controls import NO_LATER, ControlTraining, changes_of
from lattok.evaluation.evidence.unlearned import Coordinates, ResidualKMeans, Target
from lattok.evaluation.wording import NEEDS_TRAINING, NOT_TRAINED
from lattok.image_lam.base.losses import block_flow
from lattok.image_lam.inverse import InverseDynamics, ProprioMap, ProprioMapConfig
from lattok.image_lam.inverse.proprio_map import proposed_anchors, proposed_offsets
from lattok.image_lam.inverse.states import around_each, state_changes, values_at
from lattok.nn.normalize import space_dims
from lattok.nn.ridge import spread_of
from lattok.samples.augment import Augmentation
from lattok.samples.batches import BatchOptions, PolicyBatches
from lattok.samples.frames import FrameReader
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.types import Episode, InfersActions
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, advise, command
from lattok.utils.output import unused

PROPRIO_MAP = "proprio_map"  # row of the control
CODES, LEVELS = 16, 4  # of the k-means control
TENTHS = 10  # parts of an episode
CHANGES = Augmentation(crop=1.0, shift=0.125, brightness=0.2, contrast=0.2)  # of images, as the presets have it


@register_evidence("actions", of=(InfersActions,), place=20)
@dataclass(frozen=True)
class ActionEvidence(Evidence):
    """Inferred actions of all held-out frames whose actions are known, and those of controls."""

    case: Case
    source: PairSource  # its stride is the unit of the model's offsets
    held_out: PolicyWindows  # without pictures
    train: PolicyWindows  # what controls learned from, without pictures
    rows: list[ProbeRow]  # the model first, then controls
    inputs: dict[
        str, tuple[Tensor, Tensor]
    ]  # what new heads may read of `train` and `held_out`: the model's latents, if
    # there are any, as "model", and by their names what controls read
    bootstrap: Bootstrap
    known: str  # which episodes controls learned from

    kind = InverseDynamics.type
    asks = "Are its actions good enough to replace unknown ones?"
    use = advise(
        "Fill in unknown actions", command("annotate", DATASET, "--model", MODEL, "--as", "actions", "--out", "filled")
    )
    by_column = False  # but by the actions that it learned
    reads = ("cameras",)

    @classmethod
    def gather(cls, case: Case) -> "ActionEvidence":
        """Infer the actions of held-out episodes and fit the controls, with a training run where that is asked for."""
        source = _source(case)
        held_out = judged_episodes(source.dataset, str(source.action_key), case.split.held_out)
        episodes, known = known_episodes(case, source)
        note = partial(case.options.note, "episodes", total=len(held_out) + len(episodes))
        flows, actions, latents = list[Tensor](), list[Tensor](), list[Tensor]()
        for done, (episode, frames) in enumerate(_decoded(case.model, source, [*held_out, *episodes])):
            if source.cameras:
                flows.append(_motion(case.model, source, frames))
            if done < len(held_out) or latents:
                found = _inferred(case.model, source, episode, frames)
                actions.append(torch.as_tensor(found.actions))
                if getattr(found, "latents", None) is not None:
                    latents.append(torch.as_tensor(found.latents).flatten(1))
            note(done + 1)
        judged, train = (_taught(case.model, source, chosen) for chosen in (held_out, episodes))
        own = torch.cat(actions[: len(held_out)]).double()
        if anchors := _anchors(case.model):
            own = own - values_at(_states(judged).double(), anchors)
        fitted = train.actions.double()
        bootstrap = Bootstrap(judged.episode_of, case.options.seed)
        judge = partial(Score.of, bootstrap=bootstrap, space=space_dims(judged.action_names))
        rows = [
            ProbeRow(
                "model",
                "inferred actions",
                {"linear": judge(score(own, judged.actions.double(), fitted))},
                control=False,
            ),
            _without_later(case, source, held_out, episodes, judge),
        ]
        inputs = dict[str, tuple[Tensor, Tensor]]()
        if latents:
            told = (
                one_hot_tasks(train, judged)
                if case.model.reads_task
                else [torch.empty(len(x), 0) for x in (train, judged)]
            )
            said = torch.cat(latents[len(held_out) :]), torch.cat(latents[: len(held_out)])
            inputs["model"] = torch.cat([said[0], told[0]], 1), torch.cat([said[1], told[1]], 1)
        if source.cameras:
            motion = Coordinates.fit(torch.cat(flows[len(held_out) :]), torch.cat(flows[: len(held_out)]))
            rows += _motion_controls(train, judged, motion, judge, case.options.seed)
            inputs["block motion"] = motion.first(motion.sizes[0])
        mapped = not isinstance(case.model, ProprioMap)
        rows += _controls(train, judged, judge, mapped)
        if mapped and train.states is not None and judged.states is not None:
            offsets = _map_config(train).offsets
            inputs["state changes"] = _changes(train, offsets), _changes(judged, offsets)
        return cls(case, source, judged, train, rows, inputs, bootstrap, known)

    @property
    def names(self) -> tuple[str, ...]:
        return self.held_out.action_names

    @property
    def space(self) -> list[int]:
        return space_dims(self.names)

    @cached_property
    def scale(self) -> Tensor:
        """Deviations of the known actions, [m]."""
        return spread_of(self.train.actions.double())

    @property
    def target(self) -> Target:
        return Target(self.train.actions, self.train.episode_of, self.held_out.actions)

    @property
    def by_state(self) -> bool:
        """Whether the model looks at states alone."""
        return isinstance(self.case.model, ProprioMap)

    @property
    def retrains(self) -> bool:
        """Whether the network may be trained anew."""
        return self.case.trains_controls and isinstance(self.case.model, InverseDynamics)

    def trained_anew(self, count: int) -> Probe:
        """Train the network on the actions of `count` known episodes, evenly spaced, and on nothing else."""
        episodes = self.train.episodes
        known = [episodes[i] for i in evenly(len(episodes), count).tolist()]
        actions = _said_by_trained(
            self.case, self.source, known, self.held_out.episodes, "anew", self.case.model.config.offsets
        )
        return score(actions, self.held_out.actions.double(), self.train.actions.double())

    @property
    def added(self) -> bool:
        """Whether what is judged is added to the state."""
        return bool(_anchors(self.case.model))

    @property
    def state_below(self) -> Tensor:
        """What the model adds its actions to, of held-out frames [F, m]; zeros where it adds them to nothing."""
        if anchors := _anchors(self.case.model):
            return values_at(_states(self.held_out).double(), anchors)
        return torch.zeros_like(self.held_out.actions.double())

    def gaps(self, row: ProbeRow) -> Tensor:
        """Return how far a row's actions are off, [F, m] in deviations of the known actions."""
        return (row.scores["linear"].probe.predicted - self.held_out.actions.double()) / self.scale

    @property
    def provenance(self) -> dict[str, Any]:
        frames = {"stride_frames": self.source.stride, "cameras": list(self.source.cameras)}
        return {**frames, "held_out_frames": len(self.held_out), "controls_learn_from": self.known}


def _source(case: Case) -> PairSource:
    """Return the model's own column, cameras and stride where others are not given; check that they fit."""
    model, dataset, given = case.model, case.dataset, case.options.action_key
    own = getattr(getattr(model, "config", None), "action_key", "action")
    key = own if given in (None, "action") else given
    width = vector_key(dataset, "action_key", key).shape[0]
    ours = isinstance(model, InverseDynamics | ProprioMap)
    if ours:
        again = command("train", "idm", dataset.address or DATASET, "--out", unused("my-idm"), "--preset", "tiny")
        hint = f"Take a dataset of its robot, or train a model for this one: {again}"
        checks.size(key, "numbers, as the model's actions have", width, model.config.action_dim, hint)
    check_actions(model, dataset, key)
    if ours and model.state_key is not None:
        check_states(model.config.state_names, model.config.state_dim, dataset, model.state_key)
    source = PairSource.of(case, model.unit_frames(dataset.fps))
    cameras = camera_keys(dataset, source.cameras) if model.cameras else ()
    return replace(source, action_key=key, cameras=cameras)


def known_episodes(case: Case, source: PairSource) -> tuple[list[Episode], str]:
    """Choose `max_episodes` at most for controls, and say which: those whose actions the model knew, or the others."""
    trained, dataset, key, chosen = case.model.trained_on or {}, case.dataset, str(source.action_key), set[int]()
    if trained.get("dataset") == dataset.name and same_split(trained.get("split"), dataset.split):
        with suppress(checks.LattokError):  # of a dataset that has changed
            asked = select_acting(dataset, (trained.get("labels") or {}).get("episodes"), key)
            runs = trained.get("episodes", ())
            chosen = {index for index in asked if any(low <= index <= high for low, high in runs)}
    judging = with_copies(dataset, case.split.held_out)
    found, what = measured(dataset, key, chosen - judging), "whose actions the model knew"
    if not found:
        found, what = measured(dataset, key, case.split.train), "that are not held out"
    if not found:
        hint = "Controls learn from them: hold out fewer."
        checks.fail(key, "known actions in an episode that is not held out", "none", hint)
    used = [found[i] for i in evenly(len(found), case.options.max_episodes).tolist()]
    return used, f"{out_of(len(used), len(found), 'episode')} {what}"


def _vectors(source: PairSource, episodes: list[Episode], **options: Any) -> PolicyWindows:
    """Read the samples of episodes; unless `options` say otherwise without pictures."""
    given: dict[str, Any] = {"cameras": (), "size": 1, "state_key": source.state_key}
    given |= {"action_key": source.action_key, "episodes": [e.index for e in episodes], "states_around": True}
    return PolicyWindows(source.dataset, WindowOptions(1, **{**given, **options}))


def _decoded(model: Any, source: PairSource, episodes: Sequence[Episode]) -> Iterator[tuple[Episode, np.ndarray]]:
    """Yield episodes with their frames at the model's size, uint8 [T, V, h, w, 3]; V = 0 of one that looks at none."""
    for episode in episodes:
        if source.cameras:
            yield episode, FrameReader(source.dataset, [episode], source.cameras, model.resize).all()
        else:
            yield episode, np.empty((episode.length, 0, 1, 1, 3), np.uint8)


def _anchors(model: Any) -> tuple[int, ...]:
    """Return which numbers of the state a model adds its actions to; none of most."""
    known = getattr(model, "proprio_map", None)
    return tuple(getattr(getattr(model if known is None else known, "config", None), "anchors", ()))


def _inferred(model: Any, source: PairSource, episode: Episode, frames: np.ndarray) -> Any:
    """Return what a model infers of all frames of an episode, in one call."""
    inputs: dict[str, Any] = {"task": instruction_of(source.dataset, episode)} if model.reads_task else {}
    if model.state_key is not None:
        inputs["states"] = read_vectors(source.dataset, "state_key", model.state_key, [episode])
    found = model.infer_actions(frames, source.stride, **inputs)
    width = source.dataset.features[str(source.action_key)].shape[0]
    actions: Any = getattr(found, "actions", None)
    what, shape = f"actions of {model.type or type(model).__name__}", tuple(np.shape(actions))
    if shape != (len(frames), width):
        checks.fail(what, f"shape {[len(frames), width]}, a row for each frame", f"shape {[*shape]}")
    return found


def _motion(model: Any, source: PairSource, frames: np.ndarray) -> Tensor:
    """Match blocks of every frame with the farthest one that the model looks at, the later of equals: [T, k]."""
    far = model.stride_frames(source.dataset.fps)
    if isinstance(model, InverseDynamics):
        far = max(model.config.offsets, key=lambda offset: (abs(offset), offset)) * source.stride
    pairs = (np.arange(len(frames))[:, None] + [min(far, 0), max(far, 0)]).clip(0, len(frames) - 1)
    blocks = (frames[pairs[i : i + BATCH]] for i in range(0, len(pairs), BATCH))
    return torch.cat([block_flow(torch.from_numpy(block)) for block in blocks])


def _taught(model: Any, source: PairSource, episodes: list[Episode], **options: Any) -> PolicyWindows:
    """Read samples whose actions are what a model adds to the state."""
    samples = _vectors(source, episodes, **options)
    if anchors := _anchors(model):
        samples.teach(samples.actions - values_at(_states(samples), anchors))
    return samples


def _states(samples: PolicyWindows) -> Tensor:
    if samples.states is None:
        hint = "The model adds its actions to them."
        checks.fail("state_key", "the column with the robot's state", "none", hint)
    return samples.states


def _motion_controls(
    train: PolicyWindows, judged: PolicyWindows, flow: Coordinates, judge: Callable[[Probe], Score], seed: int
) -> list[ProbeRow]:
    """Fit the controls that read `flow`, the motion that block matching finds."""
    target = Target(train.actions, train.episode_of, judged.actions)
    width = flow.best_size(target)

    def codes(width: int) -> list[Tensor]:
        fitted = ResidualKMeans.fit(flow.first(width)[0], CODES, LEVELS, seed)
        known, asked = (fitted.encode(each) for each in flow.first(width))
        return [one_hot(each, known) for each in (known, asked)]

    coded = {width: codes(width) for width in flow.sizes}
    best = max(coded, key=lambda width: target.validation(coded[width][0]))

    def row(key: str, name: str, inputs: Sequence[Tensor]) -> ProbeRow:
        return ProbeRow(key, name, {"linear": judge(target.probe(*inputs))})

    return [
        row("flow", f"motion by block matching (PCA {width})", flow.first(width)),
        row("flow_kmeans", f"its k-means codes, {LEVELS} of {CODES} (PCA {best})", coded[best]),
    ]


def _controls(
    train: PolicyWindows, judged: PolicyWindows, judge: Callable[[Probe], Score], mapped: bool
) -> list[ProbeRow]:
    """Fit the controls that look at no picture; with `mapped` a map of state changes, too."""
    target, both = Target(train.actions, train.episode_of, judged.actions), (train, judged)
    zeros = [torch.zeros(len(each), 1) for each in both]
    found = [ProbeRow("mean", "mean known action", {"linear": judge(target.probe(*zeros))})]
    tenths = (F.one_hot(part_of(each, TENTHS), TENTHS) for each in both)
    moments = [(a[:, :, None] * b[:, None]).flatten(1) for a, b in zip(one_hot_tasks(*both), tenths, strict=True)]
    found.append(ProbeRow(MOMENT, "task and tenth of the episode alone", {"linear": judge(target.probe(*moments))}))
    if train.states is None or judged.states is None:
        return [*found, ProbeRow("proprio", "state and instruction", not_run=NO_STATES)]
    known = zip((train.states, judged.states), one_hot_tasks(*both), strict=True)
    probe = target.probe(*[torch.cat(each, 1) for each in known])
    found.append(ProbeRow("proprio", "state and instruction, without looking", {"linear": judge(probe)}))

    def read(config: ProprioMapConfig) -> dict[str, Score]:
        (acts, states), (_, asked) = (_by_episode(each) for each in both)
        fitted = ProprioMap.fit(config, acts, states).model
        said = torch.cat([torch.as_tensor(fitted.infer_actions(None, 1, states=each).actions) for each in asked])
        return {"linear": judge(score(said.double(), judged.actions.double(), train.actions.double()))}

    config = _map_config(train)
    past = replace(config, offsets=tuple(sorted({-abs(offset) for offset in config.offsets})))
    if mapped:
        found.append(ProbeRow(PROPRIO_MAP, f"map of state changes, up to {config.offsets[-1]} frames", read(config)))
    return [*found, ProbeRow("proprio_past", "the same of earlier changes alone", read(past), reference=True)]


def _map_config(train: PolicyWindows) -> ProprioMapConfig:
    """Return the configuration of a map as `lattok train idm` would fit it to these episodes."""
    acts, states = _by_episode(train)
    fps = train.reader.dataset.fps
    offsets = proposed_offsets([each.numpy() for each in acts], [each.numpy() for each in states], fps)
    widths = acts[0].shape[1], states[0].shape[1]
    anchors = proposed_anchors(train.action_names, train.state_names, acts, states)
    return ProprioMapConfig(widths[0], train.action_names, widths[1], train.state_names, anchors, offsets)


def part_of(samples: PolicyWindows, count: int) -> Tensor:
    """Tell in which of `count` equal parts of its episode each frame is, int64 [F]."""
    length = {episode.index: episode.length for episode in samples.episodes}
    lengths = np.array([length[index] for index in samples.episode_of.tolist()])
    return torch.from_numpy(count * samples.frame_of // lengths)


def _changes(samples: PolicyWindows, offsets: tuple[int, ...]) -> Tensor:
    """Return how the state differs around each frame, [F, d]."""
    series = (around_each(each, offsets) for each in _by_episode(samples)[1])
    return torch.cat([state_changes(each, offsets).flatten(1) for each in series])


def _by_episode(samples: PolicyWindows) -> tuple[list[Tensor], list[Tensor]]:
    """Return actions and states of each episode."""
    lengths, states = [episode.length for episode in samples.episodes], samples.states
    return list(samples.actions.split(lengths)), [] if states is None else list(states.split(lengths))


def _without_later(
    case: Case, source: PairSource, held_out: list[Episode], known: list[Episode], judge: Callable[[Probe], Score]
) -> ProbeRow:
    """Judge the same network with frames up to the moment only; it is trained, or read from the folder."""
    model, row = case.model, ProbeRow(NO_LATER, "same network, no later frames")
    if not isinstance(model, InverseDynamics):
        return row._replace(not_run=NOT_TRAINED)
    if model.later_frames(source.dataset.fps) == 0:
        return row._replace(not_run="not run: the model itself looks at none")
    if not case.trains_controls:
        return row._replace(not_run=NEEDS_TRAINING)
    offsets = tuple(sorted({-abs(offset) for offset in model.config.offsets}))  # as many, all earlier
    actions = _said_by_trained(case, source, known, held_out, NO_LATER, offsets)
    wanted, fitted = (_taught(model, source, each).actions.double() for each in (held_out, known))
    return row._replace(scores={"linear": judge(score(actions, wanted, fitted))})


def _said_by_trained(
    case: Case, source: PairSource, known: list[Episode], held_out: list[Episode], name: str, offsets: tuple[int, ...]
) -> Tensor:
    """Return the actions [F, m] that the same network infers of held-out episodes, once it is trained on known ones;
    or read them where they are kept."""
    model, numbers = case.model, [[episode.index for episode in episodes] for episodes in (known, held_out)]
    training = ControlTraining.on(case, source.stride, source.cameras, [source.action_key, model.state_key])

    def make() -> dict[str, Tensor]:
        control = _trained(model, source, known, training, offsets)
        found = (_inferred(control, source, *each) for each in _decoded(model, source, held_out))
        return {"actions": torch.cat([torch.as_tensor(each.actions) for each in found])}

    return training.result(name, model, [*map(len, numbers)], make, known=numbers)["actions"].double()


def _trained(
    model: Any, source: PairSource, known: list[Episode], training: ControlTraining, offsets: tuple[int, ...]
) -> InverseDynamics:
    """Train the same network, which looks at other frames, on the known actions alone."""
    seed = training.options.seed
    config = replace(model.config, offsets=offsets, loss_flow=0.0, loss_forward=0.0, loss_reversal=0.0, reversible=0)
    config = replace(config, smooth=0, anchors=(), proprio_map=None)
    sight = {"cameras": source.cameras, "size": config.image_size, "interpolation": config.interpolation}
    gaps = [gap for gap in config.gaps(source.stride) if gap]
    samples = _taught(model, source, known, state_key=model.state_key, gaps=gaps, **sight)
    torch.default_generator.manual_seed(seed)  # `Case.eval_mode` restores the caller's
    control = InverseDynamics(config, model.features)
    control.set_range(samples.known_actions)
    if control.state_normalizer is not None:
        states = samples.proprio(torch.arange(len(samples))).unflatten(1, (len(offsets), -1))
        control.state_normalizer.fit(state_changes(states, offsets).flatten(0, 1))
    drawn = BatchOptions(training.options.batch_size, seed, changes=changes_of(model) or CHANGES)
    batches = PolicyBatches(samples, drawn)
    training.fit("the same network", control, batches, config.loss_weights, model)
    return control
