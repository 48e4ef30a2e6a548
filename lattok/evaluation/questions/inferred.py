"""Inverse dynamics models: do they say what the robot did, and what do their errors have in common?

    systematic = sqrt(mean over cells and dimensions of (mean over a cell's frames of (â - a) / σ)²)
                 cells: task x fifth of the episode; σ: deviation of the known actions

Chance averages out when a policy imitates many inferred actions; what is wrong in the same way at the same place of a
task is learned. In our study both figures tell nearly right actions from wrong ones. Among models that are neither, a
lower systematic error went with a larger gain within the same known actions and seed; for R² this could not be shown,
and for how sure a model is no relation could be detected (studies/pages/few_actions_labels.md). Intervals draw
whole episodes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lattok.evaluation.evidence.action_evidence import PROPRIO_MAP, ActionEvidence, part_of
from lattok.evaluation.evidence.probe_rows import MOMENT, ProbeRow, rivals_of, strongest
from lattok.evaluation.evidence.probes import Bootstrap, above_zero
from lattok.evaluation.evidence.trained_controls import NO_LATER
from lattok.evaluation.page import svg
from lattok.evaluation.page.episode import over_time
from lattok.evaluation.questions import question
from lattok.evaluation.questions.history import about_tasks
from lattok.evaluation.questions.readout import apart, comparison, decision, readout_figures, weakest
from lattok.evaluation.report import Criterion, Decision, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import NEEDS_TRAINING, difference, explained_share, percent, printed
from lattok.utils import checks
from lattok.utils.commands import DATASET, advise, command

HALF = 0.5  # of the variance: with less, most of how actions differ is not in the inferred ones
FIFTHS = 5  # parts of an episode
MORE = "Let it know the actions of more episodes, or show it other cameras."
of_actions = partial(Criterion, recipe="idm")  # what to train instead of a model that lattok did not train
ALL = of_actions("inferred_against_controls", advise(MORE))
SPACE = of_actions(
    "inferred_against_controls_xyz",
    advise(
        f"The mean over dimensions hides this: x, y and z are read no better than by the best control. {MORE}",
    ),
    caveat="about x, y and z its actions say no more than the best control",
    weight=2,
)
READ_STATE = "Where episodes have the robot's state, infer actions from its changes"
PROPRIO = of_actions(
    "inferred_against_state_changes",
    advise(READ_STATE, command("train", "idm", DATASET, "--from", "proprio", "--out", "new")),
    use=True,
    caveat="where the state is recorded, a map of its changes is as good",
    weight=2,
)
PROPRIO_SPACE = of_actions(
    "inferred_against_state_changes_xyz",
    advise(f"{READ_STATE} as well", command("train", "idm", DATASET, "--from", "both", "--out", "new")),
    use=True,
    caveat="about x, y and z, where the state is recorded, a map of its changes says more",
    weight=2,
)
LATER = of_actions(
    "inferred_against_no_later_frames",
    advise(
        "Later frames add nothing: let it look further (offsets, stride), so that the effect of an action can be seen."
    ),
    caveat="the same network without later frames is as good",
)
SYSTEMATIC = of_actions(
    "inferred_systematic",
    advise(f"Imitation learns such errors, and more video does not average them out. {MORE}"),
    caveat="its errors repeat themselves as much as those of a control, and imitation learns them",
    weight=1,
)
JUDGED = ("Inferred actions", "Inferred movement (x, y, z)")  # by column
DRAWN = (NO_LATER, PROPRIO_MAP, "flow", "proprio", MOMENT)  # controls in the chart


CRITERIA = (ALL, PROPRIO, SPACE, PROPRIO_SPACE, LATER)


@question("inferred", of=("actions",), criteria=CRITERIA, place=10)
def inferred_outcome(evidence: ActionEvidence) -> Outcome:
    """Compare inferred actions with the known ones of held-out episodes, beside the controls."""
    own, rows = evidence.rows[0], evidence.rows
    later = next(row for row in rows if row.key == NO_LATER)
    mapped, rivals = next((row for row in rows if row.key == PROPRIO_MAP), None), rivals_to_all(rows)
    best = strongest(rivals, "linear")
    pairs = [(best, 0, ALL), (mapped, 0, PROPRIO), (later, 0, LATER)]
    if evidence.space:
        pairs[2:2] = [(strongest(rivals, "linear", 1), 1, SPACE), (mapped, 1, PROPRIO_SPACE)]
    compared = (
        comparison(evidence, JUDGED[column], own, row, "linear", column, about, best=about in (ALL, SPACE))
        for row, column, about in pairs
        if row is not None
    )
    verdicts = [verdict for verdict in compared if verdict is not None]
    if later.not_run == NEEDS_TRAINING:
        verdicts.append(Verdict(f"Against the same network without later frames: {NEEDS_TRAINING}", None, LATER))
    judged, asked = evidence.bootstrap.count, len(evidence.case.split.held_out)
    others = "" if judged == asked else f" of {asked}, whose actions are known,"
    columns = ("mean", *(("x, y, z",) if evidence.space else ()), *evidence.names)
    shown = tuple(row.shown("linear") for row in rows)
    note = f"Controls learn from the {evidence.known}."
    top = strongest([row for row in (best, mapped) if row is not None], "linear")
    kinds = {row.key: "rival" if row is top else "control" for row in rows}
    drawn = [(row.short, kinds[row.key], row.value("linear", 0)) for row in rows if row.key in DRAWN and row.scores]
    bars = svg.bars("How right its actions are, R²", [("inferred", "model", own.value("linear", 0)), *drawn], ".2f")
    measure = (
        "R² is the share of how the robot's actions vary that is in the inferred ones, on episodes kept aside: 1 is "
    )
    measure += "all of it, 0 no better than the mean action. Orange: the best control."
    chart = Pictures(measure, (bars,), wide=True, top=True)
    section = Section(
        "Does it say what the robot did?",
        f"Actions are inferred for all {checks.counted(len(evidence.held_out), 'frame')} of "
        f"{checks.counted(judged, 'held-out episode')}{others} and "
        f"compared with `{evidence.source.action_key}`: R² = 1 − squared error ÷ squared distance to the mean known "
        f"action, with 95 % intervals over episodes. {_of_what(evidence)}{about_tasks(evidence.case)}",
        (Table("Held-out R² of actions", columns, shown, better="higher", digits=".2f", note=note),),
        (chart,),
        _reading(own, top),
        open=True,
    )
    figures = readout_figures(evidence, "actions", rows)
    sections = (section, over := _over_time(evidence, own, top))
    headline = (weakest(evidence, own, top) if top is not None else "") or over.reading
    return Outcome(sections, figures, verdicts, _decision(evidence, own, top, verdicts), headline)


def _over_time(evidence: ActionEvidence, own: ProbeRow, best: ProbeRow | None) -> Section:
    """Draw true and inferred actions, and those of the best control."""
    held_out, source = evidence.held_out, evidence.source
    lines = {"truth": ("true", held_out.actions), "model": ("inferred", own.scores["linear"].probe.predicted)}
    if best is not None:
        lines["rival"] = best.plain, best.scores["linear"].probe.predicted
    rows = held_out.episode_of, held_out.frame_of
    caption = f"Actions of a held-out episode{', without the state that they are added to' * evidence.added}."
    return over_time(source.dataset, source.cameras or source.dataset.cameras, rows, evidence.names, lines, caption)


def rivals_to_all(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """List the controls that see no more than the model: all but a map of the robot's own state."""
    return [row for row in every_rival(rows) if row.key != PROPRIO_MAP]


def every_rival(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    return [*rivals_of(rows), *(row for row in rows if row.key == NO_LATER and row.scores)]


def _of_what(evidence: ActionEvidence) -> str:
    if evidence.added:
        return f"Judged is what actions add to `{evidence.source.state_key}`, which says most of a command already."
    return "Where episodes have the robot's state, the best row may be a map of its changes, which looks at no picture."


def _reading(own: ProbeRow, best: ProbeRow | None) -> str:
    value, rival = (None if row is None else row.value("linear", 0) for row in (own, best))
    if value is None or rival is None or best is None:
        return "Held-out actions do not vary: nothing can be said about them."
    shares = explained_share(value), explained_share(rival)
    return f"Its actions explain {shares[0]} of the variance of held-out ones, {best.plain} {shares[1]}."


def _decision(evidence: ActionEvidence, own: ProbeRow, best: ProbeRow | None, verdicts: Sequence[Verdict]) -> Decision:
    """Say whether the actions can stand in for unknown ones: better than any control, and most of what varies."""
    wanted = PROPRIO if best is not None and best.key == PROPRIO_MAP else ALL
    against = next((each for each in verdicts if each.about is wanted), None)
    if against is None or best is None:
        return Decision(20, None, "Unclear: held-out actions do not vary.", caveats=False)
    value, rival = (row.value("linear", 0) or 0.0 for row in (own, best))
    numbers = f"R² {printed(value, '.2f')} against {printed(rival, '.2f')} of {best.plain}"
    errors = (mean_squares(evidence.gaps(row), cells_of(evidence)) for row in (own, best))
    other = "systematic error {:.2f} against {:.2f}".format(*(float(each.mean().sqrt()) for each in errors))
    share = f"{percent(value)} of how the robot's actions differ"
    texts = {
        True: f"Yes: on held-out episodes its actions explain {share}",
        None: f"It makes no clear difference: its actions are about as good as what {best.plain} gives",
        False: f"No: its actions are no better than what {best.plain} gives",
    }
    if wanted is PROPRIO:
        where = "where the robot's state is recorded"
        texts[None] = f"It makes no clear difference {where}: a map of its changes gives actions about as good"
        texts[False] = f"No, {where}: a map of its changes gives better actions"
    told = (numbers, difference(apart(evidence, own, best)), other)
    found = decision(evidence, against, texts, told, "held out with known actions")
    if wanted is PROPRIO and not found.holds:  # what else falls short says nothing of the map
        found = replace(found, caveats=False)
    if found.holds and value < HALF:
        text = f"With care: it beats every control, but explains only {share} ({numbers}; {other})."
        return replace(found, holds=None, text=text)
    return found


@question("inferred_systematic", of=("actions",), criteria=(SYSTEMATIC,), place=20)
def systematic_outcome(evidence: ActionEvidence) -> Outcome:
    """Show what errors have in common at the same place of a task, beside all of them."""
    cells, rows = cells_of(evidence), [row for row in evidence.rows if row.scores]
    bootstrap, draws, lines, figures = evidence.bootstrap, dict[str, Tensor](), [], dict[str, float]()
    for row in rows:
        gaps = evidence.gaps(row)
        squares, draws[row.key] = systematic_squares(gaps, cells, bootstrap)
        values = [float(part.mean().sqrt()) for part in (squares, gaps.square(), *squares)]
        spans = (bootstrap.interval(draws[row.key]), *[None] * (len(values) - 1))
        lines.append(TableRow(row.key, row.name, tuple(values), row.control, row.reference, intervals=spans))
        figures |= {f"systematic_error/{row.key}": values[0], f"error/{row.key}": values[1]}
    own, verdicts = figures["systematic_error/model"], []
    reading = f"Its systematic error is {own:.2f} standard deviations of the known actions"
    best = min(every_rival(rows), key=lambda row: figures[f"systematic_error/{row.key}"], default=None)
    if best is not None:
        rival, span = figures[f"systematic_error/{best.key}"], bootstrap.interval(draws["model"] - draws[best.key])
        holds = above_zero(rival - own, span)
        word = {None: "within the noise of", True: "below", False: "not below"}[holds] if span else "to compare with"
        text = f"Systematic error: {own:.2f} is {word} {rival:.2f} of {best.plain}; {difference(span)}"
        verdicts = [Verdict(text, holds, SYSTEMATIC)]
        reading += f", that of {best.plain} {rival:.2f}"
    title = "Root mean square error, in standard deviations of the known actions"
    table = Table(title, ("systematic", "all errors", *evidence.names), tuple(lines), better="lower", digits=".2f")
    text = (
        "A policy that imitates many inferred actions averages chance out, but learns what is wrong in the same way at "
        f"the same place of a task. So errors are averaged within each of {int(cells.max()) + 1} cells, a task and a "
        "fifth of the episode, before they are squared. With few held-out episodes in a cell part of that is chance, "
        "for controls as well. The columns of single dimensions are systematic errors, too."
    )
    return Outcome((Section("Are its errors systematic?", text, (table,), (), f"{reading}."),), figures, verdicts)


def cells_of(evidence: ActionEvidence) -> Tensor:
    """Number the cells that held-out frames are in, int64 [F]: task x fifth of the episode."""
    cells = torch.as_tensor(evidence.held_out.task_of) * FIFTHS + part_of(evidence.held_out, FIFTHS)
    return cells.unique(return_inverse=True)[1]


def mean_squares(gaps: Tensor, cells: Tensor) -> Tensor:
    """Square the mean of gaps [F, m] in each of the cells [F]: [m, C]."""
    return torch.stack([gaps[cells == cell].mean(0).square() for cell in range(int(cells.max()) + 1)], 1)


def systematic_squares(gaps: Tensor, cells: Tensor, bootstrap: Bootstrap) -> tuple[Tensor, Tensor]:
    """Return `mean_squares` [m, C], and the systematic error per draw of episodes, [draws]. Cells of which no episode
    is drawn do not count. What chance adds to a square each time that episodes are drawn, on average, is taken away:
    draws lie around the error itself."""
    drawn = []
    for cell in range(int(cells.max()) + 1):
        inside = (cells == cell)[:, None].double()
        drawn.append((bootstrap.sums(gaps * inside) / bootstrap.sums(inside)).square().mean(1))
    found, draws = mean_squares(gaps, cells), torch.stack(drawn).nanmean(0)
    return found, (draws - draws.mean() + found.mean()).clamp_min(0).sqrt()
