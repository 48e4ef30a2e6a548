"""What an evaluation found: one sentence, verdicts, a flat summary, tables in which numbers stand beside controls.

`Report` knows nothing about models; `page` turns it into HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lattok import files

SCHEMA = 2
Progress = Callable[[str, int, int], None]  # stage, done, total
Interval = tuple[float, float]  # 95 %
NEEDS_TRAINING = "not run: --controls trained"


def printed(value: float, digits: str) -> str:
    """A number in a format, with a true minus; what rounds to zero has no sign."""
    text = format(value, digits)
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def percent(share: float) -> str:
    """A share as a whole number of per cent."""
    return f"{printed(100 * share, '.0f')} %"


@dataclass(frozen=True)
class Row:
    """One line of a table: the model, or a control beside it."""

    key: str  # short and stable, for scripts
    name: str
    values: tuple[float | None, ...] = ()  # one per column; None has nothing to show
    control: bool = True
    reference: bool = False  # a ceiling or floor that nobody is asked to beat
    not_run: str = ""  # why there are no values
    intervals: tuple[Interval | None, ...] = ()  # one per column where there are any

    def as_dict(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """JSON form."""
        entry: dict[str, Any] = {"key": self.key, "name": self.name, "control": self.control}
        if self.not_run:
            return {**entry, "not_run": self.not_run}
        entry["values"] = dict(zip(columns, self.values, strict=True))
        if self.intervals:
            entry["intervals"] = dict(zip(columns, self.intervals, strict=True))
        return entry


@dataclass(frozen=True)
class Table:
    """Rows beside one another; the first row is the one the controls are compared with."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    better: str = ""  # "lower", "higher", or "" where neither is
    decides: int = 0  # column that says whether a control wins
    digits: str | tuple[str, ...] = "#.3g"  # format of all columns, or of each
    note: str = ""
    folded: bool = False  # opens on a click

    def shown(self, value: float | None, column: int) -> str:
        """A value as the page prints it."""
        digits = self.digits if isinstance(self.digits, str) else self.digits[column]
        return "–" if value is None else printed(value, digits).rstrip(".")

    def interval(self, row: Row, column: int) -> str:
        """The interval of a value as the page prints it, or nothing."""
        span = row.intervals[column] if row.intervals else None
        return "" if span is None else " … ".join(self.shown(end, column) for end in span)

    def wins(self, row: Row, column: int) -> bool:
        """Whether a control is better than the first row in a column."""
        first = self.rows[0]
        if not self.better or not row.control or row.reference or row.not_run or first.not_run:
            return False
        own, other = first.values[column], row.values[column]
        if own is None or other is None:
            return False
        return other < own if self.better == "lower" else other > own

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        rows = [row.as_dict(self.columns) for row in self.rows]
        winners = [row.key for row in self.rows if self.wins(row, self.decides)]
        return {"title": self.title, "better": self.better, "rows": rows, "controls_that_win": winners}


@dataclass(frozen=True)
class Pictures:
    """Small panels that share a caption; each is SVG or HTML without anything from outside the page."""

    caption: str
    panels: tuple[str, ...]
    wide: bool = False
    title: str = ""
    folded: bool = False  # opens on a click


@dataclass(frozen=True)
class Section:
    """One question: its answer in a sentence, how it was asked, tables and pictures, and who asked it before."""

    title: str
    text: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    reading: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One line under the headline: does the model hold up against a control?"""

    text: str
    holds: bool | None  # None: not decided, e.g. because a control was not run
    key: str = ""  # what was asked; `advice` knows what to do about it

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"text": self.text, "holds": self.holds, "key": self.key}


def tally(held: Sequence[bool | None]) -> str:
    """Verdicts of each kind in words."""
    return f"{held.count(True)} hold up, {held.count(False)} fall short, {held.count(None)} open"


class Part(NamedTuple):
    """What one question adds to a report."""

    section: Section
    figures: dict[str, float]
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Report:
    """The outcome of `evaluate`."""

    kind: str  # the model's type
    title: str
    headline: str
    verdicts: tuple[Verdict, ...]
    figures: dict[str, float]
    sections: tuple[Section, ...] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """What goes onto the model card and is repeated by `lattok doctor`: headline, verdicts and figures."""
        verdicts = [verdict.as_dict() for verdict in self.verdicts]
        return {"headline": self.headline, "verdicts": verdicts, "figures": dict(self.figures)}

    @property
    def tally(self) -> str:
        """How many verdicts there are of each kind."""
        return tally([verdict.holds for verdict in self.verdicts])

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become null."""
        value = {
            "schema": SCHEMA,
            "kind": self.kind,
            **self.summary(),
            "sections": [
                {
                    "title": section.title,
                    "reading": section.reading,
                    "tables": [table.as_dict() for table in section.tables],
                }
                for section in self.sections
            ],
            "provenance": self.provenance,
        }
        return json.dumps(files.finite(value), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Headline and verdicts for a terminal: + holds, - does not, ? was not decided."""
        marks = {True: "+", False: "-", None: "?"}
        return "\n".join([self.headline, *(f"  {marks[verdict.holds]} {verdict.text}" for verdict in self.verdicts)])

    def to_html(self) -> str:
        """One self-contained page."""
        from lattok.evaluation.page import render

        return render(self)
