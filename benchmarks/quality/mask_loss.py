"""What the mask loss (P2T Eq. 18) does to reconstruction and to the stability of codes: weights, reductions, 3 seeds.

python -m benchmarks.quality.mask_loss --out benchmarks/results/mask_loss.json                  # about 20 CPU-minutes

"mean": every term of Eq. 16 to 18 is a mean; "sum": every one is a sum over steps and dimensions, as printed, and the
gradient may be as many times as large (H m = 32) before it is clipped. Stability: share of codes that stay when white
noise of a given standard deviation (in units of the actions' own) is added to the chunk. Bundled demonstrations, preset
`quick`; the last episode of every task is held out. Runs that are in the results already are not repeated.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import lattok
from benchmarks.common import environment, spread, write_results
from lattok.samples import ActionWindows

DETACHED = {"mask_detach_target": True}
SUM = {"loss_reduction": "sum", "clip_norm": 32.0}
SETTINGS = {
    "off, mean": {"mask_weight": 0.0},
    "0.1, mean": {"mask_weight": 0.1},
    "off, sum": {"mask_weight": 0.0, **SUM},
    "0.1, sum": {"mask_weight": 0.1, **SUM},
    "0.1, mean, target detached": {"mask_weight": 0.1, **DETACHED},
    "0.1, sum, target detached": {"mask_weight": 0.1, **SUM, **DETACHED},
    "1.0, mean, target detached": {"mask_weight": 1.0, **DETACHED},
    "1.0, sum, target detached": {"mask_weight": 1.0, **SUM, **DETACHED},
}
NOISE = (0.01, 0.05, 0.2)


@torch.no_grad()
def run(options: dict, seed: int, folder: Path) -> dict[str, float]:
    """Train one tokenizer; figures on held-out windows."""
    data = lattok.sample_dataset_path()
    recipe = lattok.ActionVQRecipe.from_preset(data, folder, "quick", seed=seed, device="cpu", **options)
    with torch.enable_grad():
        tokenizer = lattok.train(recipe)
    dataset = lattok.open_dataset(data)
    chunks, valid = ActionWindows(dataset, tokenizer.horizon, episodes="test").all()
    codes = tokenizer.encode(chunks, valid)
    scale = ActionWindows(dataset, tokenizer.horizon, episodes="train").actions.std(0, unbiased=False)
    gap = ((tokenizer.decode(codes) - chunks) / scale)[valid]
    figures = {"mse": float(gap.square().mean()), "l1": float(gap.abs().mean())}
    figures["codes_used"] = float(len(codes[valid].unique()))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(chunks.shape, generator=generator) * scale
    for level in NOISE:
        same = tokenizer.encode(chunks + level * noise, valid) == codes
        figures[f"codes_kept/noise_{level}"] = float(same[valid].float().mean())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict = json.loads(args.out.read_text()) if args.out.exists() else {}
    results |= {"environment": environment(), "seeds": args.seeds}
    for setting in args.settings:
        row = results.setdefault(setting, {})
        row.setdefault("runs", {})
        for seed in args.seeds:
            if str(seed) in row["runs"]:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                row["runs"][str(seed)] = run(SETTINGS[setting], seed, Path(scratch) / "model")
            row["figures"] = spread(list(row["runs"].values()))
            write_results(args.out, results)
        print(setting, {name: round(value["mean"], 4) for name, value in row["figures"].items()}, flush=True)


if __name__ == "__main__":
    main()
