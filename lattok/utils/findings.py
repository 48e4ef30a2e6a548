"""What is wrong with something and what to do about it, as plain text of 88 columns, beyond which only words go."""

from collections.abc import Iterable, Iterator
from functools import partial
from string import Formatter
from typing import Any, Literal, NamedTuple

from lattok.utils.checks import counted
from lattok.utils.commands import Command, in_a_row, lines_of

WIDTH = 88
SHOWN = 8  # findings of one kind that are spelled out
Severity = Literal["error", "warning", "note"]
ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


class Finding(NamedTuple):
    """Something that will hurt, and what to do about it."""

    severity: Severity
    what: str
    advice: str
    commands: tuple[Command, ...] = ()  # that do it, one after the other
    problem: "Problem | None" = None  # the kind that it is one of
    facts: tuple[tuple[str, Any], ...] = ()  # of the case at hand, by field of the problem's texts

    @property
    def text(self) -> str:
        return f"{self.what} {self.advice}{':' if self.commands else ''}"

    def __str__(self) -> str:
        return f"{self.text} {in_a_row(self.commands)}".strip()


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

    def finding(self, **facts: object) -> Finding:
        what, advice = (_Counting().vformat(text, (), facts) for text in (self.what, self.advice))
        known = () if self.command is None else (self.command,)
        commands = (Command(each.verb, tuple(word.format(**facts) for word in each.words)) for each in known)
        return Finding(self.severity, what, advice, tuple(commands), self, tuple(facts.items()))


error, warning, note = (partial(Problem, severity) for severity in ORDER)
Found = Iterator[tuple[str, str] | Finding]  # facts (label, text) and findings, as they come


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings, errors first, then warnings and notes; the same text once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: ORDER[finding.severity]))


def some_of(findings: Iterable[Finding], rest: str) -> Iterator[Finding]:
    """Return the first few findings of one kind, and the number of the others, which are `rest`."""
    different = list(dict.fromkeys(findings))
    yield from different[:SHOWN]
    if len(different) > SHOWN:
        yield Finding(different[0].severity, f"… and {len(different) - SHOWN:,} more {rest}.", "")


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield wrapped lines, each finding under its severity."""
    for finding in findings:
        text = " ".join(finding.text.split())
        yield from lines_of(text, WIDTH, f"{finding.severity:<8}", " " * 8, finding.commands)


def fitted(label: str, text: str) -> str:
    """Return one line of facts, cut where it would be too wide."""
    line = f"  {label:<10}" + " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
