"""Judging a model on held-out episodes: gather its evidence, ask every question of it, put the outcomes in a report."""

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from lattok.data import RobotDataset, as_dataset
from lattok.evaluation.evidence import Case, EvalOptions, provenance_of
from lattok.evaluation.evidence.action_evidence import ActionEvidence
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.tokenizer_evidence import TokenizerEvidence
from lattok.evaluation.page import check_place, write
from lattok.evaluation.questions import answer, in_order, next_steps, with_advice
from lattok.evaluation.questions.policies import PolicyEvidence
from lattok.evaluation.report import Outcome, Report
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.training import LoopOptions
from lattok.utils import checks

Evidence: TypeAlias = TokenizerEvidence | LatentEvidence | ActionEvidence | PolicyEvidence
EVIDENCE: Mapping[str, type[Evidence]] = {  # by what a family of models says of itself
    "chunks": TokenizerEvidence,
    "pairs": LatentEvidence,
    "clips": LatentEvidence,
    "actions": ActionEvidence,
    "policy": PolicyEvidence,
}
HEADLINE = 2  # questions whose findings it repeats


def evaluate(
    model: Any,
    dataset: RobotDataset | str | os.PathLike[str],
    *,
    controls: Literal["quick", "trained"] = "quick",
    control_loop: LoopOptions | None = None,
    rollouts: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Judge a model on held-out episodes of a dataset; paths also work.

    It is an action tokenizer, a latent action model, an inverse dynamics model or a policy.

    `options` are those of `EvalOptions`: `out`, `episodes`, `action_key`, `state_key`, `cameras`, `stride`,
    `max_episodes`, `seed`, `progress`, `overwrite`, `any_rate`. With `out`, writes `report.json` and `report.html`
    there. `controls="trained"` also trains what needs training (`control_loop`; kept in `out/controls`).
    Policies and inverse dynamics models are compared with the actions that they learned from unless another
    `action_key` is given; `rollouts` of a policy, what `lattok.sim.rollout(...).to_json()` gives, come first.

    Raises `LattokError` for another kind of model, an unknown option, a dataset that does not fit,
    and where `out` holds something else.
    """
    chosen = EvalOptions.of(options, "controls", "control_loop", "rollouts")
    checks.one_of("controls", controls, ("quick", "trained"))
    model, dataset = load(model) if isinstance(model, str | os.PathLike) else model, as_dataset(dataset)
    kind = str(getattr(model, "evidence", None))
    if kind not in EVIDENCE:
        expected = "an action tokenizer, a latent action model, an inverse dynamics model or a policy"
        got = model.type if isinstance(getattr(model, "type", None), str) else type(model).__name__
        checks.fail("model", expected, got)
    if rollouts is not None and kind != "policy":
        checks.fail("rollouts", "none for a model that does not act", "some")
    model, chosen = for_dataset(model, dataset.name), chosen.seen_by(model)
    chosen.check_rate(model, dataset)
    key = chosen.action_key if kind in ("chunks", "pairs", "clips") else None  # others say themselves what they compare
    case = Case(model, dataset, chosen.split(dataset, key), chosen, controls == "trained", control_loop, rollouts)
    asked = {"controls": controls, "seed": chosen.seed, "action_key": chosen.action_key, "state_key": chosen.state_key}
    asked |= {"any_rate": True} if chosen.any_rate else {}
    provenance = {"model": model.describe(), **provenance_of(dataset, case.split, **asked)}
    if chosen.folder is not None:
        check_place(chosen.folder, provenance, chosen.overwrite)
    with case.eval_mode():
        evidence, found = EVIDENCE[kind].gather(case), list[Outcome | None]()
        questions = [each for each in in_order() if kind in each.of]
        for question in questions:
            chosen.note("questions", len(found), len(questions))
            found.append(question.ask(evidence))
        chosen.note("questions", len(found), len(questions))
    report = _report(evidence, [outcome for outcome in found if outcome is not None], provenance)
    if chosen.folder is not None:
        write(report, chosen.folder, chosen.overwrite)
    return report


def _report(evidence: Evidence, outcomes: list[Outcome], provenance: Mapping[str, Any]) -> Report:
    case, shown = evidence.case, [outcome for outcome in outcomes if outcome.sections][:HEADLINE]
    readings = [outcome.headline or outcome.sections[0].reading for outcome in shown]
    verdicts = with_advice([verdict for outcome in outcomes for verdict in outcome.verdicts], case)
    decisions = [outcome.decision for outcome in outcomes if outcome.decision is not None]
    found = answer(evidence.asks, decisions, verdicts)
    said = "" if found is None else found.text  # stands right above
    return Report(
        kind=evidence.kind,
        title=f"{case.model.source or type(case.model).__name__} on {case.dataset.name}",
        headline=" ".join(each for each in readings if each and each not in said),
        verdicts=verdicts,
        figures={name: value for outcome in outcomes for name, value in outcome.figures.items()},
        sections=tuple(section for outcome in outcomes for section in outcome.sections),
        provenance={**evidence.provenance, **provenance},
        answer=found,
        steps=next_steps(found, verdicts, case.named(evidence.use)),
    )
