"""Models side by side on the same held-out episodes: latent action models (see `latents`), or action tokenizers, by how
far a policy errs that acts by each, and what they cost.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from lattok import hub
from lattok.data import RobotDataset, as_dataset
from lattok.data.schema import own_vectors
from lattok.evaluation.evaluate import evaluate
from lattok.evaluation.evidence import EvalOptions, facts_of
from lattok.evaluation.latents import compare_latents
from lattok.evaluation.page import check_folder, check_place, svg, write
from lattok.evaluation.questions import learnability
from lattok.evaluation.questions.history import doubted, doubts
from lattok.evaluation.report import Answer, Figures, Interval, Pictures, Report, Section, Table, TableRow
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.clips import ClipLAM
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.devices import moved

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


def compare(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Sequence[Any] | Mapping[str, Any],
    *,
    device: str | None = None,
    **options: Any,
) -> Report:
    """Judge latent action models of pairs or clips, or action tokenizers, on the same episodes: a row for each.

    `models`: folders, Hub ids or loaded ones, or a mapping of these by name. They are loaded one after the other, moved
    to `device` where one is given; those that see frames of the same cameras and size in a row share the decoded ones.
    A model of video is judged at its own `stride` and cameras unless others are given; it takes as many of `cameras`
    as it has. Other `options` are those of `EvalOptions`; figures are those of `evaluate`: `NAME/r2_from_codes/codes`.

    Raises `LattokError` for models of other kinds or without names of their own, an unknown option, a dataset
    without actions, and where `out` holds something else.
    """
    chosen, dataset = EvalOptions.of(options, "device"), as_dataset(dataset)
    named, of_actions = _named(models)
    action_key = chosen.action_key
    if action_key is None or not own_vectors(dataset):
        got = f"{action_key!r:.60}, and {dataset.name} has no vectors" if action_key is not None else "None"
        hint = "Judge each model alone: evaluate asks the questions that need no actions."
        checks.fail("action_key", "a column of actions: they are what labels are compared by", got, hint)
    opened = {name: partial(_opened, *each, device) for name, each in named.items()}
    if chosen.folder is not None:
        check_folder(chosen.folder)
        if not chosen.overwrite and chosen.folder.is_dir() and any(chosen.folder.iterdir()):  # not when all is computed
            described = {name: each().describe() for name, each in opened.items()}
            check_place(chosen.folder, {"models": described, "dataset": facts_of(dataset)}, overwrite=False)
    if of_actions:
        report = compare_tokenizers({name: each() for name, each in opened.items()}, dataset, chosen)
    else:
        report = compare_latents(opened, dataset, chosen)
    if chosen.folder is not None:
        write(report, chosen.folder, chosen.overwrite)
    return report


def _opened(model: Any, place: hub.Place | None, device: str | None) -> Any:
    return moved(model if place is None else hub.family_of(place.folder).from_place(place), device)


def _named(models: Sequence[Any] | Mapping[str, Any]) -> tuple[dict[str, tuple[Any, hub.Place | None]], bool]:
    """Name the models, loaded or by their place, and say whether they are action tokenizers; none is loaded here."""
    if isinstance(models, str | os.PathLike) or not isinstance(models, Mapping | Sequence) or not models:
        checks.fail("models", "folders, Hub ids or models, one or more of them", f"{models!r:.60}")
    found: dict[str, tuple[Any, hub.Place | None]] = {}
    of_actions = set[bool]()
    given = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    for name, model in given:
        place = hub.resolve(model, argument="models") if isinstance(model, str | os.PathLike) else None
        kind: Any = model if place is None else hub.family_of(place.folder, "models")
        family = kind if isinstance(kind, type) else type(kind)
        of_actions.add(issubclass(family, ActionTokenizer))
        if len(of_actions) > 1 or not issubclass(family, PairModel | ClipLAM | ActionTokenizer):
            got = type(model).__name__ if place is None else f"{kind.type!r} in {place.folder}"
            checks.fail("models", "latent action models of frame pairs or clips, or action tokenizers alone", got)
        source = kind.source if place is None else place.hub_id or place.folder.resolve().name
        name = str(name or source or kind.type)
        if name in found:
            with suppress(TypeError):  # two folders of the same name
                name = os.fspath(model)
        if name in found:
            hint = 'Name them: {"a": MODEL, "b": MODEL}.'
            checks.fail("models", "models with different names", f"{name!r} twice", hint)
        found[name] = model, place
    return found, of_actions == {True}


def compare_tokenizers(models: Mapping[str, Any], dataset: RobotDataset, options: EvalOptions) -> Report:
    """Evaluate each of the tokenizers, by name, and put their figures next to each other. A tokenizer of another
    horizon has other chunks to predict: where horizons differ none is named."""
    alone: dict[str, Any] = vars(replace(options, out=None))
    reports = dict[str, Report]()
    for name, model in models.items():
        try:
            reports[name] = evaluate(model, dataset, **alone)
        except checks.LattokError as error:
            raise checks.LattokError(f"{name}: {error}") from None
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
        title=f"{len(reports)} action tokenizer{'s' * (len(reports) > 1)} on {dataset.name}",
        headline=_reading(ranked, found) if comparable else "",
        verdicts=verdicts,
        figures={f"{name}/{key}": value for name, figures in found.items() for key, value in figures.items()},
        sections=(section,),
        provenance={**shared, "models": about},
        answer=Answer(QUESTION, None, doubt) if doubt else _answer(ranked, found, horizons, reports[ranked[0]].answer),
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
        return Answer(QUESTION, None, f"That cannot be told: {text}. {least}.")
    error = _error(found[best])
    said = f"{best}: a policy that acts by it errs by {error:.3g} of the variance of actions"
    near = others[0] if others else best
    against = f"{near} {_error(found[near]):.3g}"
    if len(horizons) > 1:
        return Answer(QUESTION, None, f"That cannot be told.{_apart(horizons)} {said}, by {against}.")
    if own.holds is not True:
        none = "" if own.holds is None else "None of them. "
        return Answer(QUESTION, own.holds, f"{none}The best is {best}. {own.text}")
    if not others:
        return Answer(QUESTION, True, f"{said}.")
    spans = [_span(found[name]) for name in ranked[:2]]
    if spans[0] is None or spans[1] is None or spans[0][1] >= spans[1][0]:
        text = f"{best} or {near}: the intervals of a policy's error overlap ({error:.3g}; {against})."
        return Answer(QUESTION, None, text)
    return Answer(QUESTION, True, f"{said}, by {against}.")
