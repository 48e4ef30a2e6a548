"""mkdocs hook: the page of what `lattok doctor` and `lattok inspect` say, from the tables that they take it from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lattok.cli import doctor, subjects
from lattok.data import problems
from lattok.evaluation.questions import ALONE, NOT_RUN, UNCLEAR, Subject, criteria, train_one
from lattok.utils.findings import Problem

TABLES = {"Machine and packages": doctor, "Models, runs and labels": subjects, "Datasets": problems}
FINDINGS, VERDICTS = "<!-- every finding -->", "<!-- every verdict -->"


def problems_of(module: ModuleType) -> Iterator[Problem]:
    """Yield what a module may find."""
    return (value for value in vars(module).values() if isinstance(value, Problem))


def findings() -> str:
    """Return every finding, by what is looked at."""
    parts = []
    for title, module in TABLES.items():
        rows = ["| what it says | | what to do |", "|---|---|---|"]
        rows += [f"| {_shown(each.what)} | {_marks(each)} | {_way_out(each)} |" for each in problems_of(module)]
        parts += [f"### {title}", "\n".join(rows)]
    return "\n\n".join(parts)


def _shown(text: str) -> str:
    """Return a text with … for what is known only when it is found."""
    if text == "{error}":
        return "*the message of the error*"
    text = re.sub(r"\{\w+:[^}|]*\|([^}]*)\}", r"… \1", text)  # a number with its noun
    return re.sub(r"\{[^}]*\}", "…", text).replace("|", "\\|")


def _marks(problem: Problem) -> str:
    """Return its severity, and its kind in the JSON of `lattok inspect`."""
    return f"{problem.severity} `{problem.kind}`" if problem.kind else problem.severity


def _way_out(problem: Problem) -> str:
    if problem.advice == "{advice}":
        return "[see below](#what-a-report-says)"
    words = [] if problem.command is None else ["lattok", problem.command.verb, *problem.command.words]
    advice = f"{problem.cost} {problem.advice}".strip()
    return _shown(f"{advice}: {' '.join(words)}" if words else advice)


def verdicts() -> str:
    """Return what to do about each verdict of a report that falls short, of a model without labels."""
    rows = ["| verdict | where it falls short |", "|---|---|"]
    rows += [f"| `{key}` | {Subject().fill(about.advice)} |" for key, about in criteria().items() if about.advice]
    rows += [f"| most, of a model that was not trained here | {train_one('image-lam')} |"]
    rows += [f"| unclear, not run | {NOT_RUN} |", f"| unclear, too close to tell | {UNCLEAR} |"]
    return "\n".join([*rows, f"| unclear, one episode | {ALONE} |"])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put findings and verdicts in their places."""
    if FINDINGS in markdown:
        markdown = markdown.replace(FINDINGS, findings())
    return markdown.replace(VERDICTS, verdicts()) if VERDICTS in markdown else markdown
