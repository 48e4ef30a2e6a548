"""What did the model learn from: is it judged on episodes that it was trained on, was it trained in earnest?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lattok.evaluation.case import Case
from lattok.evaluation.evidence.split import seen_episodes
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Outcome, Verdict

OVERLAP = Criterion(
    "held_out_seen", "Evaluate on episodes that were not trained on, or train with episodes=train.", use=True
)
TRIAL = Criterion("trial")


@question("history", of=("chunks", "pairs", "clips", "policy"), criteria=(OVERLAP,), place=0)
def history_outcome(evidence: Any) -> Outcome:
    """Look for held-out episodes among those of the training, and for the mark of a trial run."""
    case = evidence.case
    verdicts, decision = overlap(case), None
    if verdicts:
        text = "That cannot be told from this report: the model was trained on episodes that judge it here."
        decision = Decision(60, None, text, caveats=False)
    if (steps := trial_steps(case.model.trained_on)) is not None:
        text = f"No: this was a trial run of {steps} steps, to see that everything works. Its figures mean nothing."
        decision = Decision(100, False, text, caveats=False)
    return Outcome(verdicts=verdicts, decision=decision)


def overlap(case: Case) -> tuple[Verdict, ...]:
    """Return a failing verdict where held-out episodes were trained on, here or in a dataset that this one copies."""
    seen = seen_episodes(case.model.trained_on, case.dataset, case.split.held_out)
    if not seen.episodes:
        return ()
    count = f"{'' if seen.complete else 'at least '}{len(seen.episodes)} of {len(case.split.held_out)}"
    text = f"{count} held-out episodes were trained on: these figures are too good"
    return (Verdict(text, False, OVERLAP),)


def trial_steps(trained_on: Mapping[str, Any] | None) -> int | None:
    """Return the steps of a trial run; None for a model that was trained in earnest, or that does not say."""
    loop = (trained_on or {}).get("loop")
    return loop.get("steps", 0) if isinstance(loop, Mapping) and loop.get("trial") else None
