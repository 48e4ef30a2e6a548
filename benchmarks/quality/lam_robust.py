"""Does preset `robust` of the image latent action model keep its codes alive, and what does each of its parts do?

python -m benchmarks.quality.lam_robust --out benchmarks/results/lam_robust.json                # 45 CPU-minutes

Bundled demonstrations, pixels, 5 % labelled pairs, the last episode of every task held out. Ten seeds of
`tiny+robust` on both cameras and three on corner2, beside a decoder that never had latents; then every part left out
or exchanged, at half the steps and on corner2. Runs that are in the results already are not repeated.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import environment, spread, write_results
from benchmarks.quality import lam_runs
from benchmarks.quality.lam_runs import Demonstrations

ALIVE = {"codes used, least of positions": 16, "joint bits": 7.0}
WANTED = {
    "both cameras": {**ALIVE, "r2/codes/mean": 0.66, "r2/codes/xyz": 0.60},
    "corner2": {**ALIVE, "r2/codes/mean": 0.55, "r2/codes/xyz": 0.55},
}
SHARED = "tiny+robust+shared"
HALF = {"steps": 600, "codebook_continuous_steps": 150}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {  # name: preset and what differs from it
    "all parts": ("tiny+robust", {}),
    "with flow": ("tiny+robust+flow", {}),
    "quantised from the start": ("tiny+robust", {"codebook_continuous_steps": 0}),
    "random codebook": ("tiny+robust", {"codebook_start": "normal"}),
    "random codebook, no revival": ("tiny+robust", {"codebook_start": "normal", "codebook_revive_below": 0.0}),
    "no revival": ("tiny+robust", {"codebook_revive_below": 0.0}),
    "latents not normalised": ("tiny+robust", {"latent_norm": "none"}),
    "commitment 0.25": ("tiny+robust", {"loss_commitment": 0.25}),
    "space-time encoder": ("tiny+robust", {"encoder": "spacetime"}),
    "latents only beside the patches": ("tiny+robust", {"decoder_conditioning": "tokens"}),
    "features predicted, not their change": ("tiny+robust", {"decoder_predict_change": False}),
    "shared codebook, decorrelation": (SHARED, {}),
    "shared codebook, no decorrelation": (SHARED, {"loss_decorrelation": 0.0}),
    "shared codebook and head, no decorrelation": (SHARED, {"loss_decorrelation": 0.0, "latent_heads": "shared"}),
    "paper": ("tiny+p2t", {"action_target": "mean"}),  # supervised as the others
    "paper, codebook of deviation 1, queries 0.02, no restarts": (
        "tiny+p2t",
        {
            "action_target": "mean",
            "codebook_start": "normal",
            "encoder_query_start": "normal",
            "codebook_restart_every": 0,
        },
    ),
}


def study(
    row: dict[str, Any],
    data: Demonstrations,
    seeds: int,
    preset: str,
    options: dict[str, Any],
    wanted: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """Add the runs that a row of the results lacks; yields each, with the row up to date."""
    runs = row.setdefault("runs", {})
    row |= {"preset": preset, "options": options}
    for seed in range(seeds):
        if str(seed) in runs:
            continue
        model = lam_runs.train(data.labelled(0.05, seed), seed, preset, **options)
        runs[str(seed)] = lam_runs.figures(model, data)
        passed = [seed for seed, run in runs.items() if all(run[key] >= least for key, least in wanted.items())]
        row |= {"seeds_that_pass": f"{len(passed)} of {len(runs)}", "figures": spread(list(runs.values()))}
        yield runs[str(seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="of the preset as it is")
    parser.add_argument("--part-seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"robust": {}, "parts": {}}
    results |= {"environment": environment(), "wanted": WANTED}
    both, one = lam_runs.dataset(None), lam_runs.dataset(None, ("corner2",))
    for name, data, seeds in (("both cameras", both, args.seeds), ("corner2", one, min(args.seeds, 3))):
        row = results["robust"].setdefault(name, {})
        for run in study(row, data, seeds, "tiny+robust", {}, WANTED[name]):
            print(f"robust, {name}: {lam_runs.shown(run)}", flush=True)
            write_results(args.out, results)
        blind = row.setdefault("loss/without latents", [])
        for seed in range(len(blind), min(args.seeds, 3)):
            blind.append(lam_runs.loss_without_latents(data, seed))
            print(f"robust, {name}: loss without latents {blind[-1]:.3f}", flush=True)
            write_results(args.out, results)
    for seeds in range(1, args.part_seeds + 1):
        for name, (preset, options) in PARTS.items():
            row = results["parts"].setdefault(name, {})
            for run in study(row, one, seeds, preset, {**HALF, **options}, WANTED["corner2"]):
                print(f"{name}: {lam_runs.shown(run)}", flush=True)
                write_results(args.out, results)


if __name__ == "__main__":
    main()
