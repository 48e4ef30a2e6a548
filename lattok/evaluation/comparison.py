"""The page of a comparison: models as rows of its tables, their controls as columns, and who may label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lattok.evaluation import svg
from lattok.evaluation.evidence.probes import decided
from lattok.evaluation.judged import Judged
from lattok.evaluation.report import ONE_EPISODE, Answer, Pictures, Report, Section, Table, TableRow, printed

QUESTION = "Which of these models should label this dataset?"
CONTROLS = {  # that stand as columns, of codes and of latents
    "codes": {
        "residual_kmeans": "k-means on frame change, equal bits",
        "flow_kmeans": "k-means on block flow, equal bits",
        "untrained": "untrained model, equal bits",
        "current_frame": "current frame",
    },
    "latents": {
        "pca_change_equal_width": "frame change, equal width",
        "pca_flow": "block flow",
        "untrained": "untrained model",
        "current_frame": "current frame",
    },
}


def comparison(judged: Sequence[Judged], dataset: str, provenance: dict[str, Any], hold_out: str = "") -> Report:
    """Make the page; `hold_out` is what to do where a single episode was judged."""
    ranked = sorted(judged, key=lambda each: -(each.value(each.kind, each.kind) or -math.inf))
    answer = _answer(ranked, hold_out)
    strides = sorted({each.source.stride for each in judged})
    apart = "" if len(strides) == 1 else (
        f" Strides differ ({', '.join(map(str, strides))} frames): each model is asked about the mean action over "
        "its own gap, which is not the same target; give a stride to ask all about the same."
    )  # fmt: skip
    text = (
        "Linear regression from each model's labels to the mean action between the two frames, fitted on the training "
        "episodes, judged on the held-out ones, with 95 % intervals over these; the same as in lattok evaluate. "
        f"Controls have the bits of the model that they stand next to, or its width.{apart}"
    )
    tables = [table for table in (_table(judged, kind) for kind in ("codes", "latents")) if table.rows]
    read = Section("What do the labels say about the action?", text, tuple(tables), (_picture(judged),))
    tasks = _tasks(judged)
    costs = Section(
        "What do labels cost?",
        "A label takes as many bits as its codes can tell apart; joint entropy is what whole rows of codes carry on "
        "the held-out pairs, at most the ceiling that so many pairs can show. How fast each labels differs from run "
        "to run and stands in speed.json beside this page.",
        (_costs(judged),),
    )
    verdicts = tuple(verdict for each in judged for verdict in each.verdicts)
    figures = {f"{each.name}/{key}": value for each in judged for key, value in each.figures.items()}
    title = f"{len(judged)} latent action model{'s' * (len(judged) > 1)} on {dataset}"
    sections = tuple(section for section in (read, tasks, costs) if section is not None)
    speed = {
        each.name: {
            "frames_per_second": each.cost.speed,
            "device_megabytes": each.cost.peak,
            "device": each.cost.device,
        }
        for each in judged
    }
    return Report("comparison", title, _reading(ranked), verdicts, figures, sections, provenance, answer, speed)


def _reading(ranked: Sequence[Judged]) -> str:
    shown = []
    for each in ranked:
        value, gain = each.value(each.kind, each.kind), each.gain(each.kind)[0]
        if value is not None:
            by = "" if gain is None else f" ({printed(gain, '+.2f')} against its best control)"
            shown.append(f"the {each.kind} of {each.name} explain {printed(value, '.2f')}{by}")
    text = ", ".join(shown)
    return f"Of the action's variance on held-out episodes {text}." if text else "The actions never change."


def _answer(ranked: Sequence[Judged], hold_out: str) -> Answer:
    """Name the best model, or say why that cannot be told."""
    best = ranked[0]
    value = best.value(best.kind, best.kind)
    if value is None:
        return Answer(QUESTION, None, "That cannot be told: the actions of these episodes never change.")
    doubtful = [each.name for each in ranked if any(v.key in ("held_out_seen", "trial") for v in each.verdicts)]
    if doubtful:
        names = " and ".join(doubtful)
        text = f"That cannot be told from this page: see the verdicts about {names}."
        return Answer(QUESTION, None, text)
    says, against = f"{best.name}, whose {best.kind} say", best.verdicts[-1].holds
    if best.bootstrap.count < 2:
        text = (
            f"That cannot be told: only one episode was held out, and {ONE_EPISODE}. Here {says} most about the action"
        )
        return Answer(QUESTION, None, f"{text} (R² {printed(value, '.2f')}). {hold_out}".rstrip())
    if against is False:
        text = f"None of them: something that learned nothing says as much about the action as {says} most here"
        return Answer(QUESTION, False, f"{text} (R² {printed(value, '.2f')}).")
    rivals = [(each, row) for each in ranked[1:] if (row := each.row(each.kind, each.kind)) is not None]
    if not rivals:
        return Answer(QUESTION, against, f"{says} most about the action (R² {printed(value, '.2f')}).")
    near, row = rivals[0]
    gain, span = best.beyond(best.kind, row, near.bootstrap)
    holds = decided(gain or 0.0, span)
    between = "" if span is None else ", difference {} … {}".format(*(printed(end, "+.2f") for end in span))
    numbers = f"R² {printed(value, '.2f')} against {printed(row.value('linear', 0) or 0.0, '.2f')}{between}"
    if holds:
        caveat = "" if against else " Mind that its lead over the best control is within the noise."
        return Answer(QUESTION, against, f"{says} most about the action; {near.name} follows ({numbers}).{caveat}")
    return Answer(QUESTION, None, f"{best.name} or {near.name}: they say about as much about the action ({numbers}).")


def _table(judged: Sequence[Judged], kind: str) -> Table:
    """Make the table of codes or of latents: R^2 of the model by dimensions, and that of its controls."""
    groups = list(judged[0].groups)
    rows = []
    for each in judged:
        if kind not in each.probes:
            continue
        own = [each.own(kind, each.groups.get(name, [])) for name in groups]
        controls = [(each.value(kind, key), None) for key in CONTROLS[kind]]
        cells = [own[0], each.gain(kind), *own[1:], *controls]
        values, intervals = zip(*cells, strict=True)
        rows.append(TableRow(each.name, each.name, values, control=False, intervals=intervals))
    columns = ("all", "gain over the best control", *groups[1:], *CONTROLS[kind].values())
    title = "R² of codes" if kind == "codes" else "R² of latents before quantization"
    return Table(title, columns, tuple(rows), better="higher", digits=".2f")


def _tasks(judged: Sequence[Judged]) -> Section | None:
    """Make the section on tasks that the probe has not seen; None for a dataset with one task."""
    tables = []
    for kind in ("codes", "latents"):
        rows = []
        for each in judged:
            own, span = each.own(kind, each.groups["all"], "task_linear")
            if own is not None:
                gain = each.gain(kind, "task_linear")
                controls = [each.value(kind, key, "task_linear") for key in CONTROLS[kind]]
                values = (own, gain[0], each.value(kind, kind), *controls)
                spans = (span, gain[1], None, *([None] * len(controls)))
                rows.append(TableRow(each.name, each.name, values, control=False, intervals=spans))
        if rows:
            columns = ("new tasks", "gain over the best control", "all tasks", *CONTROLS[kind].values())
            tables.append(Table(f"R² of {kind} on new tasks", columns, tuple(rows), better="higher", digits=".2f"))
    if not tables:
        return None
    text = (
        "The same probes, fitted without the tasks that they are judged on: what the labels of one task say about the "
        "action helps on another only where they mean the same. Models and controls may have seen these tasks."
    )
    return Section("Do labels mean the same in other tasks?", text, tuple(tables))


def _costs(judged: Sequence[Judged]) -> Table:
    columns = ("bits", "joint entropy", "ceiling", "latent width", "stride, frames", "cameras", "parameters, M")
    columns += ("weights, MB",)
    digits = (".1f", ".2f", ".2f", ".0f", ".0f", ".0f", ".2f", ".1f")
    rows = []
    for each in judged:
        cost, entropy = each.cost, each.entropy or (None, None)
        facts = (each.bits, *entropy, each.width, each.source.stride, len(each.source.cameras))
        values = (*facts, cost.parameters / 1e6, cost.megabytes)
        rows.append(TableRow(each.name, each.name, values, control=False))
    return Table("Bits and size", columns, tuple(rows), digits=digits, note="Weights include frozen features.")


def _picture(judged: Sequence[Judged]) -> Pictures:
    """Draw bits against R^2, with k-means at the bits of each model."""
    points = []
    for each in judged:
        value, span = each.own(each.kind, each.groups["all"])
        if value is None:
            continue
        points.append((each.name, "model", each.bits, value, span))
        scored = [(v, key) for key in ("residual_kmeans", "flow_kmeans") if (v := each.value("codes", key)) is not None]
        if scored and not any(point[1:4] == ("rival", each.bits, max(scored)[0]) for point in points):
            points.append(("k-means", "rival", each.bits, max(scored)[0], None))
    caption = (
        "R² over all dimensions against the bits of a label, with 95 % intervals; the line joins models that no "
        "other beats in both. Orange: the better k-means control at equal bits. Dashed: continuous latents, which have "
        "no bits."
    )
    panel = svg.pareto("Bits and R²", points, ("bits", "R²"))
    return Pictures(caption, (panel,), wide=True)
