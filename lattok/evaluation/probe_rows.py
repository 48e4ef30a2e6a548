"""Which inputs are probed: the model's codes and latents, and the controls that stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.controls import Coordinates, Target
from lattok.evaluation.latent import Evidence
from lattok.evaluation.mlp import mlp_probes
from lattok.evaluation.probes import Fold, Probe, merged, one_hot, probe
from lattok.evaluation.report import NEEDS_TRAINING, Progress

LABELS_ONLY = "labels_only"
CONTINUOUS = "codes: none, this model's latents are continuous"


class Scores(NamedTuple):
    """Both probes, on held-out episodes and on held-out tasks (None where there is one task)."""

    linear: Probe
    mlp: Probe
    task_linear: Probe | None
    task_mlp: Probe | None


class ProbeRow(NamedTuple):
    """An input under the name it has on the page, and how much of the action was read from it."""

    key: str
    name: str
    scores: Scores | None
    control: bool = True
    reference: bool = False
    not_run: str = ""


class ProbeRows(NamedTuple):
    """All inputs, the model's first; `discrete` is empty for a model without codes, both without actions."""

    discrete: list[ProbeRow]
    continuous: list[ProbeRow]


class Judge:
    """Fits the probes of one input after the other."""

    def __init__(self, evidence: Evidence, target: Target, progress: Progress):
        self.target, self.folds, self.seed = target, evidence.folds.folds, evidence.seed
        self.progress, self.done = progress, 0
        self.total = 17 if evidence.codes is None else 26  # about; the last call says the exact number
        self.everything = (Fold(torch.arange(len(target.train)), torch.arange(len(target.held_out))),)

    def row(
        self, key: str, name: str, rows: Sequence[Tensor], control: bool = True, reference: bool = False
    ) -> ProbeRow:
        """From inputs [n, d] and [N, d]."""
        linear, mlp = self._both(rows[0], rows[1], self.everything)
        task = self._both(rows[0], rows[1], self.folds) if self.folds else (None, None)
        self.done = min(self.done + 1, self.total - 1)
        self.progress("probes", self.done, self.total)
        return ProbeRow(key, name, Scores(linear, mlp, *task), control, reference)

    def _both(self, x: Tensor, x_test: Tensor, folds: Sequence[Fold]) -> tuple[Probe, Probe]:
        y, groups, y_test = self.target.train, self.target.episodes, self.target.held_out
        linear = [probe(x[f], y[f], groups[f.numpy()], x_test[h], y_test[h]) for f, h in folds]
        hidden = mlp_probes(x, y, groups, x_test, y_test, folds, linear, self.seed)
        return merged(linear, folds), merged(hidden, folds)


def probe_rows(evidence: Evidence, progress: Progress) -> ProbeRows:
    """Fit the probes on the model's codes and latents, and those on the controls."""
    if evidence.target is None:
        return ProbeRows([], [])
    judge = Judge(evidence, evidence.target, progress)
    own, controls = _model_rows(evidence, judge), _control_rows(evidence, evidence.target, judge)
    progress("probes", 1, 1)
    return ProbeRows(own.discrete + controls.discrete, own.continuous + controls.continuous)


def _model_rows(evidence: Evidence, judge: Judge) -> ProbeRows:
    train, held_out, size = evidence.train.latents, evidence.held_out.latents, evidence.size

    def on(key: str, name: str, pick: Callable[[Any], Tensor]) -> ProbeRow:
        return judge.row(key, name, (pick(train), pick(held_out)), control=False)

    discrete = []
    continuous = [on("latents", "latents before quantization", lambda x: x.latents.flatten(1))]
    if evidence.codes is not None:
        discrete.append(on("codes", "one-hot codes", lambda x: one_hot(x.codes, size)))
        discrete.append(on("quantized", "quantized vectors", lambda x: x.quantized.flatten(1)))
    if held_out.env is not None:
        continuous.append(on("env_latents", "environment latents", lambda x: x.env.latents.flatten(1)))
    if held_out.env is not None and evidence.codes is not None:
        discrete.append(
            on("env_codes", "environment codes, one-hot", lambda x: one_hot(x.env.codes, evidence.env_size))
        )
    return ProbeRows(discrete, continuous)


def _control_rows(evidence: Evidence, target: Target, judge: Judge) -> ProbeRows:
    train, held_out, change, alone = evidence.train, evidence.held_out, evidence.change, evidence.labels_only
    scene = Coordinates.fit(train.now, held_out.now)
    scene_width, width, flow_width = (x.best_size(target) for x in (scene, change, evidence.flow))
    equal = min(train.latents.latents.flatten(1).shape[1], change.train.shape[1])
    unlimited = [
        judge.row("current_frame", f"current frame only (PCA {scene_width})", scene.first(scene_width)),
        judge.row("mean", "mean action", (torch.zeros(len(train.rows), 1), torch.zeros(len(held_out.rows), 1))),
    ]
    not_run = ProbeRow(LABELS_ONLY, "same encoder, labels alone", None, not_run=NEEDS_TRAINING)
    labelled = [not_run, not_run]
    if alone is not None:
        codes = [one_hot(x, evidence.size) for x in (alone.train_codes, alone.held_out_codes)]
        labelled = [
            judge.row(LABELS_ONLY, "same encoder, labels alone", rows)
            for rows in (codes, (alone.train_latents, alone.held_out_latents))
        ]
    discrete = []
    if evidence.codes is not None:
        made = evidence.codes
        for key, control in (
            ("residual_kmeans", made.kmeans),
            ("flow_kmeans", made.flow),
            ("untrained", made.untrained),
        ):
            rows = [one_hot(x, evidence.size) for x in (control.train, control.held_out)]
            discrete.append(judge.row(key, control.name, rows))
        discrete += [labelled[0], *unlimited]
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
    return ProbeRows(discrete, continuous)


def _proprio_rows(evidence: Evidence, judge: Judge) -> list[ProbeRow]:
    train, held_out = evidence.train, evidence.held_out
    if train.state_change is None or held_out.state_change is None:
        return [ProbeRow("proprio", "proprioception at t", None, not_run="not run: the dataset has no states")]
    change = (train.state_change, held_out.state_change)
    name = "change of proprioception (reads the robot's own sensors)"
    return [
        judge.row("proprio", "proprioception at t", (train.states, held_out.states)),
        judge.row("proprio_change", name, change, reference=True),
    ]
