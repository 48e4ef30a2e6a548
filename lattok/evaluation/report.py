"""What an evaluation found: one sentence, verdicts, a flat summary, and tables of the model and its controls.

`Report` knows nothing about models; `page.render` turns it into HTML.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from lattok.evaluation.wording import Interval, printed
from lattok.utils import files
from lattok.utils.attributes import Suggests
from lattok.utils.commands import NOTHING, Advice, lines_of

SCHEMA = 2
Progress = Callable[[str, int, int], None]  # stage, done, total
Figures = Mapping[str, float]
WIDTH, NAMES, NUMBERS = 96, 44, 12  # columns of a report in a terminal, of the names of rows, of a number at least
DECIDES = " (this decides the answer)"
LEGEND = "+ beats what learned nothing   - does not   ? unclear: too close to tell, or not run"


@dataclass(frozen=True)
class TableRow:
    """One line of a table: the model or a control."""

    key: str  # short and stable, for scripts
    name: str
    values: tuple[float | None, ...] = ()  # one per column; None has nothing to show
    control: bool = True
    reference: bool = False  # a ceiling or floor that the model is not asked to beat
    not_run: str = ""  # why there are no values
    intervals: tuple[Interval | None, ...] = ()  # one per column where there are any

    def as_dict(self, columns: tuple[str, ...]) -> dict[str, Any]:
        entry: dict[str, Any] = {"key": self.key, "name": self.name, "control": self.control}
        if self.not_run:
            return {**entry, "not_run": self.not_run}
        entry["values"] = dict(zip(columns, self.values, strict=True))
        if self.intervals:
            entry["intervals"] = dict(zip(columns, self.intervals, strict=True))
        return entry


@dataclass(frozen=True)
class Table:
    """Rows of figures; the controls are compared with the first one."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    better: str = ""  # "lower", "higher", or "" where neither is
    decides: int = 0  # column that says whether a control wins
    digits: str | tuple[str, ...] = "#.3g"  # format of all columns, or of each
    note: str = ""
    folded: bool = False  # opens on a click

    def shown(self, value: float | None, column: int) -> str:
        digits = self.digits if isinstance(self.digits, str) else self.digits[column]
        return "–" if value is None else printed(value, digits).rstrip(".")

    def interval(self, row: TableRow, column: int) -> str:
        """Print the interval of a value as the page does; an empty text where there is none."""
        span = row.intervals[column] if row.intervals else None
        return "" if span is None else " … ".join(self.shown(end, column) for end in span)

    def wins(self, row: TableRow, column: int) -> bool:
        """Return whether a control is better than the first row in a column."""
        first = self.rows[0]
        if not self.better or not row.control or row.reference or row.not_run or first.not_run:
            return False
        own, other = first.values[column], row.values[column]
        return own is not None and other is not None and (other < own if self.better == "lower" else other > own)

    def to_text(self) -> str:
        """Print as many columns as a terminal is wide, the one that decides first and always."""
        order = [self.decides, *(i for i in range(len(self.columns)) if i != self.decides)]
        widths = {i: max(NUMBERS, len(self.columns[i]) + 2) for i in order}
        ends = dict(zip(order, accumulate(widths.values()), strict=True))
        shown = [i for i in order if i == self.decides or ends[i] <= WIDTH - NAMES - len("  wins")]
        better = f" ({self.better} is better)" if self.better else ""
        lines = [f"{self.title}{better}", " " * NAMES + "".join(f"{self.columns[i]:>{widths[i]}}" for i in shown)]
        for row in self.rows:
            name = ("" if row.control else "* ") + textwrap.shorten(row.name, NAMES - 3, placeholder="…")
            numbers = "".join(f"{self.shown(row.values[i], i):>{widths[i]}}" for i in shown) if row.values else ""
            note = "  wins" if self.wins(row, self.decides) else "  (for scale)" if row.reference and row.values else ""
            missing = f"  {textwrap.shorten(row.not_run, WIDTH - NAMES - 2, placeholder='…')}" if row.not_run else ""
            lines.append(f"{name:<{NAMES}}{numbers}{note}{missing}".rstrip())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
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
    top: bool = False  # stands on the first screen, beside the answer

    @property
    def drawn(self) -> bool:
        """Whether the panels are charts, which can stand alone."""
        return self.panels[0].startswith("<svg")


@dataclass(frozen=True)
class Section:
    """One question: its answer in a sentence, how it was asked, tables and pictures, and where it was asked before."""

    title: str
    text: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    reading: str = ""
    references: tuple[str, ...] = ()
    open: bool = False  # on the page, where others open on a click
    lead: bool = False  # its reading stands on the first screen, too


@dataclass(frozen=True)
class Criterion:
    """What a verdict is about, and the advice for models that fall short.

    Advice may hold what to change in this model's training: `{label}`, `{Label}`, `{Revive}`, `{robust}`, `{change}`.
    """

    key: str
    advice: Advice = NOTHING  # of a model that lattok trained
    use: bool = False  # the advice is about the use of a model, whoever trained it
    elsewhere: Advice = NOTHING  # of a model that lattok did not train, unless `use`; none: train one by `recipe`
    undecided: Advice = NOTHING  # where it is too close to tell
    caveat: str = ""  # what stands beside the answer, where this does not decide it
    weight: int = 0  # of the caveat: heavier ones are named first
    recipe: str = "image-lam"


@dataclass(frozen=True)
class Verdict:
    """One line under the headline: does the model hold up against a control?"""

    text: str
    holds: bool | None  # None: not decided, e.g. because a control was not run
    about: Criterion
    advice: Advice = NOTHING  # what to do about it with this model
    decides: bool = False  # the answer is Yes only where this one holds

    @property
    def key(self) -> str:
        return self.about.key


@dataclass(frozen=True)
class Decision:
    """What a question adds to the answer of a report; the gravest decides. It says Yes only where the
    verdict `by` holds, if it names one."""

    # 100: trial run, 80: rollouts, 60: seen in training, 40: collapsed, 30: other moment, 25: tokenizers, 20: others
    weight: int
    holds: bool | None
    text: str
    caveats: bool = True  # those of verdicts that fall short follow
    way_out: Advice = NOTHING  # stands last
    by: Criterion | None = None  # what its verdict is about


@dataclass(frozen=True)
class Answer:
    """What a reader wants to know first, and why it is so."""

    question: str
    holds: bool | None  # None: it cannot be told
    reason: str
    way_out: Advice = NOTHING

    @property
    def text(self) -> str:
        """The reason and the way out."""
        return f"{self.reason} {self.way_out}".rstrip()


def tally(held: Sequence[bool | None]) -> str:
    words = {True: ("hold up", "holds up"), False: ("fall short", "falls short"), None: ("are unclear", "is unclear")}
    return ", ".join(f"{(n := held.count(kind))} {some[n == 1]}" for kind, some in words.items())


class Outcome(NamedTuple):
    """What one question adds to a report."""

    sections: tuple[Section, ...] = ()
    figures: Mapping[str, float] = {}
    verdicts: Sequence[Verdict] = ()
    decision: Decision | None = None
    headline: str = ""  # its part of the headline; "": the reading of the first section


@dataclass(frozen=True)
class Report(Suggests):
    """The outcome of `evaluate`."""

    drawn_by = "lattok.evaluate(model, DATASET, out=FOLDER) writes report.html, with charts."

    kind: str  # the model's type
    title: str
    headline: str
    verdicts: tuple[Verdict, ...]
    figures: dict[str, float]
    sections: tuple[Section, ...] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    answer: Answer | None = None
    steps: tuple[Advice, ...] = ()  # what to do next, the first thing first
    speed: dict[str, Any] = field(default_factory=dict, repr=False)  # differs from run to run, has a file of its own

    def summary(self) -> dict[str, Any]:
        """Return what the model card holds and `lattok doctor` repeats: headline, dataset, verdicts and figures."""
        verdicts = [{"text": each.text, "holds": each.holds, "key": each.key} for each in self.verdicts]
        known = {"headline": self.opening, "dataset": self.provenance["dataset"]["name"]}
        return {**known, "verdicts": verdicts, "figures": dict(self.figures)}

    @property
    def opening(self) -> str:
        return f"{self.answer.question} {self.answer.text} {self.headline}" if self.answer else self.headline

    @property
    def tally(self) -> str:
        return tally([verdict.holds for verdict in self.verdicts])

    def to_json(self) -> str:
        """Return strict JSON; numbers that are not finite become null."""
        sections = [
            {"title": each.title, "reading": each.reading, "tables": [table.as_dict() for table in each.tables]}
            for each in self.sections
        ]
        known, answer = self.answer, None
        if known is not None:
            answer = {"question": known.question, "holds": known.holds, "text": known.text}
        value = {
            "schema": SCHEMA,
            "kind": self.kind,
            "answer": answer,
            "steps": [*map(str, self.steps)],
            **self.summary(),
            "sections": sections,
            "provenance": self.provenance,
        }
        return json.dumps(files.finite(value), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Print answer, headline and verdicts for a terminal, with options and commands as they are typed."""
        marks = {True: "+", False: "-", None: "?"}
        lines = [*self._answer, *lines_of(self.headline, WIDTH), "", *lines_of(LEGEND, WIDTH)]
        points = [f"{marks[each.holds]} {each.text}{DECIDES * each.decides}" for each in self.verdicts]
        for name, reason in self.provenance.get("not_asked", {}).items():
            points.append(f"? {name.replace('_', ' ')}: not asked, {reason}")
        for point in points:
            lines += lines_of(point, WIDTH, "  ", "    ")
        if self.steps:
            lines += ["", "What to do next:"]
        for step in self.steps:
            lines += lines_of(f"- {step.said(typed=True)}", WIDTH, "  ", "    ", step.commands)
        return "\n".join(lines)

    def summary_text(self) -> str:
        """Print the answer and the table behind it, for a terminal."""
        return "\n".join([self.title, *(self._answer or lines_of(self.headline, WIDTH)), "", self.overview()])

    @property
    def _answer(self) -> list[str]:
        if self.answer is None:
            return []
        text, way_out = self.answer.reason, self.answer.way_out
        said = f"{text} {way_out.said(typed=True)}".rstrip()
        return [self.answer.question, *lines_of(said, WIDTH, "  ", "  ", way_out.commands)]

    def overview(self) -> str:
        """Print the table that decides, for a terminal: figures of the model and of its controls."""
        table = next((t for section in self.sections for t in section.tables if t.better), None)
        return "" if table is None else table.to_text()
