"""Questions that an evaluation asks, each in a module that registers it: how it is measured, what the report says of
it, and what follows from its verdicts. Here also what all verdicts together mean for a reader: is it good enough?
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, NamedTuple

from lattok.evaluation.evidence import LAST, Case
from lattok.evaluation.report import Answer, Criterion, Decision, Outcome, Verdict
from lattok.evaluation.wording import FEW_EPISODES, NEEDS_TRAINING, percent
from lattok.utils.commands import DATASET, MODEL, NOTHING, Advice, advise, command
from lattok.utils.registry import Registry

STEPS = 4  # of what to do next
NOT_RUN = advise("Train the controls too", command("evaluate", MODEL, DATASET, "--controls", "trained"))
UNCLEAR = advise("Hold out more episodes, or average several seeds.")
ALONE = advise(
    "Hold out five episodes or more, with known actions where these are compared; where there are too few, record more."
)
Asked = Callable[[Any], Outcome | None]


@dataclass(frozen=True, repr=False)
class Question:
    """What is asked of models with evidence of some kinds."""

    name: str
    of: tuple[str, ...]  # kinds of evidence: "chunks" (tokenizers), "labels" (of video), "actions" (inferred), "policy"
    needs: tuple[type, ...]  # protocols: what else the model must be able to do
    ask: Asked
    criteria: tuple[Criterion, ...]  # of its verdicts
    place: int

    def __repr__(self) -> str:
        return f"{self.ask.__module__}.{self.ask.__qualname__}"


QUESTIONS: Registry[Question] = Registry("lattok.questions", "lattok.evaluation.questions")


def question(
    name: str,
    of: tuple[str, ...],
    criteria: tuple[Criterion, ...] = (),
    place: int = LAST,
    needs: tuple[type, ...] = (),
) -> Callable[[Asked], Asked]:
    """Register a function that asks evidence of the kinds `of` something; it returns None where that does not apply.

    A model without all methods of the protocols `needs` is not asked, and the report says so. `place` orders the
    sections of a report; the headline is that of the first two.
    """

    def register(ask: Asked) -> Asked:
        QUESTIONS.add(name, Question(name, of, needs, ask, criteria, place))
        return ask

    return register


def in_order() -> list[Question]:
    """List all questions in the order of reports."""
    return sorted(QUESTIONS.values(), key=lambda each: (each.place, each.name))


def criteria() -> dict[str, Criterion]:
    """Return what verdicts are about, by key, in the order of reports."""
    return {each.key: each for asked in in_order() for each in asked.criteria}


def train_one(recipe: str, what: str = "one") -> Advice:
    """Advise to train another model."""
    return advise(f"Train {what} on this dataset", command("train", recipe, DATASET, "--out", "new"))


class Subject(NamedTuple):
    """What advice about a model depends on."""

    kind: str = ""
    trained: bool = True  # by lattok, and here: who has it from the Hub cannot train it otherwise
    labels: float | None = 0.0  # share of the pairs whose actions supervised; None: it learns from none
    robust: bool = False  # with what the robust preset sets, or of a family that has none
    changes: bool = False  # its decoder predicts and conditions as it should, or has no such options

    @classmethod
    def of(
        cls, kind: str, config: Mapping[str, Any], trained_on: Mapping[str, Any] | None, source: str | None = None
    ) -> "Subject":
        """Find it in a model's type and configuration, what it says of its training, and its name: folder or Hub id."""
        known = trained_on or {}
        share = None if kind == "clip-lam" else float((known.get("labels") or {}).get("fraction", 0.0))
        codebook = config.get("codebook")
        start = codebook.get("start") if isinstance(codebook, Mapping) else None
        robust = kind != "image-lam" or (config.get("latent_norm"), start) == ("batch", "kmeans")
        decoder = config.get("decoder")
        own = decoder if isinstance(decoder, Mapping) else {}
        changes = "predict_change" not in own or (own["predict_change"] and own.get("conditioning") == "add")
        return cls(kind, "loop" in known and "/" not in (source or ""), share, robust, bool(changes))

    def fill(self, advice: Advice) -> Advice:
        """Put what fits this model into an advice."""
        label = advise("label a few per cent of the pairs ({labelled_fraction})", labelled_fraction="0.05")
        if self.labels is None or self.labels >= 1:
            label = advise("train on more episodes")
        elif self.labels > 0:
            label = advise(f"label more than {percent(self.labels)} of the pairs (labelled_fraction)")
        if self.robust or self.labels is None:
            revive, robust = "Train longer, on more episodes, or with fewer codes (codebook_size)", ""
        else:
            preset = "per-token heads, normalised latents, a continuous warm-up and residual codes"
            revive, robust = f"Train with the robust preset: {preset}", ", or with the robust preset"
        change = NOTHING
        if not self.changes:
            said = ", and so do {decoder_predict_change} and {decoder_conditioning}"
            change = advise(said, decoder_predict_change="True", decoder_conditioning="add")
        capital = replace(label, text=label.text[:1].upper() + label.text[1:])
        parts = {"label": label, "Label": capital, "Revive": Advice(revive), "robust": Advice(robust), "change": change}
        return advice.with_fields(parts)

    def advice(self, about: Criterion, holds: bool | None, text: str) -> Advice:
        """Advise on a verdict in one or two sentences; nothing for one that holds, or needs none."""
        if holds is None:
            if NEEDS_TRAINING in text:
                return NOT_RUN
            if FEW_EPISODES in text:
                return ALONE
            unclear = UNCLEAR if about.advice and "not run" not in text else NOTHING
            return (self.fill(about.undecided) if self.trained else NOTHING) or unclear
        if holds or not about.advice:
            return NOTHING
        fits = about.recipe in ("image-lam", self.kind)  # other tokenizers lack the options of P2T's
        if about.use or (self.trained and fits):
            return self.fill(about.advice)
        return about.elsewhere or train_one(about.recipe)


def with_advice(verdicts: Iterable[Verdict], case: Case) -> tuple[Verdict, ...]:
    """Add to verdicts what to do about each with the model of a case."""
    model = case.model
    config: Any = getattr(model, "config", None)  # tokenizers of one's own need none
    known = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
    subject = Subject.of(getattr(model, "type", ""), known, model.trained_on, getattr(model, "source", None))
    advised = ((each, subject.advice(each.about, each.holds, each.text)) for each in verdicts)
    return tuple(replace(each, advice=case.filled(advice)) for each, advice in advised)


def heaviest(decisions: Iterable[Decision]) -> Decision | None:
    return max(decisions, key=lambda each: each.weight, default=None)


def answer(question: str, decisions: Iterable[Decision], verdicts: Iterable[Verdict]) -> Answer | None:
    """Answer by the heaviest decision, of equals the first, with caveats of what falls short; None without any. A Yes
    over its own verdict, which does not hold, is an error of the question."""
    decision = heaviest(decisions)
    if decision is None:
        return None
    if (
        decision.holds
        and decision.by is not None
        and not all(each.holds for each in verdicts if each.about is decision.by)
    ):
        raise ValueError(f"{decision.by.key} does not hold, and the answer is: {decision.text}")
    short = [each.about for each in verdicts if each.holds is False and each.about.caveat and decision.caveats]
    short = [about for about in short if about is not decision.by]  # which the text is about
    *others, last = [each.caveat for each in sorted(short, key=lambda about: -about.weight)] or [""]
    caveats = f" Mind that {', '.join(others)}{' and ' if others else ''}{last}." if last else ""
    return Answer(question, decision.holds, f"{decision.text}{caveats}", decision.way_out)


def next_steps(answer: Answer | None, verdicts: Sequence[Verdict], use: Advice) -> tuple[Advice, ...]:
    """Say what to do next: `use` a model that may be used, then what helps where it falls short or is unclear."""
    advised = [each for each in verdicts if each.holds is False] + [each for each in verdicts if each.holds is None]
    advice = [each.advice for each in sorted(advised, key=lambda each: -each.about.weight) if each.advice]
    if answer is not None and answer.holds:
        others = [each for each in advice if not any(step.verb == "train" for step in each.commands)]
        advice = [use, *others] if use else others  # it is good as it is
    return tuple(dict.fromkeys(advice))[:STEPS]
