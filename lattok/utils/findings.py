"""What is wrong with something and what to do about it, as plain text of 88 columns, beyond which only words go."""

import textwrap
from collections.abc import Iterable, Iterator
from functools import partial
from string import Formatter
from typing import Any, Literal, NamedTuple

from lattok.utils.checks import counted

COMMAND = ": lattok "  # what follows can be typed
WIDTH = 88
SHOWN = 8  # findings of one kind that are spelled out
Severity = Literal["error", "warning", "note"]
ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


class Finding(NamedTuple):
    """Something that will hurt, and what to do about it."""

    severity: Severity
    what: str
    advice: str


class _Counting(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        one, many, others = format_spec.partition("|")
        return counted(value, one, others) if many else super().format_field(value, format_spec)


class Problem(NamedTuple):
    """What a check may find. Its texts have {fields} for the case at hand, {count:episode is|episodes are} for a number
    with its noun; the documentation lists them as they are."""

    severity: Severity
    what: str
    advice: str = ""

    def finding(self, **facts: object) -> Finding:
        return Finding(self.severity, *(_Counting().vformat(text, (), facts) for text in (self.what, self.advice)))


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
        text = " ".join(f"{finding.what} {finding.advice}".split())
        yield from wrapped(text, WIDTH, f"{finding.severity:<8}", " " * 8)


def wrapped(text: str, width: int, first: str, later: str) -> Iterator[str]:
    """Yield lines of a text, indented by `first` and `later`; a command at its end keeps a line, to be copied."""
    said, mark, command = text.partition(COMMAND)
    wrapper = textwrap.TextWrapper(width, first, later, break_long_words=False, break_on_hyphens=False)
    yield from wrapper.wrap(said + mark[:1])  # paths and names stay whole, to be copied
    if mark:
        yield f"{later}{mark[2:]}{command}"


def fitted(label: str, text: str) -> str:
    """Return one line of facts, cut where it would be too wide."""
    line = f"  {label:<10}" + " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
