"""The folder of a run: what lies in run/ while it trains, read back with care.

run/recipe.json     all options, and hashes of what is learned from: written when the run begins
run/lock            held by the process that trains, and there only meanwhile
run/metrics.jsonl, run/tensorboard/, run/checkpoint.pt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lattok import checks, files
from lattok.data.content import Content
from lattok.training import RECIPE, RUN
from lattok.training.runlog import BOARD, METRICS

LOCK = "lock"
NEW_RUN = "Put back the file as it was, or start a new run in another folder."


class Begun(NamedTuple):
    """A run that may write into its folder."""

    contents: list[Content]  # of its datasets; empty but in the first process


class StoredRun(NamedTuple):
    """What run/recipe.json says."""

    kind: str
    dataset: str | None
    preset: str
    options: dict[str, Any]
    inputs: dict[str, str]


def read_recipe(out: Path) -> StoredRun:
    """run/recipe.json of a run folder, checked."""
    path = out / RUN / RECIPE
    value = files.read_json(path)
    kinds = {"kind": str, "dataset": str | None, "preset": str, "options": dict, "inputs": dict}
    for name, kind in kinds.items():
        if name not in value or not isinstance(value[name], kind):
            got = f"{value[name]!r:.60}" if name in value else "none"
            checks.fail(f"{name}` in `{path}", "what a run of lattok writes there", got, NEW_RUN)
    for name, digest in value["inputs"].items():
        if not isinstance(digest, str):
            checks.fail(f"inputs.{name}` in `{path}", "a hash", f"{digest!r:.60}", NEW_RUN)
    return StoredRun(**{name: value[name] for name in kinds})


def never_saved(out: Path) -> bool:
    """Tell whether a folder holds what a run leaves that was stopped before its first checkpoint, and nothing else."""
    if not out.is_dir():
        return False
    own = (RECIPE, METRICS, LOCK)
    rest = [path for path in out.rglob("*") if not (path.is_dir() and not path.is_symlink())]
    board = out / RUN / BOARD
    foreign = [
        path
        for path in rest
        if not files.is_temporary(path)
        and not (path.parent == out / RUN and path.name in own)
        and not (path.parent == board and path.name.startswith("events.out.tfevents."))
    ]
    begun = any(path.name == RECIPE for path in rest)
    return not foreign and (begun or all(files.is_temporary(path) or path.name == LOCK for path in rest))


def busy(out: Path) -> NoReturn:
    """What is said of a folder that another process trains into."""
    hint = "Wait until it has finished, or choose another folder."
    checks.fail("out", "a folder that no other process trains into", f"{out}, into which one does", hint)
