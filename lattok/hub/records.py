"""What an artefact says of itself besides its weights, read with care: evaluation.json and training.json.

evaluation.json    {"headline": ..., "verdicts": [{"text", "holds", "key"}], "figures": {name: number}}
training.json      {"dataset", "split", "episodes": [[first, last], ...], "loop", ...}, or a "mixture" of such

All entries may be missing, and further ones may be there; what is there has the right type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lattok import checks, files

Runs = list[list[int]]  # first and last index of every run of consecutive episodes
AGAIN = "Copy the file again, or delete it: the model works without it."


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Summary of the last evaluation; None where there is none."""
    found = _read(path)
    if found is None:
        return None
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
    """Return what a model was trained on; None where it was not written down. Runs of episodes stay runs."""
    found = _read(path)
    if found is None:
        return None
    where = _Record(path)
    for number, entry in enumerate(where.listed(found, "mixture")):
        _check_entry(where, entry, f"mixture[{number}]", True)
    for number, entry in enumerate(where.listed(found, "earlier")):
        _check_entry(where, entry, f"earlier[{number}]", True)
    _check_entry(where, found, "the file", False)
    where.optional(found, "loop", dict, "an object of options")
    where.optional(found, "labels", dict | None, "an object")
    labels = found.get("labels") or {}
    where.optional(labels, "fraction", int | float, "a number")
    where.optional(labels, "unit", str, "a text")
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
    """One dataset that a model has learned from."""
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


def _read(path: Path) -> dict[str, Any] | None:
    return files.read_json(path) if path.is_file() else None


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
