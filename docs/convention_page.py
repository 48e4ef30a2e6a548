"""mkdocs hook: the table of what published datasets and programs mean by their numbers, from where inspect takes it."""

from __future__ import annotations

from typing import Any

from lattok.data.actions.conventions import CONVENTIONS, words
from lattok.data.formats.rlds_meta import control_rate

MARK = "<!-- conventions -->"


def table() -> str:
    """Return a row for each convention."""
    rows = ["| | told by | an action, part by part | mind | fps | source |", "|---|---|---|---|---|---|"]
    for each in CONVENTIONS:
        action = "as the files say of the controller" if callable(each.action) else words(each.action)
        columns = f" of `{'`, `'.join(each.joined)}`" if each.joined else ""
        rates = {control_rate(name) for name in each.traits.origin}
        rate = each.rate or (rates.pop() if len(rates) == 1 else None)
        cells = (each.name, each.traits.text, action + columns, each.mind, f"{rate:g}" if rate else "", each.source)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table in its place."""
    return markdown.replace(MARK, table()) if MARK in markdown else markdown
