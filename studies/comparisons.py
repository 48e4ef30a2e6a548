"""The rows of the closed-loop study, paired by seed: what `statistics.py` says of every comparison of a regime."""

import json
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from studies.plan import CORE, JOINT, ROWS
from studies.statistics import (
    LEAST,
    Interval,
    TaskModels,
    blocks,
    by_family,
    mcnemar,
    paired,
    smallest_seen,
    widened,
)

BASE = "baseline"
Runs = Mapping[int, Mapping[str, Any]]  # results by seed
CONTRASTS = (  # rows that the text compares with one another: what labels say, how they are learned from, who learns
    ("la_align", "la_align-shuffled"),
    ("la_align-truth", "la_align-shuffled"),
    ("la_align", "la_direct"),
    ("lara", "flow"),
    ("lara-1", "flow"),
    ("placeholder", "la_align"),
    ("placeholder-1", "la_align"),
    ("latbot", "la_align"),
    ("latbot", "longer"),
    ("latbot-whole", "la_align"),
    ("latbot-whole", "longer"),
)


def success(result: Mapping[str, Any], how: str = "own", which: int = 0) -> float:
    """Return the share of rollouts that won (or, `which` 1, reached the opposite first)."""
    counts = list(result[how].values())
    return sum(count[which] for count in counts) / sum(count[2] for count in counts)


def read(folder: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return results by regime, row and seed."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        cell = result["cell"]
        found.setdefault(cell["regime"], {}).setdefault(cell["row"], {})[cell["seed"]] = result
    return found


def cpu_minutes(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the mean of a cell, of those that were trained without a break; None where there is no such one."""
    known = [sum(run["cpu_s"].values()) for run in runs if run["cpu_s"]["training"] is not None]
    return float(np.mean(known)) / 60 if known else None


def successes(runs: Runs, task: str | None = None) -> dict[int, float]:
    """Return success by seed, in all tasks or in one."""
    return {
        seed: success({"own": run["own"] if task is None else {task: run["own"][task]}}) for seed, run in runs.items()
    }


def won(result: Mapping[str, Any]) -> dict[tuple[str, int], bool]:
    """Return by task and start state whether the rollout won; empty for results that do not say so."""
    own = result.get("outcomes", {}).get("own", {})
    return {(task, start): end == "success" for task, rollouts in own.items() for start, end, _ in rollouts}


def compare(runs: Runs, others: Runs) -> dict[str, Any]:
    """Return the difference of runs with the same seed, and where there are enough of them, what tasks say."""
    found: dict[str, Any] = {"difference": Interval.of(paired(*map(successes, (runs, others)))), **starts(runs, others)}
    if found["difference"].seeds >= LEAST:
        tasks = list(next(iter(runs.values()))["own"])
        gains = np.array([paired(successes(runs, task), successes(others, task)) for task in tasks]).T
        found["by_task"] = dict(zip(tasks, gains.mean(0).tolist(), strict=True))
        found |= TaskModels.of(gains)._asdict()
    return found


def starts(runs: Runs, others: Runs) -> dict[str, Any]:
    """Return how many start states one row alone has won, of the seeds whose single rollouts are known of both."""
    pairs = [(won(runs[seed]), won(others[seed])) for seed in sorted(runs.keys() & others.keys())]
    pairs = [(a, b) for a, b in pairs if a and b]
    if not pairs:
        return {}
    both = [(a[at], b[at]) for a, b in pairs for at in a.keys() & b.keys()]
    alone, other = both.count((True, False)), both.count((False, True))
    return {
        "starts": {"seeds": len(pairs), "of": len(both), "alone": alone, "other": other, "p": mcnemar(alone, other)}
    }


def whole_rows(rows: Mapping[str, Runs]) -> dict[str, Runs]:
    """Return the rows that have every seed of the Baseline, with these seeds."""
    seeds = sorted(rows.get(BASE, {}))
    return {row: {seed: runs[seed] for seed in seeds} for row, runs in rows.items() if set(seeds) <= runs.keys()}


def error_terms(rows: Mapping[str, Runs], comparisons: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    """Add to comparisons of a regime the error terms that other rows give, where these have all seeds."""
    whole = {row: runs for row, runs in whole_rows(rows).items() if len(runs) >= LEAST}
    if len(whole) < 3:
        return
    error, freedom = blocks(np.array([list(successes(runs).values()) for runs in whole.values()]))
    ratio = float(np.mean([compare(*pair)["seeds_f"] for pair in combinations(whole.values(), 2)]))
    for pair, found in comparisons.items():
        mean, _, _, seeds = found["difference"]
        if set(pair) <= whole.keys() and seeds == len(whole[BASE]):
            found["blocks"] = Interval.by_error(mean, error, freedom, seeds)
            found["widened"] = widened(found["these"], len(found["by_task"]) * (seeds - 1), ratio)
            found["ratio"] = ratio


def family(pair: tuple[str, str]) -> str:
    """Return which comparisons p values are corrected with: rows with the Baseline, core or not, LARA's, all others."""
    row, other = pair
    if other == BASE:
        return "core" if row in CORE else "others"
    return "joint" if set(pair) <= set(JOINT) else "contrasts"


def comparisons_of(rows: Mapping[str, Runs]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return every comparison of a regime: of each row with the Baseline, and those of `CONTRASTS`."""
    pairs = [(row, BASE) for row in ROWS if row in rows and row != BASE] + list(CONTRASTS)
    shared = {pair: rows.get(pair[0], {}).keys() & rows.get(pair[1], {}).keys() for pair in pairs}
    found = {
        (row, other): compare(rows[row], rows[other])
        for (row, other), seeds in shared.items()
        if len(seeds) > (other != BASE)  # a contrast of one seed is none
    }
    p = {pair: each["difference"].p for pair, each in found.items()}
    for pair, tested in by_family(p, family).items():
        _, half, _, seeds = found[pair]["difference"]
        found[pair] |= {"holm": tested.p, "tests": tested.tests}
        found[pair]["seen"] = [smallest_seen(half, seeds, tests) for tests in dict.fromkeys((1, tested.tests))]
    error_terms(rows, found)
    return found


def summary(rows: Mapping[str, Runs]) -> dict[str, dict[str, Any]]:
    """Return the figures of a regime by row, in the order of the plan."""
    figures: dict[str, dict[str, Any]] = {}
    for row in (row for row in ROWS if row in rows):
        runs = rows[row]
        figures[row] = {
            "title": ROWS[row].title,
            "success": Interval.of(list(successes(runs).values())),
            "opposite": float(np.mean([success(run, which=1) for run in runs.values()])),
            "cpu_minutes": cpu_minutes(runs.values()),
            "tasks": {
                task: float(np.mean(list(successes(runs, task).values()))) for task in next(iter(runs.values()))["own"]
            },
            "commits": {
                commit: sorted(seed for seed, run in runs.items() if run["environment"]["commit"] == commit)
                for commit in dict.fromkeys(run["environment"]["commit"] for run in runs.values())
            },
        }
        for how in ("swapped", "blank"):
            if all(how in run for run in runs.values()):
                figures[row][how] = float(np.mean([success(run, how) for run in runs.values()]))
        shifted = [run["shift"] for run in runs.values() if "shift" in run]
        if shifted:
            kinds = shifted[0]
            figures[row]["shift"] = {kind: float(np.mean([success(run, kind) for run in shifted])) for kind in kinds}
    for (row, other), found in comparisons_of(rows).items():
        if other == BASE:
            figures[row] |= found
        else:
            figures[row].setdefault("over", {})[other] = found
    return figures
