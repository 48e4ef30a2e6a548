"""Figures of the main job on the bundled demonstrations: both models, several seeds, every figure beside its controls.

python -m benchmarks.quality.main_job --seeds 0 1 2 --out benchmarks/results/main_job.json      # about 20 CPU-minutes

Held out: the last episode of every task. Each run is what `lattok demo` does, or one option away from it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import lattok
from benchmarks.common import environment, spread, write_results

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
        results[variant] = spread(runs)
        write_results(args.out, results)
        print(
            variant, json.dumps({k: round(v["mean"], 3) for k, v in spread(runs).items() if "/" not in k}), flush=True
        )


if __name__ == "__main__":
    main()
