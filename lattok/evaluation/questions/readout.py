"""Do the latent actions say what the robot did? Tables, figures and verdicts from the probes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probe_rows import KINDS, ProbeRow, probe_rows, rivals_of, strongest
from lattok.evaluation.evidence.probes import above_zero
from lattok.evaluation.evidence.trained_controls import LABELS_ONLY
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.questions.history import hold_out_more
from lattok.evaluation.report import (
    ONE_EPISODE,
    Criterion,
    Decision,
    Outcome,
    Pictures,
    Section,
    Table,
    TableRow,
    Verdict,
    percent,
    printed,
)

DRAWN = {  # probes in the pictures: names that fit next to a bar, and colours
    "codes": ("codes", "model"),
    "residual_kmeans": ("k-means codes", "rival"),
    "latents": ("latents", "model"),
    "pca_change": ("frame change", "control"),
    LABELS_ONLY: ("labels alone", "control"),
    "untrained": ("untrained", "control"),
    "current_frame": ("current frame", "control"),
}
REFERENCES = (
    "Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes",
    "Hewitt & Liang 2019, Designing and interpreting probes with control tasks",
    "Zhang et al. 2025, What do latent action models actually learn? (the frame change's PCA as what they reduce to)",
    "Nikulin et al. 2025, Latent action learning requires supervision in the presence of distractors",
)
MAX_POINTS = 400  # what fits on a page
CRITERIA = {
    each.key: each
    for each in (
        Criterion(
            "codes_against_controls",
            "{Label}, or train longer{robust}; without labels the raw frame change is hard to beat.",
        ),
        Criterion(
            "codes_against_controls_xyz",
            "The mean over dimensions hides this: the codes say more about the gripper than about the motion. {Label}, "
            "shorten the stride to one visible movement, add a camera that sees depth.",
            caveat="about x, y and z the codes say less than the best control",
            weight=2,
        ),
        Criterion(
            "codes_against_controls_mlp",
            "A hidden layer reads as much from a control: the codes hold what is there anyway. {Label}; prefer linear "
            "probes only if your policy head is linear.",
        ),
        Criterion(
            "codes_new_tasks",
            "What the codes mean depends on the task: train on more tasks, or keep to those trained on.",
            use=True,
            caveat="on tasks that were not seen a control says more",
        ),
        Criterion(
            "codes_against_labels_alone",
            "Reconstruction adds nothing here: with these labels a supervised encoder does as well. It pays with fewer "
            "labels, or with more action-free video than labelled data.",
        ),
        Criterion(
            "latents_against_controls",
            "Store the raw frame change (PCA) instead of latents, or {label}.",
            elsewhere="Store the raw frame change (PCA) instead of latents, or train one on this dataset.",
        ),
        Criterion(
            "latents_against_controls_xyz",
            "{Label}; for continuous targets the raw frame change is a serious rival.",
        ),
        Criterion("latents_against_controls_mlp", "A hidden layer reads as much from a control: {label}."),
        Criterion(
            "latents_new_tasks",
            "What the latents mean depends on the task: train on more tasks, or keep to those trained on.",
            use=True,
        ),
        Criterion(
            "latents_against_labels_alone",
            "Reconstruction adds nothing to the latents here: see the codes, use fewer labels.",
        ),
    )
}
COMPARED = (  # with the best control: probe, column, what the verdict says and its key
    ("linear", 0, "all dimensions", "against_controls"),
    ("linear", 1, "x, y, z", "against_controls_xyz"),
    ("mlp", 0, "all dimensions with MLP probes", "against_controls_mlp"),
    ("task_linear", 0, "all dimensions on tasks the probe never saw", "new_tasks"),
)


@question("readout", of=("pairs", "clips"), criteria=tuple(CRITERIA.values()), place=10)
def readout_outcome(evidence: LatentEvidence) -> Outcome:
    """Read the action from the model's codes and latents, and from the controls; without actions say that it cannot."""
    unknown = "That cannot be told here: without actions nothing says whether the labels mean what the robot did."
    if evidence.target is None:
        return Outcome(decision=Decision(20, None, unknown, caveats=False))
    probes = probe_rows(evidence, evidence.target)
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
    decision = _decision(evidence, tables[0], verdicts) or Decision(20, None, unknown, caveats=False)
    return Outcome((section,), figures, verdicts, decision)


def _decision(evidence: LatentEvidence, table: Table, verdicts: Sequence[Verdict]) -> Decision | None:
    """Judge a model by what its labels say about the action, against the best control; None where nothing moves."""
    found = {each.key: each for each in verdicts}
    kind = next((kind for kind in ("codes", "latents") if f"{kind}_against_controls" in found), None)
    if kind is None:
        return None
    best, against = table.strongest(but=(LABELS_ONLY,)), found[f"{kind}_against_controls"]
    own, rival = (0.0 if row is None else row.values[table.decides] or 0.0 for row in (table.rows[0], best))
    name = best.name if best else ""
    numbers = f"R² {printed(own, '.2f')} against {printed(rival, '.2f')} of the best control, {name}"
    if ONE_EPISODE in against.text:
        text = f"That cannot be told: only one episode was held out, and {ONE_EPISODE} ({numbers})."
        case = evidence.case
        hold_out = hold_out_more(case.dataset, "lattok evaluate ... --episodes", case.model.trained_on)
        return Decision(20, None, text, way_out=hold_out)
    text = {
        True: f"Yes: on episodes it has not seen, its {kind} say more about the action than anything untrained",
        None: f"It makes no clear difference: its {kind} say about as much about the action as the best control does",
        False: f"No: something that learned nothing says as much about the action as its {kind} do",
    }[against.holds]
    return Decision(20, against.holds, f"{text} ({numbers}).")


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
    found = []
    for probe, column, over, key in COMPARED:
        best = strongest(rivals_of(rows), probe, column)
        if best is not None and (evidence.space or column == 0):
            about, what = CRITERIA[f"{kind}_{key}"], f"{kind} over {over}"
            found.append(_comparison(evidence, what, rows[0], best, probe, column, about, "the best control, "))
    alone = next(row for row in rows if row.key == LABELS_ONLY)
    about, over = CRITERIA[f"{kind}_against_labels_alone"], f"{kind} over all dimensions"
    found.append(_comparison(evidence, over, rows[0], alone, "linear", 0, about))
    return [verdict for verdict in found if verdict is not None]


def _comparison(
    evidence: LatentEvidence,
    what: str,
    own: ProbeRow,
    other: ProbeRow,
    probe: str,
    column: int,
    about: Criterion,
    title: str = "",
) -> Verdict | None:
    """Compare two rows, with the interval of their difference over the same draws of episodes."""
    values = [row.value(probe, column) for row in (own, other)]
    if values[0] is None or values[1] is None:
        return None
    draws = [evidence.bootstrap.r2(row.scores[probe].probe) for row in (own, other)]
    picked = evidence.space if column == 1 else slice(None)
    span = evidence.bootstrap.interval((draws[0] - draws[1])[:, picked].nanmean(1))
    holds = above_zero(values[0] - values[1], span)
    word = {None: "within the noise of", True: "above", False: "not above"}[holds] if span else "to compare with"
    between = f"; {ONE_EPISODE}"
    if span is not None:
        between = "; difference {} … {}".format(*(printed(end, "+.2f") for end in span))
    numbers = f"R² {printed(values[0], '.2f')} is {word} {printed(values[1], '.2f')}"
    return Verdict(f"{what[:1].upper()}{what[1:]}: {numbers}, {title}{other.name}{between}", holds, about)


def _shown(names: Sequence[str], probes: dict[str, list[ProbeRow]], actual: Tensor) -> tuple[Pictures, ...]:
    """Draw R^2 per dimension, and what the first row's probe predicts against the true mean action [N, m]."""
    rows = [row for row in probes.get("codes", ()) if row.key in ("codes", "residual_kmeans")] + probes["latents"]
    shown = [row for row in rows if row.key in DRAWN and row.scores]
    drawn = [(*DRAWN[row.key], row.scores["linear"].probe.r2.tolist()) for row in shown]
    panels = svg.bars_per_dimension(names, drawn, ".2f")
    chosen = torch.linspace(0, len(actual) - 1, min(MAX_POINTS, len(actual))).round().long()
    x, y = actual[chosen].T.tolist(), rows[0].scores["linear"].probe.predicted[chosen].T.tolist()
    read, what = ("codes", "one-hot codes") if rows[0].key == "codes" else ("latents", "latents")
    points = [svg.scatter(name, x[i], y[i], ("true", f"from the {read}")) for i, name in enumerate(names[: svg.PANELS])]
    return (
        Pictures("Held-out R² of linear probes per action dimension; longer is better.", panels),
        Pictures(f"Mean action over the gap, read from the {what} of held-out pairs.", tuple(points)),
    )
