"""Known actions from other data than the videos: the eighth plan of studies/pages/few_actions_plans.md.

python -m studies.elsewhere --folder study --out studies/results/known_elsewhere

`folder` holds the 19 videos of each task (studies.run collects them); the second recordings are added.
Adds to known_elsewhere.json, and writes its tables as known_elsewhere.md; what is there is not made again. Labels take
about 8 CPU-minutes for a recording and seed, two policies and their rollouts 20 more.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.data import select_episodes
from lattok.sim import Variation
from lattok.sim.collect import collect
from studies.cell import counts, outcomes, train_once
from studies.comparisons import success
from studies.inferred import figures
from studies.labels import ACTION, EXECUTED, hide
from studies.plan import NOISE, POLICY, REGIMES, STARTS, WORLD
from studies.statistics import Interval, by_family, paired
from studies.tables import p_text

RECORDINGS: Mapping[str, Mapping[str, Any]] = {
    "same": {},
    "careless": {"noise": 1.0},
    "camera": {"variation": Variation(camera=True)},
    "room": {"variation": Variation(camera=True, background=True, light=True)},
}
ACTED = ("careless", "room")  # from which policies learn
RECORDED, FIRST = 10, 500  # demonstrations of each task, and the seed of the first
KNOWN, INFERRED = "known", "inferred"
FIGURES = {"r2_xyz": "R², expert's action", "r2_executed_xyz": "R², executed action", "systematic": "systematic error"}


def recorded(folder: Path, name: str) -> Path:
    """Return a second recording, made if it is not there yet."""
    out = folder / f"demonstrations.{name}"
    if not out.exists():
        collect(WORLD, out, **{"episodes": RECORDED, "noise": NOISE, "seed": FIRST, "workers": 2, **RECORDINGS[name]})
    return out


def without_actions(folder: Path, data: Path) -> Path:
    """Return the videos with NaN for every action."""
    out = folder / "hidden" / "all"
    if not out.exists():
        hide(data, out, np.zeros(1, bool))
    return out


def filled(folder: Path, data: Path, name: str, seed: int) -> Path:
    """Return the videos with actions that a model of two demonstrations of each task of the recording infers."""
    model, out = folder / "models" / f"idm.{name}.{seed}", folder / "filled" / f"idm.{name}.{seed}"
    if not (model / "config.json").exists():
        shutil.rmtree(model, ignore_errors=True)
        given = {"episodes": f"2 per task seed {seed}", "action_key": EXECUTED, "seed": seed, "device": "cpu"}
        lattok.train(lattok.InverseDynamicsRecipe.from_preset(recorded(folder, name), model, "tiny", **given))
    if not out.exists():
        hidden = without_actions(folder, data)
        lattok.annotate(hidden, {"inferred": model}, out, fill=True, action_key=ACTION)
    return out


def acted(folder: Path, data: Path, name: str, seed: int, source: str) -> dict[str, Any]:
    """Let a policy of known actions, or of inferred ones, learn and act."""
    if source == KNOWN:
        given = {"episodes": f"2 per task seed {seed}", "action_key": EXECUTED}
        learned = recorded(folder, name)
    else:
        train = select_episodes(lattok.open_dataset(data), "train")
        given, learned = {"episodes": ",".join(str(e.index) for e in train)}, filled(folder, data, name, seed)
    out = folder / "policies" / f"elsewhere.{name}.{source}.{seed}"
    train_once(out, lambda: lattok.VLARecipe.from_preset(learned, out, "scratch", **{**POLICY, "seed": seed, **given}))
    policy = lattok.LatentVLA.from_pretrained(out)
    by_task = outcomes(policy, WORLD, STARTS, instruction="own")
    return {"model": policy.describe(), "outcomes": by_task, "own": {task: counts(e) for task, e in by_task.items()}}


def page(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return labels, policies and the planned comparisons in Markdown, of what has run."""

    def of(name: str, value: Any) -> dict[int, float]:
        return {int(key.rpartition(".")[2]): value(run) for key, run in runs.items() if key.startswith(f"{name}.")}

    lines = ["| recording | seeds | " + " | ".join(FIGURES.values()) + " |", "|---" * (2 + len(FIGURES)) + "|"]
    for name in RECORDINGS:
        each = [of(f"labels.{name}", lambda run, key=key: run["all"][key]) for key in FIGURES]
        if each[0]:
            cells = [Interval.of(list(values.values())).text() for values in each]
            lines.append(f"| {name} | {len(each[0])} | {' | '.join(cells)} |")
    pairs = {(f"labels.{name}", "labels.same"): "R², expert's action" for name in RECORDINGS if name != "same"}
    gains = {(f"{name}.{INFERRED}", f"{name}.{KNOWN}"): "success" for name in ACTED}
    lines += ["", "| row | seeds | success |", "|---|---|---|"]
    for row in (row for pair in gains for row in pair):
        if won := of(row, success):
            lines.append(f"| {row} | {len(won)} | {Interval.of(list(won.values())).text()} |")
    lines += ["", "| row | against | figure | difference | p | after Holm |", "|---|---|---|---|---|---|"]
    for family, value in ((pairs, lambda run: run["all"]["r2_xyz"]), (gains, success)):
        found = {pair: Interval.of(both) for pair in family if (both := paired(*(of(row, value) for row in pair)))}
        corrected = by_family({pair: each.p for pair, each in found.items()}, lambda pair: None)
        for pair, each in found.items():
            p = "" if pair not in corrected else p_text(corrected[pair].p)
            cells = [*pair, family[pair], each.text(signed=True), p_text(each.p), p]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="demonstrations, models and policies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored, data = args.out.with_suffix(".json"), REGIMES["plentiful"].dataset(args.folder)
    runs: dict[str, Any] = json.loads(stored.read_text())["runs"] if stored.exists() else {}
    asked = [(f"labels.{name}", name, None) for name in RECORDINGS]
    asked += [(f"{name}.{source}", name, source) for name in ACTED for source in (KNOWN, INFERRED)]
    for seed in args.seeds:
        for row, name, source in asked:
            if (key := f"{row}.{seed}") in runs:
                continue
            if source is None:
                run = figures(filled(args.folder, data, name, seed), data)
            else:
                run = acted(args.folder, data, name, seed, source)
            runs[key] = {"commit": environment()["commit"], **run}
            write_results(stored, {"environment": environment(), "runs": runs})
            args.out.with_suffix(".md").write_text(page(runs))
            print(key, "done", flush=True)


if __name__ == "__main__":
    main()
