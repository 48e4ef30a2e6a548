"""What linear and MLP probes read of the action from a model's codes and latents, and from the controls of either."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import Coordinates, LatentEvidence, Target
from lattok.evaluation.evidence.probes import Fold, Probe, linear_probe, merge_folds, mlp_probes, one_hot
from lattok.evaluation.evidence.trained_controls import LABELS_ONLY
from lattok.evaluation.report import NEEDS_TRAINING, Interval, TableRow

KINDS = {  # of probes: prefix of its figures, title of a table, and of a column
    "linear": ("", "linear probe, held-out episodes", "linear"),
    "mlp": ("mlp_", "MLP probe, held-out episodes", "MLP"),
    "task_linear": ("task_", "linear probe, held-out tasks", "linear, new tasks"),
    "task_mlp": ("task_mlp_", "MLP probe, held-out tasks", "MLP, new tasks"),
}
OWN = {  # what is read of the model itself
    "codes": "one-hot codes",
    "quantized": "quantized vectors",
    "env_codes": "environment codes, one-hot",
    "latents": "latents before quantization",
    "env_latents": "environment latents",
}


class Score(NamedTuple):
    """A probe and its R^2: over all dimensions, over x, y, z where there are such, of each; None: nothing varies."""

    probe: Probe
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]


class ProbeRow(NamedTuple):
    """An input under the name it has on the page, and how much of the action was read from it."""

    key: str
    name: str
    scores: dict[str, Score]  # by `KINDS`: the last two where there are several tasks, none where it was not run
    control: bool = True
    reference: bool = False
    not_run: str = ""

    def value(self, kind: str, column: int) -> float | None:
        """Return one R^2; None where there is none."""
        return self.scores[kind].values[column] if kind in self.scores else None

    def shown(self, kind: str) -> TableRow:
        """Return the line of a table with one kind of probe per dimension."""
        _, values, intervals = self.scores.get(kind, (None, (), ()))
        return TableRow(self.key, self.name, values, self.control, self.reference, self.not_run, intervals)

    def overview(self) -> TableRow:
        """Return the line of a table with every kind of probe, over all dimensions."""
        means, spans = ([score[i][0] for score in self.scores.values()] for i in (1, 2))
        return replace(self.shown(""), values=tuple(means), intervals=tuple(spans))


class Prober:
    """Fits the probes of one input after another."""

    def __init__(self, evidence: LatentEvidence, target: Target, hidden: bool = True):
        self.evidence, self.target, self.done = evidence, target, 0
        self.kinds = [kind for kind in KINDS if hidden or "mlp" not in kind]
        self.total = 26 if evidence.codes else 17  # about; the last call says the exact number
        self.everything = (Fold(torch.arange(len(target.train)), torch.arange(len(target.held_out))),)

    def row(
        self, key: str, name: str, rows: Sequence[Tensor], control: bool = True, reference: bool = False
    ) -> ProbeRow:
        """Fit the probes to inputs [n, d] and judge them on [N, d]."""
        folds = self.evidence.folds.folds
        probes = [*self._fitted(rows, self.everything), *(self._fitted(rows, folds) if folds else ())]
        self.done = min(self.done + 1, self.total - 1)
        self.evidence.case.options.note("probes", self.done, self.total)
        scores = {kind: self._score(probe) for kind, probe in zip(self.kinds, probes, strict=False)}
        return ProbeRow(key, name, scores, control, reference)

    def _fitted(self, rows: Sequence[Tensor], folds: Sequence[Fold]) -> list[Probe]:
        (x, x_test), (y, groups, y_test) = rows, (self.target.train, self.target.episodes, self.target.held_out)
        linear = [linear_probe(x[f], y[f], groups[f.numpy()], x_test[h], y_test[h]) for f, h in folds]
        found = [linear]
        if "mlp" in self.kinds:
            found.append(mlp_probes(x, y, groups, x_test, y_test, folds, linear, self.evidence.seed))
        return [merge_folds(probes, folds) for probes in found]

    def _score(self, probe: Probe) -> Score:
        space, bootstrap = self.evidence.space, self.evidence.bootstrap

        def columns(r2: Tensor) -> list[Tensor]:  # [..., m]
            return [r2.nanmean(-1), *([r2[..., space].nanmean(-1)] if space else []), *r2.unbind(-1)]

        values = tuple(None if math.isnan(value) else float(value) for value in columns(probe.r2))
        return Score(probe, values, tuple(map(bootstrap.interval, columns(bootstrap.r2(probe)))))


def probe_rows(evidence: LatentEvidence, target: Target, hidden: bool = True) -> dict[str, list[ProbeRow]]:
    """Fit the probes on the model's codes, if it has any, and latents, and on the controls of either, which follow.

    Without `hidden` only linear ones.
    """
    judge, train = Prober(evidence, target, hidden), evidence.train.latents
    held_out = evidence.held_out.latents
    found: dict[str, list[ProbeRow]] = {"codes": [], "latents": []}
    for key, name in OWN.items():
        if (pick := evidence.inputs.get(key)) is not None:
            kind = "latents" if "latents" in key else "codes"
            found[kind].append(judge.row(key, name, (pick(train), pick(held_out)), control=False))
    for kind, rows in _control_rows(evidence, target, judge).items():
        found[kind] += rows
    evidence.case.options.note("probes", 1, 1)
    return {kind: rows for kind, rows in found.items() if rows}


def rivals_of(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """List the controls that the model is asked to beat."""
    return [row for row in rows if row.control and not row.reference and row.key != LABELS_ONLY]


def strongest(rows: Sequence[ProbeRow], probe: str, column: int = 0) -> ProbeRow | None:
    """Find the row with the largest R^2, of equals the last; None where none has any."""
    scored = [(value, i) for i, row in enumerate(rows) if (value := row.value(probe, column)) is not None]
    return rows[max(scored)[1]] if scored else None


def _control_rows(evidence: LatentEvidence, target: Target, judge: Prober) -> dict[str, list[ProbeRow]]:
    train, held_out, change, alone = evidence.train, evidence.held_out, evidence.change, evidence.labels_only
    scene = Coordinates.fit(train.now, held_out.now)
    scene_width, width, flow_width = (x.best_size(target) for x in (scene, change, evidence.flow))
    equal = min(train.latents.latents.flatten(1).shape[1], change.train.shape[1])
    unlimited = [
        judge.row("current_frame", f"current frame only (PCA {scene_width})", scene.first(scene_width)),
        judge.row("mean", "mean action", (torch.zeros(len(train.rows), 1), torch.zeros(len(held_out.rows), 1))),
    ]
    labelled = [ProbeRow(LABELS_ONLY, "same encoder, labels alone", {}, not_run=NEEDS_TRAINING)] * 2
    if alone is not None:
        codes = [one_hot(x, evidence.size) for x in (alone.train_codes, alone.held_out_codes)]
        labelled = [
            judge.row(LABELS_ONLY, "same encoder, labels alone", rows)
            for rows in (codes, (alone.train_latents, alone.held_out_latents))
        ]
    discrete = [judge.row(stream.key, stream.name, stream.one_hot) for stream in evidence.codes.values()]
    fresh = [x.untrained.latents.flatten(1) for x in (train, held_out)]
    continuous = [
        judge.row("pca_change", f"raw frame change (PCA {width})", change.first(width)),
        judge.row("pca_change_equal_width", f"raw frame change at equal width (PCA {equal})", change.first(equal)),
        judge.row("pca_flow", f"block flow (PCA {flow_width})", evidence.flow.first(flow_width)),
        judge.row("untrained", "untrained model, latents", fresh),
        labelled[1],
        *_proprio_rows(evidence, judge),
        *unlimited,
    ]
    return {"codes": [*discrete, labelled[0], *unlimited] if discrete else [], "latents": continuous}


def _proprio_rows(evidence: LatentEvidence, judge: Prober) -> list[ProbeRow]:
    train, held_out = evidence.train, evidence.held_out
    if train.state_change is None or held_out.state_change is None:
        return [ProbeRow("proprio", "proprioception at t", {}, not_run="not run: the dataset has no states")]
    change = (train.state_change, held_out.state_change)
    name = "change of proprioception (reads the robot's own sensors)"
    return [
        judge.row("proprio", "proprioception at t", (train.states, held_out.states)),
        judge.row("proprio_change", name, change, reference=True),
    ]
