"""What linear probes read of the action from a model's codes and latents, and from the controls of either.

Two controls are made of the labels themselves:

another episode's   the label at the same share of another episode of the task, of training     task and moment alone
the label before    of the latest pair that ends where this one begins, zeros without one       what is past alone
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lattok.data.instructions import task_group
from lattok.evaluation.evidence import Case
from lattok.evaluation.evidence.pair_set import PairSet, PairSource
from lattok.evaluation.evidence.probes import Bootstrap, Fold, Probe, linear_probe, merge_folds, one_hot, score
from lattok.evaluation.evidence.trained_controls import LABELS_ONLY, NO_LATER
from lattok.evaluation.evidence.unlearned import CodeStream, Coordinates, Target
from lattok.evaluation.report import Interval, TableRow
from lattok.evaluation.wording import NEEDS_TRAINING, NO_START, NOT_TRAINED
from lattok.labels import GivenLabels

PREFIXES = {"linear": "", "task_linear": "task_"}  # of figures, by kind of probe: all held-out episodes, new tasks
OWN = {  # what is read of the model itself
    "codes": "one-hot codes",
    "env_codes": "environment codes, one-hot",
    "latents": "latents before quantization",
    "env_latents": "environment latents",
}
OTHER_EPISODE = "other_episode"
OF_LABELS = {  # controls that are made of the labels
    OTHER_EPISODE: "labels of another episode, same task and moment",
    "label_before": "label of the pair before",
}
APART = (LABELS_ONLY, NO_LATER, *OF_LABELS)  # controls that say something else than whether to take the model
NO_STATES = "not run: no state was read (state_key)"
MOMENT = "moment"  # task and share of the episode that has passed
AS_THEY_ARE = "as_actions"  # labels as wide as actions, of one frame each, compared without a probe
PLAIN = {  # controls in words for a reader who has not met them, and in such that fit next to a bar
    "residual_kmeans": ("simple clustering of frame changes", "frame clusters"),
    "flow_kmeans": ("simple motion clustering", "motion clusters"),
    "untrained": ("the same network untrained", "untrained"),
    "current_frame": ("a single frame", "one frame"),
    "mean": ("the mean action", "best control"),
    "pca_change": ("the raw frame change", "frame change"),
    "pca_change_equal_width": ("the raw frame change at equal width", "best control"),
    "pca_flow": ("raw block motion", "block motion"),
    "flow": ("raw block motion", "block motion"),
    "proprio": ("the robot's current state", "state alone"),
    "proprio_map": ("a map of its state changes", "state changes"),
    LABELS_ONLY: ("the same encoder trained on labels alone", "labels alone"),
    NO_LATER: ("the same network without later frames", "no later frames"),
    OTHER_EPISODE: ("those of another episode of the task at the same moment", "another episode"),
    MOMENT: ("the task and the moment alone", "task, moment"),
}


class Probed(Protocol):
    """What is read of `LatentEvidence`, which imports this module."""

    @property
    def case(self) -> Case: ...
    @property
    def model(self) -> Any: ...
    @property
    def source(self) -> PairSource: ...
    @property
    def train(self) -> PairSet: ...
    @property
    def held_out(self) -> PairSet: ...
    @property
    def change(self) -> Coordinates: ...
    @property
    def flow(self) -> Coordinates: ...
    @property
    def codes(self) -> Mapping[str, CodeStream]: ...
    @property
    def inputs(self) -> Mapping[str, Callable[[Any], Tensor]]: ...
    @property
    def folds(self) -> tuple[list[Fold], str]: ...
    @property
    def bootstrap(self) -> Bootstrap: ...
    @property
    def space(self) -> list[int]: ...
    @property
    def size(self) -> int: ...
    @property
    def labels_only(self) -> tuple[dict[str, Tensor], str] | None: ...


class Score(NamedTuple):
    """A probe and its R^2: over all dimensions, over x, y, z where there are such, of each; None: nothing varies."""

    probe: Probe
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]

    @classmethod
    def of(cls, probe: Probe, bootstrap: Bootstrap, space: list[int]) -> "Score":
        """Score a probe on the rows that `bootstrap` draws from; `space`: which dimensions are x, y, z."""

        def columns(r2: Tensor) -> list[Tensor]:  # [..., m]
            return [r2.nanmean(-1), *([r2[..., space].nanmean(-1)] if space else []), *r2.unbind(-1)]

        values = tuple(None if math.isnan(value) else float(value) for value in columns(probe.r2))
        return cls(probe, values, tuple(map(bootstrap.interval, columns(bootstrap.r2(probe)))))


class ProbeRow(NamedTuple):
    """An input under the name it has on the page, and how much of the action was read from it."""

    key: str
    name: str
    scores: Mapping[str, Score] = {}  # by `PREFIXES`: the last where there are several tasks, none where it was not run
    control: bool = True
    reference: bool = False
    not_run: str = ""

    @property
    def plain(self) -> str:
        return PLAIN[self.key][0] if self.key in PLAIN else self.name

    @property
    def short(self) -> str:
        return PLAIN[self.key][1] if self.key in PLAIN else "best control"

    def value(self, kind: str, column: int) -> float | None:
        return self.scores[kind].values[column] if kind in self.scores else None

    def shown(self, kind: str) -> TableRow:
        """Return the line of a table with one kind of probe per dimension."""
        _, values, intervals = self.scores.get(kind, (None, (), ()))
        return TableRow(self.key, self.name, values, self.control, self.reference, self.not_run, intervals)


Input = tuple[ProbeRow, Sequence[Tensor]]  # a row without scores; what probes read on both splits, [n, d] and [N, d]


def probe_rows(evidence: Probed, target: Target) -> dict[str, list[ProbeRow]]:
    """Fit the probes of `LatentEvidence` on the model's codes, if it has any, and latents, and on the controls of
    either, which follow."""
    both, picks, asked = (evidence.train, evidence.held_out), evidence.inputs, _controls(evidence, target)
    given = isinstance(evidence.model, GivenLabels)
    named = {key: ProbeRow(key, "labels" if given else OWN[key], control=False) for key in OWN if key in picks}
    own = [(row, [picks[key](pairs.latents) for pairs in both]) for key, row in named.items()]
    for kind, inputs in asked.items():
        inputs[:0] = [each for each in own if (kind == "latents") == ("latents" in each[0].key)]
    every = {id(each): each for inputs in asked.values() for each in inputs}  # some stand in both tables
    rows: dict[int, ProbeRow] = {}
    for number, (row, inputs) in every.items():
        rows[number] = row if row.not_run else row._replace(scores=_scores(evidence, target, inputs))
        evidence.case.options.note("probes", len(rows), len(every))
    found = {kind: [rows[id(each)] for each in inputs] for kind, inputs in asked.items()}
    if (known := _as_they_are(evidence, target)) is not None:
        found["latents"].insert(1, known)
    return found


def _as_they_are(evidence: Probed, target: Target) -> ProbeRow | None:
    """Compare given labels with actions as they are, without a probe, where they have the same number of dimensions."""
    labels = evidence.held_out.latents.latents.flatten(1).double()
    if (
        not isinstance(evidence.model, GivenLabels)
        or labels.shape[1] != target.held_out.shape[1]
        or evidence.source.stride > 1
    ):
        return None
    probe = score(labels, target.held_out.double(), target.train.double())
    scores = {"linear": Score.of(probe, evidence.bootstrap, evidence.space)}
    return ProbeRow(AS_THEY_ARE, "labels as they are, without a probe", scores, control=False)


def _scores(evidence: Probed, target: Target, rows: Sequence[Tensor]) -> dict[str, Score]:
    """Fit the probes of an input on [n, d] and judge them on [N, d]."""
    (x, x_test), y, groups, y_test = rows, target.train, target.episodes, target.held_out
    found = {"linear": target.probe(*rows)}
    if folds := evidence.folds[0]:
        parts = [linear_probe(x[f], y[f], groups[f.numpy()], x_test[h], y_test[h]) for f, h in folds]
        found["task_linear"] = merge_folds(parts, folds)
    return {kind: Score.of(probe, evidence.bootstrap, evidence.space) for kind, probe in found.items()}


def rivals_of(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """List the controls that the model is asked to beat: what learned nothing, or sees less."""
    return [row for row in rows if row.control and not row.reference and row.key not in APART]


def strongest(rows: Sequence[ProbeRow], probe: str, column: int = 0) -> ProbeRow | None:
    """Find the row with the largest R^2, of equals the last; None where none has any."""
    scored = [(value, i) for i, row in enumerate(rows) if (value := row.value(probe, column)) is not None]
    return rows[max(scored)[1]] if scored else None


def _controls(evidence: Probed, target: Target) -> dict[str, list[Input]]:
    train, held_out, change = evidence.train, evidence.held_out, evidence.change
    scene = Coordinates.fit(train.now, held_out.now)
    scene_width, width, flow_width = (x.best_size(target) for x in (scene, change, evidence.flow))
    equal = max(1, min(train.latents.latents.flatten(1).shape[1], change.train.shape[1]))
    unlimited: list[Input] = [
        (ProbeRow("current_frame", f"current frame only (PCA {scene_width})"), scene.first(scene_width)),
        (ProbeRow("mean", "mean action"), [torch.zeros(len(x.rows), 1) for x in (train, held_out)]),
    ]
    row = ProbeRow(LABELS_ONLY, "same encoder, labels alone")
    reason = NEEDS_TRAINING if train.sight.model is not None else NOT_TRAINED
    labelled: list[Input] = [(row._replace(not_run=reason), ())] * 2
    if evidence.labels_only is not None:
        alone, _ = evidence.labels_only
        codes = [one_hot(alone[name], alone["train_codes"]) for name in ("train_codes", "held_out_codes")]
        labelled = [(row, codes), (row, (alone["train_latents"], alone["held_out_latents"]))]
    discrete: list[Input] = [(ProbeRow(stream.key, stream.name), stream.one_hot) for stream in evidence.codes.values()]
    fresh: Input = (ProbeRow("untrained", "untrained model, latents", not_run=NO_START), ())
    if train.untrained is not None and held_out.untrained is not None:
        fresh = (fresh[0]._replace(not_run=""), [x.latents.flatten(1) for x in (train.untrained, held_out.untrained)])
    elif discrete:
        discrete.append((fresh[0]._replace(name="untrained model, codes by k-means"), ()))
    continuous: list[Input] = [
        (ProbeRow("pca_change", f"raw frame change (PCA {width})"), change.first(width)),
        (ProbeRow("pca_change_equal_width", f"raw frame change at equal width (PCA {equal})"), change.first(equal)),
        (ProbeRow("pca_flow", f"block flow (PCA {flow_width})"), evidence.flow.first(flow_width)),
        fresh,
        labelled[1],
    ]
    row = ProbeRow("proprio", "proprioception at t")
    if train.state_change is None or held_out.state_change is None:
        continuous.append((row._replace(not_run=NO_STATES), ()))
    else:
        moved = ProbeRow("proprio_change", "change of proprioception (reads the robot's own sensors)", reference=True)
        continuous += [(row, (train.states, held_out.states)), (moved, (train.state_change, held_out.state_change))]
    picks, kinds = evidence.inputs, {"codes": [*discrete, labelled[0]], "latents": continuous}
    found = dict[str, list[Input]]()
    for kind, rows in kinds.items():
        if kind in picks:
            labels = picks[kind](train.latents), picks[kind](held_out.latents)
            found[kind] = [*rows, *unlimited, *_of_labels(evidence, *labels)]
    return found


def _of_labels(evidence: Probed, train: Tensor, held_out: Tensor) -> list[Input]:
    """Make the controls that are made of the labels themselves, [n, d] and [N, d]."""
    splits = {id(evidence.train): train, id(evidence.held_out): held_out}
    others = [train[_partners(evidence, pairs)] for pairs in (evidence.train, evidence.held_out)]
    before = [_before(pairs, splits[id(pairs)]) for pairs in (evidence.train, evidence.held_out)]
    return [(ProbeRow(*named), inputs) for named, inputs in zip(OF_LABELS.items(), (others, before), strict=True)]


def _partners(evidence: Probed, pairs: PairSet) -> Tensor:
    """Find for each pair a training pair of the next other episode of its task, at the same share of it; of any task
    where there is no other."""
    task_of = {episode.index: task_group(episode) for episode in evidence.case.dataset.episodes}
    places = {
        int(index): np.flatnonzero(evidence.train.episode_of == index) for index in np.unique(evidence.train.episode_of)
    }
    found = np.empty(len(pairs.rows), dtype=np.int64)
    for episode in np.unique(pairs.episode_of).tolist():
        others = [index for index in places if index != episode] or [*places]
        others = [index for index in others if task_of[index] == task_of[episode]] or others
        there = places[next((index for index in others if index > episode), others[0])]
        here = np.flatnonzero(pairs.episode_of == episode)
        found[here] = there[np.linspace(0, len(there) - 1, len(here)).round().astype(np.int64)]
    return torch.from_numpy(found)


def _before(pairs: PairSet, labels: Tensor) -> Tensor:
    """Take for each pair the label [n, d] of the latest one of its episode that ends where it begins, or earlier."""
    first, episodes = pairs.frames.first[pairs.rows], pairs.episode_of
    last = np.searchsorted(first, first - pairs.frames.stride, side="right") - 1
    known = (last >= 0) & (episodes[last] == episodes)
    return labels[torch.from_numpy(np.where(known, last, 0))] * torch.from_numpy(known)[:, None]
