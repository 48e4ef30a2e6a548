"""Bundled models on tasks that they have not seen: each recipe again without two of the ten tasks, five times.

python -m studies.unseen_tasks --seeds 0

The inverse model knows the actions of two episodes of each task that it sees, as `sample/idm` does; codes of the other
model are read by a map of the tasks that it sees. Both are judged on all episodes of the two tasks, beside the controls
of `lattok evaluate`. The fold is the unit of the intervals; nothing else is compared.
Figures go to studies/results/unseen_tasks.json, the table to studies/results/unseen_tasks.md; what is there is not made
again. A model takes about five CPU-minutes.
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.recipes import ImageLAMRecipe, InverseDynamicsRecipe
from lattok.utils import files
from scripts.make_sample_models import STEPS
from studies.statistics import Interval

OUT = Path("studies/results/unseen_tasks.json")
SAMPLE = "sample/dataset"
FOLDS = 5
MODELS: Mapping[str, tuple[Any, str, Mapping[str, Any]]] = {
    "idm": (InverseDynamicsRecipe, "tiny", {"steps": STEPS["idm"]}),
    "lam": (ImageLAMRecipe, "tiny+robust", {"steps": STEPS["lam"], "features": "pixels"}),
}
KNOWN = 2  # episodes of a seen task whose actions teach an inverse model
ROWS: Mapping[str, Mapping[str, str]] = {
    "idm": {
        "r2_actions/model": "`sample/idm`'s recipe",
        "r2_actions/flow": "*control:* block motion",
        "r2_actions/flow_kmeans": "*control:* clusters of block motion",
        "r2_actions/moment": "*control:* the moment of an episode",
        "r2_actions/proprio_map": "*control:* changes of the state",
    },
    "lam": {
        "r2_from_codes/codes": "`sample/lam`'s recipe",
        "r2_from_codes/flow_kmeans": "*control:* clusters of block motion",
    },
}
TITLES = {"idm": "Actions inferred", "lam": "Actions read from codes"}


def episodes_of_tasks() -> list[list[int]]:
    """Return the episodes of each task."""
    found: dict[str, list[int]] = {}
    for episode in lattok.open_dataset(SAMPLE).episodes:
        found.setdefault(episode.tasks[0], []).append(episode.index)
    return list(found.values())


def listed(tasks: Iterable[Iterable[int]]) -> str:
    return ",".join(str(index) for episodes in tasks for index in episodes)


def parted(fold: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the episodes of each task that a model of this fold sees, and of each that it does not."""
    tasks = episodes_of_tasks()
    parts = [[own for number, own in enumerate(tasks) if (number % FOLDS == fold) == unseen] for unseen in (0, 1)]
    return parts[0], parts[1]


def figures(name: str, fold: int, seed: int, folder: Path) -> dict[str, float]:
    """Train a recipe without the tasks of a fold, and report on all their episodes."""
    recipe, preset, options = MODELS[name]
    seen, unseen = parted(fold)
    given: dict[str, Any] = {"episodes": listed(seen), "seed": seed, "device": "cpu", **options}
    if name == "idm":
        given["action_episodes"] = listed(episodes[:KNOWN] for episodes in seen)
    model = lattok.train(recipe.from_preset(SAMPLE, folder / name, preset, **given))
    report = lattok.evaluate(model, SAMPLE, episodes=listed(unseen), seed=seed)
    return {key: report.figures[key] for key in ROWS[name]}


def table(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table: means over folds and seeds, intervals over folds."""
    lines = ["| R² on tasks that were not seen | mean of all actions | lowest and highest fold |", "|---|---|---|"]
    for name, rows in ROWS.items():
        folds: dict[int, list[Mapping[str, float]]] = {}
        for key, run in runs.items():
            kind, fold, _ = key.split(".")
            if kind == name:
                folds.setdefault(int(fold), []).append(run)
        if not folds:
            continue
        lines.append(f"| **{TITLES[name]}** | | |")
        for key, title in rows.items():
            means = [sum(run[key] for run in each) / len(each) for each in folds.values()]
            lines.append(f"| {title} | {Interval.of(means).text()} | {min(means):.2f} to {max(means):.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = files.read_json(OUT) if OUT.exists() else {"runs": {}}
    for seed in args.seeds:
        for fold in range(FOLDS):
            for name in MODELS:
                key = f"{name}.{fold}.{seed}"
                if key not in kept["runs"]:
                    with tempfile.TemporaryDirectory() as folder:
                        run = figures(name, fold, seed, Path(folder))
                    kept["runs"][key] = run
                    write_results(OUT, {"environment": environment(), "runs": kept["runs"]})
                    print(key, run, flush=True)
    files.write_text(OUT.with_suffix(".md"), table(kept["runs"]))


if __name__ == "__main__":
    main()
