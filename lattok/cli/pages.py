"""What `--help` prints: common options, and all of them by `--help-all`; that of `lattok train KIND` without torch.

Options of recipes stand in classes that import torch. Where no package adds any, what they say is read from
assets/help.json, which `python scripts/make_help.py` writes and a test compares.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from lattok.cli.flags import Verb, words_of

STORED = Path(__file__).parents[1] / "assets" / "help.json"
LEFT, MOST, LEAST = 24, 100, 60  # columns of flags, and of a line


class Entry(NamedTuple):
    """One option."""

    flag: str  # with what stands for its value
    said: str
    group: str
    more: bool  # shown by `--help-all` only
    required: bool


class Page(NamedTuple):
    """What is known of a verb."""

    about: str
    entries: Sequence[Entry]

    @classmethod
    def of(cls, verb: Verb) -> Page:
        found = words_of(verb.run)
        entries = [Entry(f"{w.flag} {w.metavar}".strip(), w.said, w.group, w.more, w.required) for w in found]
        return cls(verb.about.partition("\n\nArgs:")[0], entries)

    def render(self, command: str, everything: bool) -> str:
        """Return the help as text, as wide as the terminal."""
        shown = [entry for entry in self.entries if everything or not entry.more]
        words = [(entry.flag, entry.required) for entry in self.entries if entry.required or entry.flag[0] != "-"]
        needed = " ".join(flag if required else f"[{flag}]" for flag, required in words)
        width = max(LEAST, min(MOST, shutil.get_terminal_size((88, 24)).columns))
        lines = [f"usage: {command} {needed}".strip() + " [OPTIONS]" * bool(shown), "", self.about]
        for group in dict.fromkeys(entry.group for entry in shown):
            lines += ["", f"{group} options:".strip()]
            for entry in (each for each in shown if each.group == group):
                gap = "  " if len(entry.flag) <= LEFT - 4 else f"\n{'':<{LEFT}}"
                said = textwrap.wrap(entry.said, width - LEFT, break_on_hyphens=False)
                lines.append(f"  {entry.flag:<{LEFT - 4}}{gap}" + f"\n{'':<{LEFT}}".join(said))
        hidden = len(self.entries) - len(shown)
        return "\n".join([*lines, *(["", f"{hidden} more options: {command} --help-all"] * bool(hidden))])


def stored(kind: str) -> Page | None:
    """Return the help of `lattok train KIND`, where it is known without its recipe."""
    if "lattok.recipes" in sys.modules or any(group.startswith("lattok.") for group in entry_points().groups):
        return None  # a package may add kinds, options and choices; what is imported already costs nothing
    known = json.loads(STORED.read_text(encoding="utf-8"))
    if kind not in known["kinds"]:
        return None
    about, rows = known["kinds"][kind]
    return Page(about, [Entry(*known["options"][row], *rest) for row, *rest in rows])


def to_store(pages: dict[str, Page]) -> str:
    """Return what help.json holds: each option once, since kinds have most of them in common."""
    row_of: dict[tuple[str, str], int] = {}
    kinds = {}
    for kind, page in pages.items():
        rows = [[row_of.setdefault(entry[:2], len(row_of)), *entry[2:]] for entry in page.entries]
        kinds[kind] = [page.about, rows]
    lines = [",\n".join(f"  {json.dumps(each)}" for each in row_of)]
    lines.append(",\n".join(f"  {json.dumps(kind)}: {json.dumps(value)}" for kind, value in kinds.items()))
    return f'{{"options": [\n{lines[0]}\n],\n"kinds": {{\n{lines[1]}\n}}}}\n'
