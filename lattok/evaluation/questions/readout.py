"""Do the latent actions say what the robot did? Tables, figures and verdicts from the probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
    ONE_EPISODE,
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

KINDS = {  # of probes: prefix of its figures, title of a table, and of a column
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
OWN = {  # what is read of the model itself
    "codes": "one-hot codes",
    "quantized": "quantized vectors",
    "env_codes": "environment codes, one-hot",
    "latents": "latents before quantization",
    "env_latents": "environment latents",
}
COMPARED = (  # with the best control: probe, column, what the verdict says and its key
    ("linear", 0, "all dimensions", "against_controls"),
    ("linear", 1, "x, y, z", "against_controls_xyz"),
    ("mlp", 0, "all dimensions with MLP probes", "against_controls_mlp"),
    ("task_linear", 0, "all dimensions on tasks the probe never saw", "new_tasks"),
)


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


class Judge:
    """Fits the probes of one input after another."""

    def __init__(self, evidence: LatentEvidence, target: Target, progress: Progress, hidden: bool = True):
        self.evidence, self.target, self.progress, self.done = evidence, target, progress, 0
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
        self.progress("probes", self.done, self.total)
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


def probe_rows(
    evidence: LatentEvidence, target: Target, progress: Progress, hidden: bool = True
) -> dict[str, list[ProbeRow]]:
    """Fit the probes on the model's codes and latents, and on the controls of either, which follow.

    Without `hidden` only linear ones.
    """
    judge, train = Judge(evidence, target, progress, hidden), evidence.train.latents
    held_out = evidence.held_out.latents
    found: dict[str, list[ProbeRow]] = {"codes": [], "latents": []}
    for key, name in OWN.items():
        if (pick := evidence.inputs.get(key)) is not None:
            kind = "latents" if "latents" in key else "codes"
            found[kind].append(judge.row(key, name, (pick(train), pick(held_out)), control=False))
    for kind, rows in _control_rows(evidence, target, judge).items():
        found[kind] += rows
    progress("probes", 1, 1)
    return found


def _control_rows(evidence: LatentEvidence, target: Target, judge: Judge) -> dict[str, list[ProbeRow]]:
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


def _proprio_rows(evidence: LatentEvidence, judge: Judge) -> list[ProbeRow]:
    train, held_out = evidence.train, evidence.held_out
    if train.state_change is None or held_out.state_change is None:
        return [ProbeRow("proprio", "proprioception at t", {}, not_run="not run: the dataset has no states")]
    change = (train.state_change, held_out.state_change)
    name = "change of proprioception (reads the robot's own sensors)"
    return [
        judge.row("proprio", "proprioception at t", (train.states, held_out.states)),
        judge.row("proprio_change", name, change, reference=True),
    ]


def readout_outcome(evidence: LatentEvidence, progress: Progress) -> Outcome | None:
    """Read the action from the model's codes and latents, and from the controls; None without actions."""
    if evidence.target is None:
        return None
    probes = {kind: rows for kind, rows in probe_rows(evidence, evidence.target, progress).items() if rows}
    figures: dict[str, float] = {}
    verdicts: list[Verdict] = []
    tables: list[Table] = []
    for kind, rows in probes.items():
        figures.update(readout_figures(evidence, kind, rows))
        verdicts += readout_verdicts(evidence, kind, rows)
        tables += _tables(evidence, kind, rows)
    reading = _reading(figures, next(iter(probes)), tables[0].strongest(but=(LABELS_ONLY,)))
    section = Section(
        "Do the latent actions say what the robot did?",
        "Regression from each input to the mean action between the two frames, fitted on the training episodes, "
        "judged on the held-out ones: R² = 1 − squared error ÷ squared distance to the training mean, with 95 % "
        f"intervals over {evidence.bootstrap.count} episodes. Part of every action can be read from the current frame "
        "alone, often most of the gripper: what counts is the gain over the controls, per dimension. "
        f"Held-out tasks: {evidence.folds.text}.",
        tuple(tables),
        _shown(evidence.names, probes, evidence.target.held_out),
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


def readout_figures(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow]) -> dict[str, float]:
    """Name the figures `r2_from_codes/whose`, with a prefix for the other probes; add intervals of the model."""
    found: dict[str, float] = {}
    for row in rows:
        for probe, score in row.scores.items():
            for i, what in enumerate(("r2", "r2_xyz") if evidence.space else ("r2",)):
                name = f"{KINDS[probe][0]}{what}_from_{kind}"
                value, interval = score.values[i], score.intervals[i]
                if value is not None:
                    found[f"{name}/{row.key}"] = value
                if interval is not None and not row.control:
                    found[f"{name}_low/{row.key}"], found[f"{name}_high/{row.key}"] = interval
    return found


def _tables(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow]) -> list[Table]:
    """Show the linear probe per dimension, all probes over the mean, and the others per dimension, folded."""
    probes = list(rows[0].scores)
    rows = sorted(rows, key=lambda row: row.reference)  # ceilings stand last
    if kind == "codes":
        config = evidence.model.config
        name, detail = "From codes", f": at most {config.tokens * math.log2(config.codebook_size):.0f} bits per pair"
        note = (
            "Residual k-means has the same number of levels and codes, and no learning; widths are chosen on "
            "training episodes. Current frame and mean action are not limited in bits."
        )
    else:
        name, detail = "From continuous latents", ""
        note = "PCA widths are the best of 32, 64 and 128 on training episodes."
    if evidence.labels_only is not None:
        note += f" Labels alone: {evidence.labels_only.text}."
    every = (
        "Mean over all dimensions. The MLP is the linear probe plus one hidden layer (16 or 64 units), width and "
        "weight decay chosen on training episodes; where the layer does not help there, it is left out. "
        f"Held-out tasks, {evidence.folds.text}; the model and unsupervised controls may have seen them."
    )

    def table(title: str, columns: Sequence[str], lines: list[TableRow], note: str = "", folded: bool = False) -> Table:
        shown = (tuple(columns), tuple(lines))
        return Table(f"{name}{title}", *shown, better="higher", digits=".2f", note=note, folded=folded)

    per_dimension = ("mean", *(("x, y, z",) if evidence.space else ()), *evidence.names)
    lines = {probe: [row.shown(probe) for row in rows] for probe in probes}
    means = [row.overview() for row in rows]
    return [
        table(detail, per_dimension, lines.pop("linear"), note),
        table(": every probe", [KINDS[probe][2] for probe in probes], means, every),
        *(table(f": {KINDS[probe][1]}", per_dimension, each, folded=True) for probe, each in lines.items()),
    ]


def readout_verdicts(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow]) -> list[Verdict]:
    """Judge the model's first row against the best control, and against labels alone where that was run."""
    rivals = [row for row in rows if row.control and not row.reference and row.key != LABELS_ONLY]
    found = []
    for probe, column, over, key in COMPARED:
        scored = [(value, i) for i, row in enumerate(rivals) if (value := row.value(probe, column)) is not None]
        if scored and (evidence.space or column == 0):
            best, what = rivals[max(scored)[1]], f"{kind} over {over}"
            found.append(compared(evidence, what, rows[0], best, probe, column, f"{kind}_{key}", "the best control, "))
    alone = next(row for row in rows if row.key == LABELS_ONLY)
    key, over = f"{kind}_against_labels_alone", f"{kind} over all dimensions"
    found.append(compared(evidence, over, rows[0], alone, "linear", 0, key))
    return [verdict for verdict in found if verdict is not None]


def compared(
    evidence: LatentEvidence,
    what: str,
    own: ProbeRow,
    other: ProbeRow,
    probe: str,
    column: int,
    key: str,
    title: str = "",
) -> Verdict | None:
    """Compare two rows, with the interval of their difference over the same draws of episodes."""
    values = [row.value(probe, column) for row in (own, other)]
    if values[0] is None or values[1] is None:
        return None
    draws = [evidence.bootstrap.r2(row.scores[probe].probe) for row in (own, other)]
    picked = evidence.space if column == 1 else slice(None)
    span = evidence.bootstrap.interval((draws[0] - draws[1])[:, picked].nanmean(1))
    holds = decided(values[0] - values[1], span)
    word = {None: "within the noise of", True: "above", False: "not above"}[holds] if span else "to compare with"
    between = f"; {ONE_EPISODE}"
    if span is not None:
        between = "; difference {} … {}".format(*(printed(end, "+.2f") for end in span))
    numbers = f"R² {printed(values[0], '.2f')} is {word} {printed(values[1], '.2f')}"
    return Verdict(f"{what[:1].upper()}{what[1:]}: {numbers}, {title}{other.name}{between}", holds, key)


def _shown(names: Sequence[str], probes: dict[str, list[ProbeRow]], actual: Tensor) -> tuple[Pictures, ...]:
    """Draw R^2 per dimension, and what the first row's probe predicts against the true mean action [N, m]."""
    rows = [row for row in probes.get("codes", ()) if row.key in ("codes", "residual_kmeans")] + probes["latents"]
    drawn = [
        (DRAWN[row.key], _colour(row), row.scores["linear"].probe.r2.tolist())
        for row in rows
        if row.key in DRAWN and row.scores
    ]
    panels = svg.bars_per_dimension(names, drawn, ".2f")
    chosen = torch.linspace(0, len(actual) - 1, min(POINTS, len(actual))).round().long()
    x, y = actual[chosen].T.tolist(), rows[0].scores["linear"].probe.predicted[chosen].T.tolist()
    read, what = ("codes", "one-hot codes") if rows[0].key == "codes" else ("latents", "latents")
    points = [svg.scatter(name, x[i], y[i], ("true", f"from the {read}")) for i, name in enumerate(names[: svg.PANELS])]
    return (
        Pictures("Held-out R² of linear probes per action dimension; longer is better.", panels),
        Pictures(f"Mean action over the gap, read from the {what} of held-out pairs.", tuple(points)),
    )


def _colour(row: ProbeRow) -> str:
    if not row.control:
        return "model"
    return "rival" if row.key == "residual_kmeans" else "control"
