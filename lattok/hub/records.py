"""What an artefact says of itself besides its weights: evaluation.json and training.json, read with care, and its card.

evaluation.json    {"headline": ..., "verdicts": [{"text", "holds", "key"}], "figures": {name: number}}
training.json      {"dataset", "split", "episodes": [[first, last], ...], "loop", ...}, or a "mixture" of such

All entries may be missing, and further ones may be there; what is there has the right type.

README.md is the model card, with the facts that the Hub reads at its top. Names, headlines and figures come from
datasets, folders and files: they are shown as text, with any markup they hold. A card ends with a mark and a hash of
what is above it. One without, or with another hash, was written by somebody: it is kept, and goes wherever the model
goes.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lattok import checks, files
from lattok.hub.client import HUB_ID

Runs = list[list[int]]  # first and last index of every run of consecutive episodes
AGAIN = "Copy the file again, or delete it: the model works without it."
LONGEST = 1 << 20  # bytes of a card
MARKS = {True: "holds up", False: "falls short", None: "open"}
_SPECIAL = re.compile(r"([\\`*\[\]|~#])")
_MARK = "<!-- lattok wrote this card and writes it again as long as nobody changes it: {} -->\n"
_LICENSE = re.compile(r"^license: *([A-Za-z0-9][\w.-]*) *$", re.MULTILINE | re.ASCII)


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Read the summary of the last evaluation; None where there is none."""
    if not path.is_file():
        return None
    found = files.read_json(path)
    where = _Record(path)
    where.optional(found, "headline", str, "a text")
    where.optional(found, "figures", dict, "an object of figures")
    for name, value in found.get("figures", {}).items():
        if isinstance(value, dict | list):
            where.wrong(f"figures.{name}", "a number or a text", value)
    for number, verdict in enumerate(where.listed(found, "verdicts")):
        inside = f"verdicts[{number}]"
        if not isinstance(verdict, dict) or not isinstance(verdict.get("text"), str) or "holds" not in verdict:
            where.wrong(inside, "an object with `text` and `holds`", verdict)
        if not isinstance(verdict["holds"], bool | None) or not isinstance(verdict.get("key", ""), str):
            where.wrong(inside, "`holds` as true, false or null, and `key` as a text", verdict)
    return found


def read_training(path: Path) -> dict[str, Any] | None:
    """Read what a model was trained on; None where it was not written down. Runs of episodes stay runs."""
    if not path.is_file():
        return None
    found = files.read_json(path)
    where = _Record(path)
    for name in ("mixture", "earlier"):
        for number, entry in enumerate(where.listed(found, name)):
            _check_entry(where, entry, f"{name}[{number}]", True)
    _check_entry(where, found, "the file", False)
    where.optional(found, "loop", dict, "an object of options")
    where.optional(found, "labels", dict | None, "an object")
    labels = found.get("labels") or {}
    where.optional(labels, "fraction", int | float, "a number")
    for name in ("unit", "episodes"):
        where.optional(labels, name, str, "a text")
    for holder, name in ((found, "samples_per_step"), (labels, "per_batch")):
        where.optional(holder, name, int, "a whole number of at least 0", lambda value: value >= 0)
    for name, value in found.get("loop", {}).items():
        if isinstance(value, dict | list):
            where.wrong(f"loop.{name}", "a number, a text, true, false or null", value)
    seed = found.get("loop", {}).get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        where.wrong("loop.seed", "a whole number", seed)
    return found


def _check_entry(where: _Record, entry: Any, name: str, needed: bool) -> None:
    """Check one dataset that a model has learned from."""
    if not isinstance(entry, dict) or (needed and "dataset" not in entry):
        where.wrong(name, "an object with a `dataset`", entry)
    where.optional(entry, "dataset", str, "a name")
    where.optional(entry, "split", str | None, "a name")
    where.optional(entry, "weight", int | float, "a number")
    for part in where.listed(entry, "action_space"):
        if not isinstance(part, dict):
            where.wrong("action_space", "a list of objects, its parts", entry["action_space"])
    runs = entry.get("episodes", [])
    if "dataset" in entry and not is_runs(runs):
        where.wrong(f"episodes of {name}", "a list of [first, last], whole numbers in order", runs)


def is_runs(value: Any) -> bool:
    """Tell whether this is a list of pairs of whole numbers, first and last of a run each."""
    return isinstance(value, list) and all(
        isinstance(run, list)
        and len(run) == 2
        and all(isinstance(index, int) and not isinstance(index, bool) for index in run)
        and 0 <= run[0] <= run[1]
        for run in value
    )


class _Record:
    """Errors about one file."""

    def __init__(self, path: Path):
        self.path = path

    def wrong(self, name: str, expected: str, got: Any) -> None:
        checks.fail(f"{name}` in `{self.path}", expected, f"{got!r:.60}", AGAIN)

    def optional(
        self, holder: Mapping[str, Any], name: str, kind: Any, expected: str, holds: Callable[[Any], bool] | None = None
    ) -> None:
        if name not in holder:
            return
        value = holder[name]
        right = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
        if not right or (holds is not None and not holds(value)):
            self.wrong(name, expected, value)

    def listed(self, holder: Mapping[str, Any], name: str) -> list[Any]:
        self.optional(holder, name, list, "a list")
        return holder.get(name, [])


def plain(text: Any) -> str:
    """Turn any text into one line of Markdown that shows it and does nothing else."""
    return _SPECIAL.sub(r"\\\1", html.escape(_line(text), quote=False))


def _line(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


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
    lines = [*_front(facts), f"# {plain(name)}", "", what, "", "```python", "import lattok"]
    lines += [f"model = lattok.load({json.dumps(_line(name), ensure_ascii=False)})", "```", "", "## Evaluation", ""]
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
    for key, value in evaluation.get("figures", {}).items():
        lines.append(f"| {plain(key)} | {plain(f'{value:.4g}' if isinstance(value, float) else value)} |")
    return [*lines, "", "</details>"]
