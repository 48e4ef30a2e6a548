"""What an evaluation found: one sentence, a flat summary, tables in which every number stands beside its control.

`Report` knows nothing about models; `page` turns it into HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lattok import files

SCHEMA = 1
Progress = Callable[[str, int, int], None]  # stage, done, total
NEEDS_TRAINING = "not run: --controls trained"


@dataclass(frozen=True)
class Row:
    """One line of a table: the model, or a control beside it."""

    key: str  # short and stable, for scripts
    name: str
    values: tuple[float | None, ...] = ()  # one per column; None has nothing to show
    control: bool = True
    reference: bool = False  # a ceiling or floor that nobody is asked to beat
    not_run: str = ""  # why there are no values

    def as_dict(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """JSON form."""
        entry: dict[str, Any] = {"key": self.key, "name": self.name, "control": self.control}
        if self.not_run:
            return {**entry, "not_run": self.not_run}
        return {**entry, "values": dict(zip(columns, self.values, strict=True))}


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

    def shown(self, value: float | None, column: int) -> str:
        """A value as the page prints it."""
        digits = self.digits if isinstance(self.digits, str) else self.digits[column]
        return "–" if value is None else format(value, digits).rstrip(".").replace("-", "−")

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


@dataclass(frozen=True)
class Section:
    """One question, its tables and pictures."""

    title: str
    text: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Pictures, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One line under the headline: does the model hold up against a control?"""

    text: str
    holds: bool | None  # None: not decided, e.g. because a control was not run


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
        """What goes onto the model card: headline and figures."""
        return {"headline": self.headline, "figures": dict(self.figures)}

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become null."""
        value = {
            "schema": SCHEMA,
            "kind": self.kind,
            **self.summary(),
            "verdicts": [{"text": verdict.text, "holds": verdict.holds} for verdict in self.verdicts],
            "sections": [
                {"title": section.title, "tables": [table.as_dict() for table in section.tables]}
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
