"""Judging a model on held-out episodes: gather its evidence, ask every question of it, put the outcomes in a report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lattok.data import RobotDataset, as_dataset
from lattok.evaluation.evidence import Case, EvalOptions, Evidence, check_says, kinds_of, provenance_of
from lattok.evaluation.page import check_place, write
from lattok.evaluation.questions import answer, heaviest, in_order, next_steps, with_advice
from lattok.evaluation.report import Outcome, Report
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.training import LoopOptions
from lattok.types import Acts, lacks
from lattok.utils import checks

HEADLINE = 2  # questions whose findings it repeats
OFFERED = ("type", "source", "trained_on", "datasets", "describe")  # by the classes of `lattok.types`


def evaluate(
    model: Any = None,
    dataset: RobotDataset | str | os.PathLike[str] | None = None,
    *,
    labels: Any = None,
    controls: Literal["quick", "trained"] = "quick",
    control_loop: LoopOptions | None = None,
    rollouts: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = (),
    **options: Any,
) -> Report:
    """Evaluate a model on held-out episodes of a dataset; paths also work.

    It is an action tokenizer, a latent action model, an inverse dynamics model or a policy, of any package: what is
    asked depends on its methods (the protocols in `lattok.types`), and the report names what could not be asked.

    Existing labels are evaluated without a model: `evaluate(dataset, labels=...)`. They are codes, vectors
    or actions: a column of the dataset or the prefix of several (`latent`), a folder that `annotate` wrote or one of
    `episode_000012.npy`, an array of all frames [F, n], or a list of arrays, one for each episode
    (`lattok.labels.given_labels` says which rows an episode may have).

    `options` are those of `EvalOptions`: `out`, `episodes`, `action_key`, `state_key`, `cameras`, `stride`,
    `max_episodes`, `seed`, `progress`, `overwrite`, `any_rate`. With `out`, writes `report.json` and `report.html`
    there. `controls="trained"` also trains what needs training (`control_loop`; kept in `out/controls`).
    Policies and inverse dynamics models are compared with the actions that they learned from unless another
    `action_key` is given; `rollouts` of a policy, what `lattok.sim.rollout(...).to_json()` gives, come first. Without
    them the report proposes some if `tasks` names those of simulators that the policy knows.

    Raises `LattokError` for another kind of model, an unknown option, a dataset that does not fit,
    and where `out` holds something else.
    """
    chosen = EvalOptions.of(options, "controls", "control_loop", "rollouts", "tasks")
    checks.one_of("controls", controls, ("quick", "trained"))
    if labels is not None and dataset is None:  # evaluate(dataset, labels=...)
        model, dataset = None, model
    if labels is not None and model is not None:
        hint = "lattok.compare(dataset, [MODEL], labels=...) evaluates both."
        checks.fail("labels", "none beside a model", "both", hint)
    if dataset is None:
        checks.fail("dataset", "a dataset, a path or a Hub id", "none")
    model, dataset = load(model) if isinstance(model, str | os.PathLike) else model, as_dataset(dataset)
    if labels is not None:
        model = chosen.labelled(dataset, labels)
    if not (kinds := kinds_of(model)):
        expected = "an action tokenizer, a latent action model, an inverse dynamics model or a policy"
        got = model.type if isinstance(getattr(model, "type", None), str) else type(model).__name__
        checks.fail("model", expected, got)
    check_says(model, (*OFFERED, *kinds[0].cls.reads))
    if rollouts is not None and lacks(model, Acts):
        checks.fail("rollouts", "none for a model that does not act", "some")
    model, chosen = for_dataset(model, dataset.name), chosen.seen_by(model)
    chosen.check_rate(model, dataset)
    key = chosen.action_key if kinds[0].cls.by_column else None
    split = chosen.split(dataset, key, chosen.cameras or getattr(model, "cameras", ()))
    case = Case(model, dataset, split, chosen, controls == "trained", control_loop, rollouts, tuple(tasks))
    asked = {"controls": controls, "seed": chosen.seed, "action_key": chosen.action_key, "state_key": chosen.state_key}
    asked |= {"any_rate": True} if chosen.any_rate else {}
    provenance = {"model": model.describe(), **provenance_of(dataset, case.split, **asked)}
    if chosen.folder is not None:
        check_place(chosen.folder, provenance, chosen.overwrite)
    with case.eval_mode():
        evidence, found = {kind.name: kind.cls.gather(case) for kind in kinds}, list[Outcome | None]()
        asked_of = [(each, kind.name) for each in in_order() for kind in kinds if kind.answers(each.of)]
        missing = {each.name: lacks(model, *each.needs) for each, _ in asked_of}
        asked_of = [(each, name) for each, name in asked_of if not missing[each.name]]
        for question, name in asked_of:
            chosen.note("questions", len(found), len(asked_of))
            found.append(question.ask(evidence[name]))
        chosen.note("questions", len(found), len(asked_of))
    if any(missing.values()):
        told = "labels alone cannot say" if labels is not None else "the model has no {}"
        reasons = {name: told.format(" or ".join(these)) for name, these in missing.items() if these}
        provenance["not_asked"] = reasons
    report = _report([*evidence.values()], [outcome for outcome in found if outcome is not None], provenance)
    if chosen.folder is not None:
        write(report, chosen.folder, chosen.overwrite)
    return report


def _report(every: Sequence[Evidence], outcomes: list[Outcome], provenance: Mapping[str, Any]) -> Report:
    evidence = every[0]
    case, shown = evidence.case, [outcome for outcome in outcomes if outcome.sections][:HEADLINE]
    readings = [outcome.headline or outcome.sections[0].reading for outcome in shown]
    readings += [section.reading for outcome in outcomes for section in outcome.sections if section.lead]
    verdicts = with_advice([verdict for outcome in outcomes for verdict in outcome.verdicts], case)
    decisions = [outcome.decision for outcome in outcomes if outcome.decision is not None]
    found, decided = answer(evidence.asks, decisions, verdicts), heaviest(decisions)
    by = None if decided is None else decided.by
    verdicts = tuple(replace(each, decides=each.about is by) for each in verdicts)
    said = "" if found is None else found.text  # stands right above
    readings = [*dict.fromkeys(each for each in readings if each and each not in said)]
    return Report(
        kind=evidence.kind,
        title=f"{case.model.source or type(case.model).__name__} on {case.dataset.name}",
        headline=" ".join(readings),
        verdicts=verdicts,
        figures={name: value for outcome in outcomes for name, value in outcome.figures.items()},
        sections=tuple(section for outcome in outcomes for section in outcome.sections),
        provenance={**{key: value for each in every for key, value in each.provenance.items()}, **provenance},
        answer=found,
        steps=next_steps(found, verdicts, evidence.next),
    )
