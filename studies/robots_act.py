"""Policies of eight robots that speak other languages: what actions read by one inverse model or eight are worth.

python -m studies.robots_act --folder study --seeds 0 1 2 3 4     # again, it continues

`folder` holds the demonstrations of studies.run; what models read comes from studies/results/several_robots/, where
part `own` of studies.several_robots leaves it. A robot's language can be turned back, so one policy of all robots
learns what their actions mean, and acts so. Adds to studies/results/robots_act.json and writes its tables as
studies/results/robots_act.md. A policy and its rollouts take about 35 CPU-minutes. The plan is
studies/pages/several_robots.md.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.utils import files
from studies.cell import counts, outcomes, train_once
from studies.comparisons import success
from studies.labels import ACTION, columns_of, lists, with_columns
from studies.plan import POLICY, STARTS, WORLD
from studies.several_robots import DEMONSTRATED, RESULTS, ROBOTS, TAUGHT, Recordings, places
from studies.statistics import Interval
from studies.tables import planned_differences

OUT = Path("studies/results/robots_act.json")
KNOWN = "known"  # the row that learns from demonstrations whose actions are known, alone
ROWS = ("shared", "idm-padded", KNOWN, "idm-own")
COMPARED = (("shared", "idm-padded"), ("shared", KNOWN), ("idm-padded", KNOWN), ("shared", "idm-own"))


def known(recordings: Recordings, seed: int) -> set[tuple[int, int]]:
    """Return the episodes whose actions are known, as `places` names them."""
    masks = {robot: recordings.demonstrated(robot, DEMONSTRATED, seed) for robot in ROBOTS}
    return {(robot, place) for robot, own in masks.items() for place, mask in enumerate(own) if mask.any()}


def filled(data: Path, out: Path, recordings: Recordings, row: str, seed: int) -> Path:
    """Return the demonstrations with what a row read in place of actions that nobody knows."""
    if out.exists():
        return out
    read = np.load(RESULTS / f"own.{seed}.npz")[row].astype(np.float32)
    lengths = [len(motions) for robot in ROBOTS for motions in recordings.motions[robot][:TAUGHT]]
    taught = [(robot, place) for robot in ROBOTS for place in range(TAUGHT)]
    own = dict(zip(taught, np.split(read, np.cumsum(lengths)[:-1]), strict=True))
    numbers, table = columns_of(data, [ACTION])
    actions = np.stack(table[ACTION].to_numpy())
    kept = known(recordings, seed)
    for episode, where in enumerate(places(lattok.open_dataset(data))):
        if where in own and where not in kept:
            actions[numbers == episode] = own[where]
    out.parent.mkdir(parents=True, exist_ok=True)
    return with_columns(data, out, pa.table({ACTION: lists(torch.from_numpy(actions))}))


def acted(folder: Path, data: Path, recordings: Recordings, row: str, seed: int) -> dict[str, Any]:
    """Let a policy of one row learn and act."""
    kept = known(recordings, seed)
    learned = [
        i
        for i, where in enumerate(places(lattok.open_dataset(data)))
        if (where in kept if row == KNOWN else where[1] < TAUGHT)
    ]
    labelled = data if row == KNOWN else filled(data, folder / "acts" / f"{row}.{seed}", recordings, row, seed)
    given = {**POLICY, "seed": seed, "episodes": ",".join(map(str, learned))}
    out = folder / "policies" / f"robots.{row}.{seed}"
    train_once(out, lambda: lattok.VLARecipe.from_preset(labelled, out, "scratch", **given))
    policy = lattok.LatentVLA.from_pretrained(out)
    by_task = outcomes(policy, WORLD, STARTS, instruction="own")
    return {"model": policy.describe(), "outcomes": by_task, "own": {task: counts(e) for task, e in by_task.items()}}


def page(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of what has run: success, and the planned differences, paired by seed."""
    by_row: dict[str, dict[int, float]] = {row: {} for row in ROWS}
    for key, run in runs.items():
        row, _, seed = key.rpartition(".")
        by_row[row][int(seed)] = success(run)
    lines = ["| row | seeds | success |", "|---|---|---|"]
    for row, won in by_row.items():
        if won:
            lines.append(f"| {row} | {len(won)} | {Interval.of(list(won.values())).text()} |")
    lines += ["", *planned_differences(by_row, COMPARED)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="demonstrations and policies")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = args.folder / "demonstrations"
    recordings = Recordings.read(data)
    runs: dict[str, Any] = json.loads(OUT.read_text())["runs"] if OUT.exists() else {}
    for seed in args.seeds:
        for row in args.rows:
            if (key := f"{row}.{seed}") in runs:
                continue
            runs[key] = {"commit": environment()["commit"], **acted(args.folder, data, recordings, row, seed)}
            write_results(OUT, {"environment": environment(), "runs": runs})
            print(key, round(success(runs[key]), 3), flush=True)
    files.write_text(OUT.with_suffix(".md"), page(runs))


if __name__ == "__main__":
    main()
