"""Does a policy do what it is told? What `lattok.sim.rollout` found, as a section of a report.

In scenes of two opposite tasks a policy that does not read wins at most half of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lattok.evaluation.report import Outcome, Section, Table, TableRow, percent

COLUMNS = {"success": "success", "failure": "opposite first", "decisions": "decisions", "beyond": "beyond limits"}


def rollouts_outcome(found: Mapping[str, Any]) -> Outcome:
    """Show rollouts, in the form of rollouts.json: figures of all episodes and of each task."""
    scores = {"all": found["overall"], **found["tasks"]}
    rows = []
    for name, score in scores.items():
        values, spare = tuple(score[key] for key in COLUMNS), (None,) * (len(COLUMNS) - 1)
        rows.append(TableRow(name, name, values, name == "all", intervals=(tuple(score["interval"]), *spare)))
    table = Table(
        "Episodes", tuple(COLUMNS.values()), tuple(rows), digits=(".2f", ".2f", ".1f", ".1%"), note=_options(found)
    )
    every, seed = found["overall"], found["options"]["seed"]
    low, high = every["interval"]
    text = (
        f"{every['episodes']} episodes in a simulator, {found['options']['episodes']} of each task, from the start "
        f"states {seed}, {seed + 1}, ..., which are the same for all policies. Where two opposite tasks share a scene, "
        "who reaches the other end first has failed. Intervals are Wilson's, 95 %; other seeds of the training are not "
        "in them."
    )
    reading = (
        f"It succeeds in {percent(every['success'])} of the episodes ({percent(low)} to {percent(high)}); in "
        f"{percent(every['failure'])} the opposite came first."
    )
    figures = {key: float(every[key]) for key in ("success", "failure")}
    figures |= {f"success/{task}": float(score["success"]) for task, score in found["tasks"].items()}
    return Outcome((Section("Does it do what it is told?", text, (table,), (), reading),), figures, [])


def _options(found: Mapping[str, Any]) -> str:
    """Name the options that differ from what a rollout does by itself, and what it noted."""
    options = found["options"]
    said = [f"{key}={options[key]}" for key in ("execute", "repeat", "ensemble") if options[key] is not None]
    said += [f"instruction={options['instruction']}"] * (options["instruction"] != "own")
    said += [f"{key}={value}" for key, value in options["variation"].items() if value]
    return ". ".join([", ".join(said)] * bool(said) + [*found["notes"]])
