"""Action tokenizers side by side, by how far a policy errs that acts by each, and what they cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lattok.data import RobotDataset
from lattok.evaluation.evaluate import evaluate
from lattok.evaluation.evidence import EvalOptions, naming
from lattok.evaluation.page import svg
from lattok.evaluation.questions import learnability
from lattok.evaluation.questions.history import doubted, doubts
from lattok.evaluation.report import Answer, Figures, Interval, Pictures, Report, Section, Table, TableRow
from lattok.utils import checks

FACTS = ("tokens_per_chunk", "horizon", "vocab_size")  # of provenance, which are each tokenizer's own
QUESTION = "Which of these tokenizers should a policy act by?"
ACTED = {  # columns, by the figure of `evaluate`, and the better of the two ways to act
    "better": "a policy's error",
    "policy_error": "by likeliest codes",
    "policy_error/draws": "by mean of draws",
    "policy_error/regression": "without codes",
    "normalised_mse": "the codec's own error",
    "tokens_per_second": "codes a second",
    "bits_per_second": "bits a second",
}
BEHIND = {**learnability.BEHIND, "codes_used": "codes in use"}


def compare_tokenizers(opened: Mapping[str, Callable[[], Any]], dataset: RobotDataset, options: EvalOptions) -> Report:
    """Open and evaluate each tokenizer, and put their figures next to each other. One of another horizon has other
    chunks to predict: where horizons differ none is named."""
    models = {name: each() for name, each in opened.items()}
    alone: dict[str, Any] = vars(replace(options, out=None))
    reports = dict[str, Report]()
    for name, model in models.items():
        with naming(name):
            reports[name] = evaluate(model, dataset, **alone)
    found = {name: report.figures for name, report in reports.items()}
    shared, about = dict[str, Any](), dict[str, dict[str, Any]]()
    for name, report in reports.items():
        facts = dict(report.provenance)
        about[name] = {**facts.pop("model"), **{key: facts.pop(key) for key in FACTS if key in facts}}
        shared = shared or facts
    comparable = all("policy_error" in each for each in found.values())
    judged = {name: doubts(report.verdicts, models[name].trained_on) for name, report in reports.items()}
    verdicts = tuple(replace(each, text=f"{name}: {each.text}") for name in judged for each in judged[name])
    doubt = doubted(judged)
    ranked = sorted(found, key=lambda name: _error(found[name]) if comparable else found[name]["normalised_mse"])
    told = {name: {**each, "better": _error(each)} if "policy_error" in each else each for name, each in found.items()}
    rows, more = (
        tuple(TableRow(name, name, tuple(map(told[name].get, columns)), control=False) for name in ranked)
        for columns in (ACTED, BEHIND)
    )
    horizons = sorted({model.horizon for model in models.values()})
    rows = tuple(replace(row, intervals=(_span(found[row.key]), *[None] * 6)) for row in rows)
    digits = (*["#.3g"] * 5, ".0f", ",.0f")
    errors = Table("Error and cost", tuple(ACTED.values()), rows, "lower", digits=digits)
    points = []
    for name, each in found.items():
        if comparable:
            explained = None if (span := _span(each)) is None else (1 - span[1], 1 - span[0])
            points.append((name, "model", each["bits_per_second"], 1 - _error(each), explained))
    caption = "How much of the variance of actions a policy that acts by the codes explains, against their cost."
    chart = svg.pareto("Bits and error", points, ("bits a second", "explained")) if comparable else ""
    drawn = (Pictures(caption, (chart,), wide=True, top=True),)
    section = Section(
        "How large is the error of a policy that acts by each?",
        "A small policy that sees state and instruction learns the codes of each for the same number of steps and acts "
        "on held-out chunks, by the likeliest codes or by the mean of drawn chunks; the better way counts. Its error "
        "is divided by the variance of training actions, as the error of decoding the right codes is. What "
        f"reconstructs best need not be what is learned best.{_apart(horizons)}",
        (errors, Table("What may lie behind it", tuple(BEHIND.values()), more, folded=True)),
        drawn if comparable else (),
        open=True,
    )
    return Report(
        kind="comparison",
        title=f"{checks.counted(len(reports), 'action tokenizer')} on {dataset.name}",
        headline=_reading(ranked, found) if comparable else "",
        verdicts=verdicts,
        figures={f"{name}/{key}": value for name, figures in found.items() for key, value in figures.items()},
        sections=(section,),
        provenance={**shared, "models": about},
        answer=Answer(QUESTION, None, doubt) if doubt else _answer(ranked, found, horizons, reports[ranked[0]].answer),
        steps=reports[ranked[0]].steps,
    )


def _apart(horizons: Sequence[int]) -> str:
    if len(horizons) == 1:
        return ""
    steps = checks.listed(list(map(str, horizons)))
    return f" Horizons differ ({steps} steps): the first steps of a chunk are easier to predict than later ones."


def _error(figures: Figures) -> float:
    return figures[f"policy_error{learnability.better_way(figures)}"]


def _span(figures: Figures) -> Interval | None:
    """Return the interval of a policy's error, in the way in which it errs less."""
    name = f"policy_error{learnability.better_way(figures)}" if "policy_error" in figures else ""
    return (figures[f"{name}_low"], figures[f"{name}_high"]) if f"{name}_low" in figures else None


def _reading(ranked: list[str], found: Mapping[str, Figures]) -> str:
    each = ", ".join(f"{_error(found[name]):.3g} by {name}" for name in ranked)
    return f"Error of a policy that acts by codes, in units of the variance of actions: {each}."


def _answer(ranked: list[str], found: Mapping[str, Figures], horizons: Sequence[int], own: Answer | None) -> Answer:
    """Name the tokenizer of least policy error, if its `own` answer allows it and the next one's interval is apart."""
    best, others = ranked[0], ranked[1:]
    if own is None or not all("policy_error" in each for each in found.values()):
        text = "the dataset has neither states nor several instructions, or a tokenizer has too many codes"
        least = f"{best} reconstructs best ({found[best]['normalised_mse']:.3g}), which says little about policies"
        return Answer(QUESTION, None, f"Unclear: {text}. {least}.")
    error = _error(found[best])
    said = f"{best}: a policy that acts by it errs by {error:.3g} of the variance of actions"
    near = others[0] if others else best
    against = f"{near} {_error(found[near]):.3g}"
    if len(horizons) > 1:
        return Answer(QUESTION, None, f"Unclear.{_apart(horizons)} {said}, by {against}.")
    if own.holds is not True:
        none = "" if own.holds is None else "None of them. "
        return Answer(QUESTION, own.holds, f"{none}The best is {best}. {own.text}")
    if not others:
        return Answer(QUESTION, True, f"{said}.")
    spans = [_span(found[name]) for name in ranked[:2]]
    if spans[0] is None or spans[1] is None or spans[0][1] >= spans[1][0]:
        text = f"{best} or {near}: the intervals of a policy's error overlap ({error:.3g}; {against})."
        few, many = sorted(ranked[:2], key=lambda name: found[name]["tokens_per_second"])
        if (least := found[few]["tokens_per_second"]) < (most := found[many]["tokens_per_second"]):
            text += f" {few} costs fewer codes: {least:.0f} a second against {most:.0f}."
        return Answer(QUESTION, None, text)
    return Answer(QUESTION, True, f"{said}, by {against}.")
