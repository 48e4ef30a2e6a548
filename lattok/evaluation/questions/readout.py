"""Do the latent actions say what the robot did? Tables, figures and verdicts from the probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation import svg
from lattok.evaluation.evidence.controls import Coordinates, Target
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.mlp_probes import mlp_probes
from lattok.evaluation.evidence.probes import Fold, Probe, decided, linear_probe, merge_folds, one_hot
from lattok.evaluation.evidence.trained_controls import LABELS_ONLY
from lattok.evaluation.report import (
    NEEDS_TRAINING,
    Interval,
    Outcome,
    Pictures,
    Progress,
    Section,
    Table,
    TableRow,
    Verdict,
    percent,
    printed,
)

KINDS = {  # field of `Scores`: prefix of its figures, title of a table, and of a column
    "linear": ("", "linear probe, held-out episodes", "linear"),
    "mlp": ("mlp_", "MLP probe, held-out episodes", "MLP"),
    "task_linear": ("task_", "linear probe, held-out tasks", "linear, new tasks"),
    "task_mlp": ("task_mlp_", "MLP probe, held-out tasks", "MLP, new tasks"),
}
DRAWN = {  # probes in the pictures, under names that fit next to a bar
    "codes": "codes",
    "residual_kmeans": "k-means codes",
    "latents": "latents",
    "pca_change": "frame change",
    LABELS_ONLY: "labels alone",
    "untrained": "untrained",
    "current_frame": "current frame",
}
REFERENCES = (
    "Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes",
    "Hewitt & Liang 2019, Designing and interpreting probes with control tasks",
    "Zhang et al. 2025, What do latent action models actually learn? (the frame change's PCA as what they reduce to)",
    "Nikulin et al. 2025, Latent action learning requires supervision in the presence of distractors",
)
POINTS = 400  # what fits on a page


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
    """All inputs, the model's first; `discrete` is empty for a model without codes."""

    discrete: list[ProbeRow]
    continuous: list[ProbeRow]


class Judge:
    """Fits the probes of one input after another."""

    def __init__(self, evidence: LatentEvidence, target: Target, progress: Progress):
        self.target, self.folds, self.seed = target, evidence.folds.folds, evidence.seed
        self.progress, self.done = progress, 0
        self.total = 17 if evidence.codes is None else 26  # about; the last call says the exact number
        self.everything = (Fold(torch.arange(len(target.train)), torch.arange(len(target.held_out))),)

    def row(
        self, key: str, name: str, rows: Sequence[Tensor], control: bool = True, reference: bool = False
    ) -> ProbeRow:
        """Fit the probes to inputs [n, d] and judge them on [N, d]."""
        linear, mlp = self._both(rows[0], rows[1], self.everything)
        task = self._both(rows[0], rows[1], self.folds) if self.folds else (None, None)
        self.done = min(self.done + 1, self.total - 1)
        self.progress("probes", self.done, self.total)
        return ProbeRow(key, name, Scores(linear, mlp, *task), control, reference)

    def _both(self, x: Tensor, x_test: Tensor, folds: Sequence[Fold]) -> tuple[Probe, Probe]:
        y, groups, y_test = self.target.train, self.target.episodes, self.target.held_out
        linear = [linear_probe(x[f], y[f], groups[f.numpy()], x_test[h], y_test[h]) for f, h in folds]
        hidden = mlp_probes(x, y, groups, x_test, y_test, folds, linear, self.seed)
        return merge_folds(linear, folds), merge_folds(hidden, folds)


def probe_rows(evidence: LatentEvidence, target: Target, progress: Progress) -> ProbeRows:
    """Fit the probes on the model's codes and latents, and those on the controls."""
    judge = Judge(evidence, target, progress)
    own, controls = _model_rows(evidence, judge), _control_rows(evidence, target, judge)
    progress("probes", 1, 1)
    return ProbeRows(own.discrete + controls.discrete, own.continuous + controls.continuous)


def _model_rows(evidence: LatentEvidence, judge: Judge) -> ProbeRows:
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


def _control_rows(evidence: LatentEvidence, target: Target, judge: Judge) -> ProbeRows:
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


def _proprio_rows(evidence: LatentEvidence, judge: Judge) -> list[ProbeRow]:
    train, held_out = evidence.train, evidence.held_out
    if train.state_change is None or held_out.state_change is None:
        return [ProbeRow("proprio", "proprioception at t", None, not_run="not run: the dataset has no states")]
    change = (train.state_change, held_out.state_change)
    name = "change of proprioception (reads the robot's own sensors)"
    return [
        judge.row("proprio", "proprioception at t", (train.states, held_out.states)),
        judge.row("proprio_change", name, change, reference=True),
    ]


class Summary(NamedTuple):
    """R^2 over all dimensions, over x, y, z where there are such, then of each; None where nothing varies."""

    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]


def readout_outcome(evidence: LatentEvidence, progress: Progress) -> Outcome | None:
    """Read the action from the model's codes and latents, and from the controls; None without actions."""
    if evidence.target is None:
        return None
    probes, reader = probe_rows(evidence, evidence.target, progress), _Reader(evidence)
    figures: dict[str, float] = {}
    verdicts: list[Verdict] = []
    tables: list[Table] = []
    for kind, rows in (("codes", probes.discrete), ("latents", probes.continuous)):
        if rows:
            figures.update(reader.figures(kind, rows))
            verdicts += reader.verdicts(kind, rows)
            tables += reader.tables(kind, rows)
    kind = "codes" if probes.discrete else "latents"
    reading = _reading(figures, kind, tables[0].strongest(but=(LABELS_ONLY,)) if tables else None)
    section = Section(
        "Do the latent actions say what the robot did?",
        "Regression from each input to the mean action between the two frames, fitted on the training episodes, "
        "judged on the held-out ones: R² = 1 − squared error ÷ squared distance to the training mean, with 95 % "
        f"intervals over {evidence.bootstrap.count} episodes. Part of every action can be read from the current frame "
        "alone, often most of the gripper: what counts is the gain over the controls, per dimension. "
        f"Held-out tasks: {evidence.folds.text}.",
        tuple(tables),
        _shown(evidence, probes),
        reading,
        REFERENCES,
    )
    return Outcome((section,), figures, verdicts)


def _reading(figures: dict[str, float], kind: str, rival: TableRow | None) -> str:
    """Compare the model with the strongest control in one sentence."""
    if f"r2_from_{kind}/{kind}" not in figures or rival is None:
        return ""
    shares = [percent(figures[f"r2_from_{kind}/{key}"]) for key in (kind, rival.key)]
    text = (
        f"This LAM's {kind} explain {shares[0]} of the action variance on held-out episodes; "
        f"the best control, {rival.name}, {shares[1]}"
    )
    alone = f"r2_from_{kind}/{LABELS_ONLY}"
    text += f", the same encoder trained on labels alone {percent(figures[alone])}" if alone in figures else ""
    if all(f"task_r2_from_{kind}/{key}" in figures for key in (kind, rival.key)):
        parts = (percent(figures[f"task_r2_from_{kind}/{key}"]) for key in (kind, rival.key))
        text += "; on tasks the probe never saw {} against {}".format(*parts)
    return text + "."


class _Reader:
    """Turns probes into numbers, tables and verdicts."""

    def __init__(self, evidence: LatentEvidence):
        self.evidence, self.names, self.space = evidence, evidence.names, evidence.space
        self.columns = ("mean", *(("x, y, z",) if self.space else ()), *self.names)

    def summary(self, probe: Probe) -> Summary:
        """Return scores with their intervals."""
        draws = self.evidence.bootstrap.r2(probe)

        def columns(r2: Tensor) -> list[Tensor]:  # [..., m]
            means = [r2.nanmean(-1), *([r2[..., self.space].nanmean(-1)] if self.space else [])]
            return [*means, *r2.unbind(-1)]

        values = tuple(None if math.isnan(value) else float(value) for value in columns(probe.r2))
        return Summary(values, tuple(self.evidence.bootstrap.interval(column) for column in columns(draws)))

    def figures(self, kind: str, rows: Sequence[ProbeRow]) -> dict[str, float]:
        """Name the figures `r2_from_codes/whose`, with a prefix for the other probes; add intervals of the model."""
        found: dict[str, float] = {}
        for row in rows:
            for field, (prefix, *_) in KINDS.items():
                probe = getattr(row.scores, field, None)
                if probe is None:
                    continue
                summary = self.summary(probe)
                for i, what in enumerate(("r2", "r2_xyz")[: 2 if self.space else 1]):
                    value, interval = summary.values[i], summary.intervals[i]
                    if value is not None:
                        found[f"{prefix}{what}_from_{kind}/{row.key}"] = value
                    if interval is not None and not row.control:
                        found[f"{prefix}{what}_from_{kind}_low/{row.key}"] = interval[0]
                        found[f"{prefix}{what}_from_{kind}_high/{row.key}"] = interval[1]
        return found

    def tables(self, kind: str, rows: Sequence[ProbeRow]) -> list[Table]:
        """Show the linear probe per dimension, all probes over the mean, and the others per dimension, folded."""
        rows = sorted(rows, key=lambda row: row.reference)  # ceilings stand last
        config = self.evidence.model.config
        if kind == "codes":
            name = f"From codes: at most {config.tokens * math.log2(config.codebook_size):.0f} bits per pair"
            note = (
                "Residual k-means has the same number of levels and codes, and no learning; widths are chosen on "
                "training episodes. Current frame and mean action are not limited in bits."
            )
        else:
            name, note = "From continuous latents", "PCA widths are the best of 32, 64 and 128 on training episodes."
        if self.evidence.labels_only is not None:
            note += f" Labels alone: {self.evidence.labels_only.text}."
        first = Table(
            name, self.columns, tuple(self._row(r, "linear") for r in rows), better="higher", digits=".2f", note=note
        )
        fields = [field for field in KINDS if field == "linear" or self._has(rows, field)]
        others = [
            Table(
                f"{name.split(':')[0]}: {KINDS[field][1]}",
                self.columns,
                tuple(self._row(r, field) for r in rows),
                better="higher",
                digits=".2f",
                folded=True,
            )
            for field in fields[1:]
        ]
        return [first, self._overview(name.split(":")[0], rows, fields), *others]

    def _has(self, rows: Sequence[ProbeRow], field: str) -> bool:
        return any(getattr(row.scores, field, None) is not None for row in rows)

    def _overview(self, name: str, rows: Sequence[ProbeRow], fields: Sequence[str]) -> Table:
        lines = []
        for row in rows:
            found = [self.summary(getattr(row.scores, f)) for f in fields] if row.scores is not None else []
            values = tuple(s.values[0] for s in found)
            spans = tuple(s.intervals[0] for s in found)
            lines.append(TableRow(row.key, row.name, values, row.control, row.reference, row.not_run, spans))
        note = (
            "Mean over all dimensions. The MLP is the linear probe plus one hidden layer (16 or 64 units), width and "
            "weight decay chosen on training episodes; where the layer does not help there, it is left out. "
            f"Held-out tasks, {self.evidence.folds.text}; the model and unsupervised controls may have seen them."
        )
        columns = tuple(KINDS[field][2] for field in fields)
        return Table(f"{name}: every probe", columns, tuple(lines), better="higher", digits=".2f", note=note)

    def _row(self, row: ProbeRow, field: str) -> TableRow:
        probe = getattr(row.scores, field, None)
        values, intervals = ((), ()) if probe is None else self.summary(probe)
        return TableRow(row.key, row.name, values, row.control, row.reference, row.not_run, intervals)

    def verdicts(self, kind: str, rows: Sequence[ProbeRow]) -> list[Verdict]:
        """Judge the model's first row against the best control, and against labels alone where that was run."""
        found = [self._best(kind, rows, "linear", 0, "all dimensions", f"{kind}_against_controls")]
        if self.space:
            found.append(self._best(kind, rows, "linear", 1, "x, y, z", f"{kind}_against_controls_xyz"))
        over = "all dimensions with MLP probes"
        found.append(self._best(kind, rows, "mlp", 0, over, f"{kind}_against_controls_mlp"))
        if self._has(rows, "task_linear"):
            over = "all dimensions on tasks the probe never saw"
            found.append(self._best(kind, rows, "task_linear", 0, over, f"{kind}_new_tasks"))
        alone = next(row for row in rows if row.key == LABELS_ONLY)
        if alone.scores is not None:
            what = f"{kind} over all dimensions"
            found.append(self._compare(what, rows[0], alone, "linear", 0, f"{kind}_against_labels_alone"))
        return [verdict for verdict in found if verdict is not None]

    def _best(
        self, kind: str, rows: Sequence[ProbeRow], field: str, column: int, over: str, key: str
    ) -> Verdict | None:
        rivals = [row for row in rows if row.control and not row.reference and row.scores and row.key != LABELS_ONLY]
        scored = [(value, i) for i, row in enumerate(rivals) if (value := self._value(row, field, column)) is not None]
        if not scored:
            return None
        best = rivals[max(scored)[1]]
        return self._compare(f"{kind} over {over}", rows[0], best, field, column, key, "the best control, ")

    def _value(self, row: ProbeRow, field: str, column: int) -> float | None:
        probe = getattr(row.scores, field, None)
        return None if probe is None else self.summary(probe).values[column]

    def _compare(
        self, what: str, own: ProbeRow, other: ProbeRow, field: str, column: int, key: str, title: str = ""
    ) -> Verdict | None:
        """Compare two rows, with the interval of their difference over the same draws of episodes."""
        values = [self._value(row, field, column) for row in (own, other)]
        if values[0] is None or values[1] is None:
            return None
        draws = [self.evidence.bootstrap.r2(getattr(row.scores, field)) for row in (own, other)]
        picked = self.space if column == 1 else slice(None)
        span = self.evidence.bootstrap.interval((draws[0] - draws[1])[:, picked].nanmean(1))
        gain = values[0] - values[1]
        holds = decided(gain, span)
        word = {None: "within the noise of", True: "above", False: "not above"}[holds] if span else "to compare with"
        between = "; one episode has no interval"
        if span is not None:
            between = "; difference {} … {}".format(*(printed(end, "+.2f") for end in span))
        numbers = f"R² {printed(values[0], '.2f')} is {word} {printed(values[1], '.2f')}"
        text = f"{what[:1].upper()}{what[1:]}: {numbers}, {title}{other.name}{between}"
        return Verdict(text, holds, key)


def _shown(evidence: LatentEvidence, probes: ProbeRows) -> tuple[Pictures, ...]:
    discrete, continuous = probes
    codes = [row for row in discrete if row.key in ("codes", "residual_kmeans")]
    drawn = [
        (DRAWN[row.key], _colour(row), row.scores.linear.r2.tolist())
        for row in (*codes, *continuous)
        if row.key in DRAWN and row.scores is not None
    ]
    panels = svg.bars_per_dimension(evidence.names, drawn, ".2f")
    shown = [Pictures("Held-out R² of linear probes per action dimension; longer is better.", panels)]
    first = (discrete or continuous)[0]
    if first.scores is not None and evidence.target is not None:
        shown.append(_probe_scatter(evidence.names, first.scores.linear.predicted, evidence.target.held_out))
    return tuple(shown)


def _colour(row: ProbeRow) -> str:
    if not row.control:
        return "model"
    return "rival" if row.key == "residual_kmeans" else "control"


def _probe_scatter(names: Sequence[str], predicted: Tensor, actual: Tensor) -> Pictures:
    """Draw the predicted against the true mean action [N, m], one panel per dimension."""
    chosen = torch.linspace(0, len(actual) - 1, min(POINTS, len(actual))).round().long()
    panels = [
        svg.scatter(name, actual[chosen, i].tolist(), predicted[chosen, i].tolist(), ("true", "from the codes"))
        for i, name in enumerate(names[: svg.PANELS])
    ]
    return Pictures("Mean action over the gap, read from the one-hot codes of held-out pairs.", tuple(panels))
