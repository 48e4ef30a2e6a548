"""Does the codebook of a tokenizer trained from scratch collapse? Ten seeds of the default start, three of naive ones.

python -m benchmarks.quality.collapse --out benchmarks/results/collapse.json                    # about 20 CPU-minutes

Default: k-means start from the first batch and revival of dead codes. Naive: random moving averages with zero counts
and no revival, as published. Preset `quick`, on the bundled demonstrations and on the eight tasks of
benchmarks/data/new_tasks.json; the last episode of every task is held out.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.data import Feature, LeRobotWriter
from lattok.nn.quantize import code_statistics
from lattok.samples import ActionWindows

STARTS = {
    "default": {},
    "naive": {"codebook_start": "normal", "revive_below": 0.0},
    "naive, paper's lr": {"codebook_start": "normal", "revive_below": 0.0, "lr": 1e-4, "schedule": "constant"},
}
DATA = Path(__file__).parents[1] / "data"
WANTED = {"train": 250, "held_out": 200}


def second_dataset(folder: Path) -> Path:
    """The stored actions of the other tasks as a dataset: five episodes of each."""
    tasks = list(json.loads((DATA / "new_tasks.json").read_text()).values())
    stored = np.load(DATA / "new_tasks.npz")
    feature = {"action": Feature("float32", (4,), ("x", "y", "z", "gripper"))}
    with LeRobotWriter.create(folder, 80, feature) as writer:
        for i, actions in enumerate(np.split(stored["actions"], stored["lengths"].cumsum()[:-1])):
            writer.add_episode({"action": actions}, {}, task=tasks[i // 5])
    return folder


def run(data: Path, options: dict, seed: int, folder: Path) -> dict:
    """Train one tokenizer; codes used and perplexity on both splits, and codes used along the way."""
    recipe = lattok.ActionVQRecipe.from_preset(data, folder, "quick", seed=seed, device="cpu", **options)
    tokenizer = lattok.train(recipe)
    dataset, figures = lattok.open_dataset(data), {}
    for split, episodes in (("train", "train"), ("held_out", "test")):
        windows = ActionWindows(dataset, tokenizer.horizon, episodes=episodes)
        batch = windows.all()
        codes = torch.cat([tokenizer.encode(*(x[i : i + 1024] for x in batch)) for i in range(0, len(windows), 1024)])
        statistics = code_statistics(codes[batch.valid][:, None], tokenizer.vocab_size)
        figures[split] = {"used": statistics.used[0], "perplexity": round(statistics.perplexity[0], 1)}
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    figures["used_by_step"] = {line["step"]: int(line["codebook/quantizer/used"]) for line in lines if _shown(line)}
    return figures


def _shown(line: dict) -> bool:
    return line["step"] in (50, 100, 200, 500, 1000) and "codebook/quantizer/used" in line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="of the default start")
    parser.add_argument("--naive-seeds", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", default=["sample", "new_tasks"], choices=["sample", "new_tasks"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict = {"environment": environment(), "wanted": WANTED}
    with tempfile.TemporaryDirectory() as scratch:
        datasets = {"sample": lattok.sample_dataset_path(), "new_tasks": second_dataset(Path(scratch) / "new_tasks")}
        for name in args.datasets:
            for start, options in STARTS.items():
                seeds = range(args.seeds if start == "default" else args.naive_seeds)
                folder = Path(scratch) / name / start
                results.setdefault(name, {})[start] = study(datasets[name], options, seeds, folder)
                print(name, start, results[name][start], flush=True)
                write_results(args.out, results)


def study(data: Path, options: dict, seeds: range, scratch: Path) -> dict:
    """One start, several seeds."""
    runs = {seed: run(data, options, seed, scratch / str(seed)) for seed in seeds}
    good = sum(all(r[split]["used"] >= least for split, least in WANTED.items()) for r in runs.values())
    return {"options": options, "seeds_that_pass": f"{good} of {len(runs)}", "runs": runs}


if __name__ == "__main__":
    main()
