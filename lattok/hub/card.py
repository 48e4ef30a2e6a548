"""The model card: README.md of an artefact, with the facts that the Hub reads at its top.

Names, headlines and figures come from datasets, folders and files: they are shown as text, with any markup they hold.
A card ends with a mark and a hash of what is above it. One without, or with another hash, was written by somebody: it
is kept, and goes wherever the model goes.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattok import files
from lattok.hub.client import HUB_ID

LONGEST = 1 << 20  # bytes of a card
MARKS = {True: "holds up", False: "falls short", None: "open"}
_SPECIAL = re.compile(r"([\\`*\[\]|~#])")
_MARK = "<!-- lattok wrote this card and writes it again as long as nobody changes it: {} -->\n"
_LICENSE = re.compile(r"^license: *([A-Za-z0-9][\w.-]*) *$", re.MULTILINE | re.ASCII)


def plain(text: Any) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(line.split()), quote=False))


def written_by_somebody(path: Path) -> str | None:
    """Return the text of a card that is not as lattok wrote it; None where there is no card, or one of lattok's."""
    if not path.is_file():
        return None
    with path.open("rb") as file:  # a stranger's may be as large as a disk
        text = file.read(LONGEST).decode(errors="replace")
    body, _, mark = text.removesuffix("\n").rpartition("\n")
    return None if f"{mark}\n" == _signature(f"{body}\n") else text


def _signature(text: str) -> str:
    return _MARK.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def license_of(path: Path) -> str | None:
    """Return the licence that a card names; None where there is no card, or it names none."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(1 << 16).split("---", 2)
    found = _LICENSE.search(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return found[1] if found else None


def model_card(
    name: str,
    what: str,
    config: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    judged_by: str,
    facts: Mapping[str, Any],
) -> str:
    """Return what it is, how to load it, and the last evaluation as a table. `facts` stand at the top."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    lines = [*_front(facts), f"# {plain(name)}", "", what, "", "```python", "import lattok"]
    lines += [f"model = lattok.load({json.dumps(shown, ensure_ascii=False)})", "```", "", "## Evaluation", ""]
    lines += [f"Not evaluated yet: {judged_by}."] if not evaluation else _judged(evaluation)
    dumped = json.dumps(files.finite(config), indent=2)
    text = "\n".join([*lines, "", "## Configuration", "", "```json", dumped, "```", "", ""])
    return text + _signature(text)


def _front(facts: Mapping[str, Any]) -> list[str]:
    """Facts for the Hub; only ids of the Hub and plain words get here unquoted."""
    lines = ["---", "library_name: lattok", "pipeline_tag: robotics", "tags: [robotics, latent-actions, lattok]"]
    for key in ("license", "base_model"):
        if facts.get(key):
            lines.append(f"{key}: {facts[key]}")
    datasets = [name for name in dict.fromkeys(facts.get("datasets", ())) if HUB_ID.fullmatch(name)]
    if datasets:
        lines += ["datasets:", *(f"- {name}" for name in datasets)]
    return [*lines, "---"]


def _judged(evaluation: Mapping[str, Any]) -> list[str]:
    lines = [plain(evaluation.get("headline", "")), ""]
    verdicts = evaluation.get("verdicts", [])
    lines += [*(f"- **{MARKS[verdict['holds']]}**: {plain(verdict['text'])}" for verdict in verdicts), ""]
    lines += ["<details><summary>All figures</summary>", "", "| figure | value |", "|---|---|"]
    figures = evaluation.get("figures", {}).items()
    lines += [f"| {plain(key)} | {plain(_number(value))} |" for key, value in figures]
    return [*lines, "", "</details>"]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
