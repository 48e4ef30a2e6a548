"""Questions that an evaluation asks, each in a module that registers it: how it is measured, what the report says of
it, and what follows from its verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lattok.evaluation.report import Criterion, Outcome
from lattok.utils.registry import Registry

LAST = 100  # place of a question that names none: after those of lattok


@dataclass(frozen=True, repr=False)
class Question:
    """What is asked of models with evidence of some kinds."""

    name: str
    of: tuple[str, ...]  # kinds of evidence: "chunks" (tokenizers), "pairs", "clips" (latent action models), "policy"
    ask: Callable[[Any], Outcome | None]
    criteria: tuple[Criterion, ...]  # of its verdicts
    place: int

    def __repr__(self) -> str:
        return f"{self.ask.__module__}.{self.ask.__qualname__}"


QUESTIONS: Registry[Question] = Registry("lattok.questions", "lattok.evaluation.questions")
Asked = Callable[[Any], Outcome | None]


def question(
    name: str, of: tuple[str, ...], criteria: tuple[Criterion, ...] = (), place: int = LAST
) -> Callable[[Asked], Asked]:
    """Register a function that asks evidence of the kinds `of` something; it returns None where that does not apply.

    `place` is where its section stands in the report; the headline is that of the first two.
    """

    def register(ask: Asked) -> Asked:
        QUESTIONS.add(name, Question(name, of, ask, criteria, place))
        return ask

    return register


def questions_of(kind: str) -> list[Question]:
    """List the questions that are asked of a kind of evidence, in their order."""
    return _ordered(each for each in QUESTIONS.values() if kind in each.of)


def criteria() -> dict[str, Criterion]:
    """Return what verdicts are about, by key, in the order of reports."""
    return {each.key: each for asked in _ordered(QUESTIONS.values()) for each in asked.criteria}


def _ordered(questions: Iterable[Question]) -> list[Question]:
    return sorted(questions, key=lambda each: (each.place, each.name))
