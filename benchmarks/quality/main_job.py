"""Figures of the main job on the bundled demonstrations: both models, several seeds, every figure beside its controls.

python benchmarks/quality/main_job.py --seeds 0 1 2 --out benchmarks/results/main_job.json      # about 20 CPU-minutes

Held out: the last episode of every task. Each run is what `lattok demo` does, or one option away from it.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

import lattok

VARIANTS = {  # name: (recipe, preset, options)
    "action-vq, step decoder, mask loss off (demo)": (lattok.ActionVQRecipe, "quick", {}),
    "action-vq, step decoder, mask loss 0.1": (lattok.ActionVQRecipe, "quick", {"mask_weight": 0.1}),
    "action-vq, context decoder, mask loss off": (lattok.ActionVQRecipe, "quick+context", {}),
    "image-lam, both cameras (demo)": (lattok.ImageLAMRecipe, "tiny+robust", {"features": "pixels"}),
    "image-lam, corner2": (lattok.ImageLAMRecipe, "tiny+robust", {"features": "pixels", "cameras": ("corner2",)}),
    "image-lam, both cameras, no labels": (
        lattok.ImageLAMRecipe,
        "tiny+robust",
        {"features": "pixels", "labelled_fraction": 0.0},
    ),
}


def run(variant: str, seed: int, folder: Path) -> dict[str, float]:
    """Train and evaluate one variant with one seed; its figures, and CPU seconds of both parts."""
    recipe_class, preset, options = VARIANTS[variant]
    data = lattok.sample_dataset_path()
    begun = time.process_time()
    model = lattok.train(recipe_class.from_preset(data, folder, preset, seed=seed, device="cpu", **options))
    trained = time.process_time()
    report = lattok.evaluate(model, lattok.open_dataset(data), out=folder / "report", controls="trained", seed=seed)
    cpu = {"cpu_s/train": trained - begun, "cpu_s/evaluate": time.process_time() - trained}
    return {**report.figures, **cpu}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, least and greatest of each figure over the seeds."""
    return {
        key: {
            "mean": sum(r[key] for r in runs) / len(runs),
            "min": min(r[key] for r in runs),
            "max": max(r[key] for r in runs),
        }
        for key in runs[0]
    }


def environment() -> dict[str, str]:
    """What the figures were measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "commit": commit.stdout.strip(),
        "cpu": f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "av")},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict[str, object] = {"environment": environment(), "seeds": args.seeds}
    for variant in args.variants:
        runs = []
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                runs.append(run(variant, seed, Path(scratch) / "model"))
        results[variant] = summary(runs)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(
            variant, json.dumps({k: round(v["mean"], 3) for k, v in summary(runs).items() if "/" not in k}), flush=True
        )


if __name__ == "__main__":
    main()
