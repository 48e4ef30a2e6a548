"""What a report means for a reader: may I use this, and what can be done about what does not hold?

The answer is the heaviest decision of the questions that were asked; caveats and advice come with their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any, NamedTuple

from lattok.evaluation.report import NEEDS_TRAINING, ONE_EPISODE, Answer, Criterion, Decision, Verdict, percent

OTHERWISE = "This model was trained elsewhere: train one on this dataset (lattok train {})."
NOT_RUN = "Run: lattok evaluate MODEL DATASET --controls trained."
UNCLEAR = "Too close to tell: hold out more episodes, or average several seeds."
ALONE = "Hold out more episodes than one."


class Subject(NamedTuple):
    """What advice about a model depends on."""

    trained: bool = True  # by lattok
    labels: float | None = 0.0  # share of the pairs whose actions supervised; None: it learns from none
    robust: bool = False  # with what the robust preset sets, or of a family that has none

    @classmethod
    def of(cls, kind: str, config: Mapping[str, Any], trained_on: Mapping[str, Any] | None) -> Subject:
        """Find it in the type of a model, its configuration, and what it says of its training."""
        known = trained_on or {}
        share = None if kind == "clip-lam" else float((known.get("labels") or {}).get("fraction", 0.0))
        codebook = config.get("codebook")
        start = codebook.get("start") if isinstance(codebook, Mapping) else None
        robust = kind == "moto-lam" or (config.get("latent_norm"), start) == ("batch", "kmeans")
        return cls("loop" in known, share, robust)

    def fill(self, text: str) -> str:
        """Put what fits this model into an advice."""
        label = "label a few per cent of the pairs (labelled_fraction=0.05)"
        if self.labels is None or self.labels >= 1:
            label = "train on more episodes"
        elif self.labels > 0:
            label = f"label more than {percent(self.labels)} of the pairs (labelled_fraction)"
        revive = (
            "Train with the robust preset: per-token heads, normalised latents, a continuous warm-up and residual codes"
        )
        if self.robust or self.labels is None:
            revive = "Train longer, on more episodes, or with fewer codes (codebook_size)"
        robust = "" if self.robust or self.labels is None else ", or with the robust preset"
        return text.format(label=label, Label=label[:1].upper() + label[1:], Revive=revive, robust=robust)

    def advice(self, about: Criterion, holds: bool | None, text: str) -> str:
        """Advise on a verdict in one or two sentences; an empty text for one that holds, or needs none."""
        if holds is None and NEEDS_TRAINING in text:
            return NOT_RUN
        if holds is None and ONE_EPISODE in text:
            return ALONE
        if holds is None:
            unclear = UNCLEAR if about.advice and "not run" not in text else ""
            return (about.undecided if self.trained else "") or unclear
        if holds or not about.advice:
            return ""
        if self.trained or about.use:
            return self.fill(about.advice)
        return about.elsewhere or OTHERWISE.format(about.recipe)


def with_advice(verdicts: Iterable[Verdict], model: Any) -> tuple[Verdict, ...]:
    """Add to verdicts what to do about each with this model."""
    config: Any = getattr(model, "config", None)  # tokenizers of one's own need none
    known = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
    subject = Subject.of(getattr(model, "type", ""), known, model.trained_on)
    return tuple(replace(each, advice=subject.advice(each.about, each.holds, each.text)) for each in verdicts)


def answer(question: str, decisions: Iterable[Decision], verdicts: Iterable[Verdict]) -> Answer | None:
    """Answer by the heaviest decision, of equals the first; None where no question decides anything."""
    decision = max(decisions, key=lambda each: each.weight, default=None)
    if decision is None:
        return None
    short = [each.about for each in verdicts if each.holds is False and each.about.caveat and decision.caveats]
    *others, last = [each.caveat for each in sorted(short, key=lambda about: -about.weight)] or [""]
    caveats = f" Mind that {', '.join(others)}{' and ' if others else ''}{last}." if last else ""
    return Answer(question, decision.holds, f"{decision.text}{caveats} {decision.way_out}".rstrip())
