"""Inverse models side by side: how right the actions are that each infers of the same held-out episodes.

All are judged by the same numbers. Where one of them adds its actions to the robot's state, these are what actions add
to the state: the state alone says most of a command.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from lattok.data import RobotDataset
from lattok.data.episodes import FEW_HELD_OUT
from lattok.evaluation.evidence import Case, EvalOptions, naming, provenance_of
from lattok.evaluation.evidence.action_evidence import PROPRIO_MAP, ActionEvidence, part_of
from lattok.evaluation.evidence.probe_rows import ProbeRow, Score, rivals_of, strongest
from lattok.evaluation.evidence.probes import above_zero, score
from lattok.evaluation.page import svg
from lattok.evaluation.page.episode import over_time
from lattok.evaluation.questions import next_steps
from lattok.evaluation.questions.history import doubted, doubts, overlap
from lattok.evaluation.questions.inferred import ALL, FIFTHS, SPACE
from lattok.evaluation.questions.readout import comparison, only, readout_figures
from lattok.evaluation.report import Answer, Pictures, Report, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import FEW_EPISODES, difference, percent, printed
from lattok.nn.normalize import for_dataset
from lattok.utils import checks
from lattok.utils.commands import DATASET, NOTHING, advise, command

QUESTION = "Which of these models should infer unknown actions?"
NEAR = 0.005  # of R²: as printed, less is no difference
FROM_STATE = advise(
    "Infer them from the robot's state", command("train", "idm", DATASET, "--from", "proprio", "--out", "map")
)


class Inferring(NamedTuple):
    """One model."""

    name: str
    evidence: ActionEvidence
    row: ProbeRow  # how right its actions are, judged as those of all

    @property
    def r2(self) -> float | None:
        return self.row.value("linear", 0)


def compare_inverse_models(
    opened: Mapping[str, Callable[[], Any]], dataset: RobotDataset, options: EvalOptions
) -> Report:
    """Let each model infer the held-out actions, and put what they say next to each other."""
    models = {name: for_dataset(each(), dataset.name) for name, each in opened.items()}
    cameras = options.cameras or tuple({camera: 0 for model in models.values() for camera in model.cameras})
    split, found = options.split(dataset, None, cameras), dict[str, ActionEvidence]()
    for name, model in models.items():
        with naming(name), (case := Case(model, dataset, split, options.of_one(name, model, dataset))).eval_mode():
            found[name] = ActionEvidence.gather(case)
    columns = {name: str(evidence.source.action_key) for name, evidence in found.items()}
    if len({*columns.values()}) > 1:
        got = checks.listed(f"`{column}` by {name}" for name, column in columns.items())
        checks.fail("models", "models that infer the same column", got, "Compare those alone.")
    return _report(found, options, split)


def _report(found: Mapping[str, ActionEvidence], options: EvalOptions, split: Any) -> Report:
    judge = _judge(list(found.values()))
    candidates = [Inferring(name, each, _judged(name, each, judge)) for name, each in found.items()]
    ranked = sorted(candidates, key=lambda each: -float("inf") if each.r2 is None else each.r2, reverse=True)
    mapped = any(each.evidence.by_state for each in candidates)
    controls = [row for row in judge.rows[1:] if row.scores and not (mapped and row.key == PROPRIO_MAP)]
    best = strongest(rivals_of(controls), "linear")
    verdicts, doubt = list[Verdict](), dict[str, Sequence[Verdict]]()
    for each in ranked:
        doubt[each.name] = doubts(overlap(each.evidence.case), each.evidence.case.model.trained_on)
        against = (
            None if best is None else comparison(judge, "Inferred actions", each.row, best, "linear", 0, ALL, best=True)
        )
        told = [*doubt[each.name], *([] if against is None else [against])]
        verdicts += [replace(verdict, text=f"{each.name}: {verdict.text}") for verdict in told]
    moves = _movements(ranked, judge)
    verdicts += [verdict for _, verdict in moves]
    answer = _answer(ranked, judge, best, doubt)
    if ahead := [name for name, verdict in moves if verdict.holds is False]:
        answer = replace(answer, reason=f"{answer.reason} About x, y and z {checks.listed(ahead)} says more.")
    asked = {"seed": options.seed, "action_key": judge.source.action_key, "state_key": judge.source.state_key}
    about = {each.name: {**each.evidence.case.model.describe(), **each.evidence.provenance} for each in candidates}
    figures: dict[str, float] = {}
    for each in candidates:
        own = readout_figures(judge, "actions", [each.row._replace(key="model")])
        figures |= {f"{each.name}/{key}": value for key, value in own.items()}
    dataset = judge.case.dataset
    return Report(
        kind="comparison",
        title=f"{checks.counted(len(candidates), 'inverse model')} on {dataset.name}",
        headline=_reading(ranked),
        verdicts=tuple(verdicts),
        figures=figures,
        sections=(_section(ranked, judge, controls, best), _over_time(ranked, judge)),
        provenance={**provenance_of(dataset, split, **asked), "models": about},
        answer=answer,
        steps=next_steps(
            answer, verdicts, ranked[0].evidence.case.filled(ActionEvidence.use) if answer.holds else NOTHING
        ),
    )


def _movements(ranked: Sequence[Inferring], judge: ActionEvidence) -> list[tuple[str, Verdict]]:
    """Compare the first one with each other by what it says of x, y and z, which the mean over dimensions may hide."""
    first, found = ranked[0], list[tuple[str, Verdict]]()
    for each in ranked[1:] if judge.space else []:
        verdict = comparison(judge, f"{first.name}: movement (x, y, z)", first.row, each.row, "linear", 1, SPACE)
        if verdict is not None:
            found.append((each.name, verdict))
    return found


def _judge(found: Sequence[ActionEvidence]) -> ActionEvidence:
    """Choose the evidence whose numbers judge all: of a model that adds to the state, else that with most known
    actions; its controls stand for all."""
    return max(found, key=lambda each: (each.added, len(each.train.actions)))


def _judged(name: str, evidence: ActionEvidence, judge: ActionEvidence) -> ProbeRow:
    """Return the row of a model, of actions as the judge has them."""
    said = evidence.rows[0].scores["linear"].probe.predicted + evidence.state_below - judge.state_below
    probe = score(said, judge.held_out.actions.double(), judge.train.actions.double())
    return ProbeRow(name, name, {"linear": Score.of(probe, judge.bootstrap, judge.space)}, control=False)


def _draws(judge: ActionEvidence, row: ProbeRow) -> Tensor:
    return judge.bootstrap.r2(row.scores["linear"].probe).nanmean(1)


def _section(
    ranked: Sequence[Inferring], judge: ActionEvidence, controls: Sequence[ProbeRow], best: ProbeRow | None
) -> Section:
    columns = ("mean", *(("x, y, z",) if judge.space else ()), *judge.names)
    rows = tuple(row.shown("linear") for row in (*(each.row for each in ranked), *controls))
    note = f"Controls learn from the {judge.known}."
    table = Table("Held-out R² of actions", columns, rows, better="higher", digits=".2f", note=note)
    bars = [(each.name, "model", each.r2) for each in ranked]
    bars += [] if best is None else [(best.short, "rival", best.value("linear", 0))]
    caption = "R² is the share of how the robot's actions vary that is in the inferred ones. Orange: the best control."
    chart = Pictures(caption, (svg.bars("How right their actions are, R²", bars, ".2f"),), wide=True, top=True)
    what = " Judged is what actions add to the state, which says most of a command already." if judge.added else ""
    text = (
        f"Actions are inferred for all {checks.counted(len(judge.held_out), 'frame')} of "
        f"{checks.counted(judge.bootstrap.count, 'held-out episode')} and compared with "
        f"`{judge.source.action_key}`, with 95 % intervals over episodes.{what}"
    )
    return Section(
        "Do they say what the robot did?",
        text,
        (table, _apart(ranked, judge), _by_fifth(ranked, judge)),
        (chart,),
        open=True,
    )


def _apart(ranked: Sequence[Inferring], judge: ActionEvidence) -> Table:
    """Show by how much each is less right than the best one, over the same draws of episodes."""
    first, rows = ranked[0], []
    for each in ranked:
        gap = None if each is first or each.r2 is None or first.r2 is None else each.r2 - first.r2
        span = None if gap is None else judge.bootstrap.interval(_draws(judge, each.row) - _draws(judge, first.row))
        rows.append(TableRow(each.name, each.name, (each.r2, gap), control=False, intervals=(None, span)))
    return Table("The best first", ("R²", f"difference to {first.name}"), tuple(rows), "higher", digits=(".2f", "+.2f"))


def _by_fifth(ranked: Sequence[Inferring], judge: ActionEvidence) -> Table:
    """Show R² by fifth of the episode."""
    parts = part_of(judge.held_out, FIFTHS)
    rows = []
    for each in ranked:
        probe = each.row.scores["linear"].probe
        values = [1 - probe.errors[parts == i].sum(0) / probe.deviations[parts == i].sum(0) for i in range(FIFTHS)]
        means = tuple(float(value[value.isfinite()].mean()) if value.isfinite().any() else None for value in values)
        rows.append(TableRow(each.name, each.name, means, control=False))
    columns = tuple(f"{i + 1}/{FIFTHS}" for i in range(FIFTHS))
    return Table("R² by fifth of the episode", columns, tuple(rows), "higher", digits=".2f", folded=True)


def _over_time(ranked: Sequence[Inferring], judge: ActionEvidence) -> Section:
    """Draw true actions, and those of the first two."""
    held_out, source = judge.held_out, judge.source
    lines = {"truth": ("true", held_out.actions)}
    for key, each in zip(("model", "rival"), ranked, strict=False):
        lines[key] = each.name, each.row.scores["linear"].probe.predicted
    caption = f"Actions of a held-out episode{', without the state that they are added to' * judge.added}."
    rows = held_out.episode_of, held_out.frame_of
    return over_time(source.dataset, source.cameras or source.dataset.cameras, rows, judge.names, lines, caption)


def _reading(ranked: Sequence[Inferring]) -> str:
    told = [f"those of {each.name} {percent(each.r2)}" for each in ranked if each.r2 is not None]
    return f"Of how held-out actions vary the inferred ones explain: {', '.join(told)}." if told else ""


def _answer(
    ranked: Sequence[Inferring],
    judge: ActionEvidence,
    best: ProbeRow | None,
    doubt: Mapping[str, Sequence[Verdict]],
) -> Answer:
    """Name the model whose actions are the most right, if they are better than the best control's; of two that cannot
    be told apart the one that looks at no picture."""
    first, others, count = ranked[0], ranked[1:], judge.bootstrap.count
    if first.r2 is None:
        return Answer(QUESTION, None, "Unclear: the actions of these episodes never change.")
    if text := doubted(doubt):
        return Answer(QUESTION, None, text)
    says = f"{first.name}, whose actions explain {percent(first.r2)} of how the robot's differ"
    if count < FEW_HELD_OUT:
        return Answer(QUESTION, None, f"Unclear: {only(count)} held out, and {FEW_EPISODES}. Here {says}, is first.")
    rival = None if best is None else best.value("linear", 0)
    if best is not None and rival is not None:
        span = judge.bootstrap.interval(_draws(judge, first.row) - _draws(judge, best))
        if above_zero(first.r2 - rival, span) is not True:
            way_out = judge.case.filled(FROM_STATE) if best.key == PROPRIO_MAP else NOTHING
            text = f"None of them: {best.plain} explains {percent(rival)} of how the robot's actions differ"
            return Answer(QUESTION, False, f"{text}, {first.name} {percent(first.r2)} ({difference(span)}).", way_out)
    if not others:
        return Answer(QUESTION, True, f"{says}.")
    near = others[0]
    span = judge.bootstrap.interval(_draws(judge, first.row) - _draws(judge, near.row))
    numbers = f"R² {printed(first.r2, '.2f')} against {printed(near.r2 or 0.0, '.2f')}; {difference(span)}"
    gap = first.r2 - (near.r2 or 0.0)
    if gap >= NEAR and above_zero(gap, span):
        return Answer(QUESTION, True, f"{says}; {near.name} follows ({numbers}).")
    alone = next((each for each in (first, near) if each.evidence.by_state), None)
    if alone is not None and not (first.evidence.by_state and near.evidence.by_state):
        other = near if alone is first else first
        return Answer(
            QUESTION, True, f"{alone.name}: it is about as right as {other.name} and looks at no picture ({numbers})."
        )
    return Answer(QUESTION, None, f"{first.name} or {near.name}: their actions are about as right ({numbers}).")
