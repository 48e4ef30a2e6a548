"""Does the codebook of a tokenizer trained from scratch collapse? Ten seeds of the default start, three of naive ones.

python -m benchmarks.quality.collapse --out benchmarks/results/collapse.json                    # about 12 CPU-minutes

Default: k-means start from the first batch and revival of dead codes. Naive: random moving averages with zero counts
and no revival, as published. Bundled demonstrations, preset `quick`; the last episode of every task is held out.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import lattok
from benchmarks.common import environment
from lattok.data import ActionWindows
from lattok.quantize import code_statistics

STARTS = {
    "default": {},
    "naive": {"codebook_start": "normal", "revive_below": 0.0},
    "naive, paper's lr": {"codebook_start": "normal", "revive_below": 0.0, "lr": 1e-4, "schedule": "constant"},
}
WANTED = {"train": 250, "held_out": 200}


def run(options: dict, seed: int, folder: Path) -> dict:
    """Train one tokenizer; codes used and perplexity on both splits, and codes used along the way."""
    data = lattok.sample_dataset_path()
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
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict = {"environment": environment(), "wanted": WANTED}
    for start, options in STARTS.items():
        runs = {}
        for seed in range(args.seeds if start == "default" else args.naive_seeds):
            with tempfile.TemporaryDirectory() as scratch:
                runs[seed] = run(options, seed, Path(scratch) / "model")
            print(start, seed, runs[seed], flush=True)
        good = sum(all(r[split]["used"] >= least for split, least in WANTED.items()) for r in runs.values())
        results[start] = {"options": options, "seeds_that_pass": f"{good} of {len(runs)}", "runs": runs}
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
