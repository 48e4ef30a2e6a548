"""What is wrong with something and what to do about it, as data, and as plain text of 88 columns, beyond which only
words go."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from math import isfinite
from string import Formatter
from typing import Any, Literal, NamedTuple

from lattok.utils.checks import counted, few_of
from lattok.utils.commands import Command, in_a_row, lines_of

WIDTH = 88
SHOWN = 8  # findings of one kind that are spelled out
NAMED = 6  # episodes named in a sentence
Severity = Literal["error", "warning", "note"]
ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


class Finding(NamedTuple):
    """Something that will cause trouble, and what to do about it."""

    severity: Severity
    what: str
    advice: str
    commands: tuple[Command, ...] = ()  # that do it, one after the other
    problem: "Problem | None" = None  # the kind that it is one of
    facts: tuple[tuple[str, str | int | float], ...] = ()  # of the case at hand, by field of the problem's texts
    cost: str = ""  # what it does to what is trained
    episodes: tuple[int, ...] = ()  # all that it is about, ascending; empty: the whole dataset
    places: tuple[tuple[int, int], ...] = ()  # (episode, frame) at which it begins, where it does inside episodes

    @property
    def kind(self) -> str:
        """Return its kind, the same in every version; empty if it is not about a dataset."""
        return "" if self.problem is None else self.problem.kind

    @property
    def text(self) -> str:
        return " ".join(filter(None, (self.what, self.cost, f"{self.advice}{':' if self.commands else ''}")))

    def __str__(self) -> str:
        return f"{self.text} {in_a_row(self.commands)}".strip()

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, with all keys."""
        facts = {key: None if isinstance(each, float) and not isfinite(each) else each for key, each in self.facts}
        told = {"kind": self.kind, **self._asdict(), "commands": [*map(str, self.commands)], "facts": facts}
        return {key: each for key, each in told.items() if key != "problem"}


class _Counting(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        one, many, others = format_spec.partition("|")
        return counted(value, one, others) if many else super().format_field(value, format_spec)


class Problem(NamedTuple):
    """What a check may find. Its texts and words of its command have {fields} for the case at hand, {count:episode
    is|episodes are} for a number with its noun; the documentation lists them as they are."""

    severity: Severity
    what: str
    advice: str = ""
    command: Command | None = None
    kind: str = ""
    cost: str = ""

    def finding(
        self, episodes: Iterable[int] = (), places: Iterable[tuple[int, int]] = (), /, **facts: object
    ) -> Finding:
        """Fill in the facts. Of `episodes`, or those of `places`, come {count}, {first} and {named} unless given."""
        begins = tuple((int(episode), int(frame)) for episode, frame in places)
        chosen = tuple(sorted({int(each) for each in episodes} | {episode for episode, _ in begins}))
        if chosen:
            facts = {"count": len(chosen), "first": chosen[0], "named": few_of(chosen, NAMED)} | facts
        fill = partial(_Counting().vformat, args=(), kwargs=facts)
        known = () if self.command is None else (self.command,)
        commands = (Command(each.verb, tuple(word.format(**facts) for word in each.words)) for each in known)
        texts = fill(self.what), fill(self.advice), tuple(commands)
        return Finding(self.severity, *texts, self, _plain(facts), fill(self.cost), chosen, begins)


def _plain(facts: Mapping[str, object]) -> tuple[tuple[str, str | int | float], ...]:
    """Return facts as numbers and texts; without the words of commands and the list of episodes."""
    plain = {key: getattr(each, "item", lambda each=each: each)() for key, each in facts.items()}  # of numpy
    texts = ((key, each if isinstance(each, int | float) else str(each)) for key, each in plain.items())
    return tuple((key, each) for key, each in texts if key not in ("dataset", "out", "named"))


error, warning, note = (partial(Problem, severity) for severity in ORDER)
Found = Iterator[tuple[str, str] | Finding]  # facts (label, text) and findings, as they come


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings, errors first, then warnings and notes, those of a kind together; the same text once."""
    found = dict[tuple[str, str], Finding]()
    for each in findings:
        key = each.severity, str(each)
        before = found.get(key, each)
        found[key] = before._replace(episodes=tuple(sorted({*before.episodes, *each.episodes})))
    kinds = list(dict.fromkeys(each.kind for each in found.values()))
    return tuple(sorted(found.values(), key=lambda each: (ORDER[each.severity], kinds.index(each.kind))))


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield wrapped lines, each finding under its severity; of many of a kind the first few."""
    for (severity, kind), group in groupby(findings, key=lambda each: (each.severity, each.kind)):
        found = list(group)
        shown = found[:SHOWN] if kind else found
        for finding in shown:
            text = " ".join(finding.text.split())
            yield from lines_of(text, WIDTH, f"{finding.severity:<8}", " " * 8, finding.commands)
        if len(found) > len(shown):
            yield f"{severity:<8}… and {len(found) - len(shown):,} more of this kind."


def wrapped(label: str, text: str) -> Iterator[str]:
    """Yield lines of facts that may not be cut."""
    for i, line in enumerate(textwrap.wrap(" ".join(text.split()), WIDTH - 12, break_on_hyphens=False)):
        yield f"  {'' if i else label:<10}{line}"


def fitted(label: str, text: str) -> str:
    """Return one line of facts, cut where it would be too wide."""
    line = f"  {label:<10}" + " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
