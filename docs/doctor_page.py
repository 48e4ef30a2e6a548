"""mkdocs hook: the page of what `lattok doctor` and `lattok inspect` say, read from the source of their checks.

Every `Finding(severity, what, advice)` in the files below is an entry. What a message holds of the case at hand stands
as …; the sentence above a group is the docstring of the check.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from lattok.evaluation.questions import ALONE, NOT_RUN, OTHERWISE, UNCLEAR, Subject, criteria
from lattok.version import INSTALL

ROOT = Path(__file__).parents[1] / "lattok"
SOURCES = {
    "Machine and packages": ("cli/doctor/environment.py", "cli/doctor/__init__.py"),
    "Models, runs and labels": ("cli/doctor/subjects.py",),
    "Datasets": ("data/inspection.py", "data/stats.py", "data/formats/video_folder.py", "data/formats/hdf5.py"),
}
CHECKS, VERDICTS = "<!-- every finding -->", "<!-- every verdict -->"
GAP = "…"
Known = dict[str, list[str]]  # texts that a name may stand for


class Entry(NamedTuple):
    """One message of a check."""

    severity: str
    what: str
    advice: str


class Check(NamedTuple):
    """A function that finds something."""

    name: str
    said: str
    entries: tuple[Entry, ...]


def checks_of(path: Path) -> Iterator[Check]:
    """Yield the checks of a file that find something."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: Known = {"INSTALL": [INSTALL]}
    at_once = tuple(_entries([node for node in tree.body if not isinstance(node, ast.ClassDef)], known))
    if at_once:
        yield Check(path.stem, _sentence(tree), at_once)
    for place in ast.walk(tree):
        if isinstance(place, ast.FunctionDef):
            entries = tuple(dict.fromkeys(_entries(place.body, dict(known))))
            if entries:
                yield Check(place.name, _sentence(place), entries)


def _sentence(place: ast.FunctionDef | ast.Module) -> str:
    said = (ast.get_docstring(place) or "").partition("\n\n")[0].replace("\n", " ")
    return said or f"{getattr(place, 'name', '')}."


def _entries(body: Sequence[ast.stmt], known: Known) -> Iterator[Entry]:
    """Follow statements in their order, as far as they set texts, and yield what findings say with these."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue  # a function is a check of its own
        blocks = [getattr(node, name) for name in ("body", "orelse", "finalbody") if getattr(node, name, None)]
        blocks += [handler.body for handler in getattr(node, "handlers", ())]
        if not blocks:
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Finding":
                    yield from _said(call, known)
            _set(node, known)
            continue
        after = [dict(known)]
        for block in blocks:
            inside = dict(known)
            yield from _entries(block, inside)
            after.append(inside)
        for name in dict.fromkeys(name for branch in after for name in branch):
            known[name] = list(dict.fromkeys(text for branch in after for text in branch.get(name, ())))


def _said(call: ast.Call, known: Known) -> Iterator[Entry]:
    severity, what, advice = (_texts(each, known) for each in call.args)
    levels = " or ".join(dict.fromkeys(severity))
    for text in what:
        for way_out in advice:
            yield Entry(levels, _plain(text), _plain(way_out))


def _set(node: ast.stmt, known: Known) -> None:
    """Keep what texts a name may stand for."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        before = known.get(node.target.id, [""])
        known[node.target.id] = [a + b for a in before for b in _texts(node.value, known)]
    if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        for i, name in enumerate(names):
            if isinstance(name, ast.Name):
                parts = [_element(value, i) if isinstance(target, ast.Tuple) else value for value in values]
                known[name.id] = list(dict.fromkeys(text for part in parts for text in _texts(part, known)))


def _element(value: ast.expr, i: int) -> ast.expr | None:
    return value.elts[i] if isinstance(value, ast.Tuple) else None


def _texts(node: ast.AST | None, known: Known) -> list[str]:
    """Return the texts that an expression may be, with … for what is known only when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in product(*(_texts(part, known) for part in node.values))]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _texts(node.left, known) for b in _texts(node.right, known)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, known), *_texts(node.orelse, known)]
    if isinstance(node, ast.BoolOp):
        return _texts(node.values[-1], known)
    if isinstance(node, ast.FormattedValue | ast.Name):
        inner = node.value if isinstance(node, ast.FormattedValue) else node
        return list(filter(None, known.get(getattr(inner, "id", ""), ()))) or [GAP]
    if isinstance(node, ast.Dict):
        return [text for value in node.values for text in _texts(value, known)]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and node.args[1:]
    ):
        return [*_texts(node.args[1], known), *known.get(getattr(node.func.value, "id", ""), ())]  # of a table, or else
    return [GAP]


def _plain(text: str) -> str:
    return re.sub(rf"{GAP}(?: ?{GAP})+", GAP, " ".join(text.split())).replace("|", "\\|")


def findings() -> str:
    """Return every message, by what is looked at."""
    parts = []
    for title, paths in SOURCES.items():
        parts.append(f"### {title}")
        for path in paths:
            for check in checks_of(ROOT / path):
                rows = ["| what it says | | what to do |", "|---|---|---|"]
                rows += [f"| {_shown(entry)} | {entry.severity} | {_way_out(entry)} |" for entry in check.entries]
                parts += [f"**{check.said}**", "\n".join(rows)]
    return "\n\n".join(parts)


def _shown(entry: Entry) -> str:
    return entry.what if entry.what.strip(f"{GAP} .") else "*the message of the error*"


def _way_out(entry: Entry) -> str:
    return "[see below](#what-a-report-says)" if entry.advice == GAP else entry.advice


def verdicts() -> str:
    """Return what to do about each verdict of a report that falls short, of a model without labels."""
    rows = ["| verdict | where it falls short |", "|---|---|"]
    rows += [f"| `{key}` | {Subject().fill(about.advice)} |" for key, about in criteria().items() if about.advice]
    rows += [f"| most, of a model that was not trained by lattok | {OTHERWISE.format('image-lam')} |"]
    rows += [f"| open, not run | {NOT_RUN} |", f"| open, within the noise | {UNCLEAR} |"]
    return "\n".join([*rows, f"| open, one episode | {ALONE} |"])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put messages and verdicts in their places."""
    if CHECKS in markdown:
        markdown = markdown.replace(CHECKS, findings())
    return markdown.replace(VERDICTS, verdicts()) if VERDICTS in markdown else markdown
