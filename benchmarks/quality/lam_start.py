"""How the paper's latent action model comes alive: its codebook's start, its queries' start, and restarts.

python -m benchmarks.quality.lam_start --out benchmarks/results/lam_start.json                  # about 10 CPU-minutes

Eq. 11 to 13 alone, without actions: one camera of the bundled demonstrations (the last episode of every task held out),
pixels of 32 x 32, width 64, 2 + 2 blocks, Adam 1e-3, batches of 32. Codes in use at each of the four positions, joint
bits of the rows and the prediction loss, over all training pairs, along the way. Small and short: it shows whether
codes come into use, not how good they become.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.nn.quantize import code_statistics
from lattok.samples import FramePairs, PairLabels
from lattok.samples.order import BatchSampler, Passes

CAMERA = "observation.images.corner2"
SIZES: dict[str, Any] = {
    "cameras": (CAMERA,),
    "features": "pixels",
    "image_size": 32,
    "interpolation": "bilinear",
    "width": 64,
    "heads": 4,
    "encoder_depth": 2,
    "decoder_depth": 2,
}
STARTS: dict[str, dict[str, Any]] = {
    "normal, queries 0.02": {"codebook_start": "normal", "encoder_query_start": "normal"},
    "normal, queries ±1": {"codebook_start": "normal", "encoder_query_start": "uniform"},
    "±1/K, queries 0.02": {"codebook_start": "uniform", "encoder_query_start": "normal"},
    "±1/K, queries ±1": {"codebook_start": "uniform", "encoder_query_start": "uniform"},
    "±1/K, queries ±1, restarts every 50 steps": {"codebook_restart_every": 50},
    "±1/K, queries ±1, restarts every 100 steps (preset p2t)": {"codebook_restart_every": 100},
    "±1/K, queries ±1, revived from the batch": {"codebook_revive_below": 0.03},
    "k-means, queries ±1": {"codebook_start": "kmeans"},
}


def run(pairs: FramePairs, options: dict[str, Any], seed: int, shown: tuple[int, ...]) -> dict[str, Any]:
    """Train one model; figures after the steps in `shown`."""
    torch.manual_seed(seed)
    model = ImageLAM(ImageLAMConfig.of(**SIZES, **options)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    draw, found = BatchSampler([Passes(len(pairs), seed)], 32), {}
    for step in range(max(shown) + 1):
        if step in shown:
            found[str(step)] = figures(model, pairs)
        terms = model(pairs.batch(draw(step)))
        loss = torch.stack([weight * terms[n] for n, weight in model.config.loss_weights.items() if n in terms]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


@torch.no_grad()
def figures(model: ImageLAM, pairs: FramePairs) -> dict[str, Any]:
    """Codes used at each position, joint bits and the prediction loss over all pairs."""
    model.eval()
    blocks = [pairs.batch(rows) for rows in torch.arange(len(pairs)).split(256)]
    codes = torch.cat([model.encode(block.frames).codes for block in blocks])
    losses = [float(model(block)["prediction"]) * len(block.frames) for block in blocks]
    model.train()
    statistics = code_statistics(codes, model.config.codebook_size)
    return {
        "used": statistics.used,
        "joint_bits": round(statistics.joint_entropy, 2),
        "prediction": round(sum(losses) / len(pairs), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 200, 300], help="after which to look")
    parser.add_argument("--stride", type=int, default=32, help="frames; the sample has 80 a second")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = lattok.open_dataset(lattok.sample_dataset_path())
    resize = ImageLAM(ImageLAMConfig.of(**SIZES)).resize
    pairs = FramePairs(
        source, args.stride, (CAMERA,), PairLabels(labelled_fraction=0.0), episodes="train", transform=resize
    )
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    results |= {"environment": environment(), "pairs": len(pairs), "sizes": SIZES, "stride": args.stride}
    for seed in args.seeds:
        for name in args.starts:
            row = results.setdefault("starts", {}).setdefault(name, {"options": STARTS[name], "runs": {}})
            if str(seed) not in row["runs"]:
                row["runs"][str(seed)] = run(pairs, STARTS[name], seed, tuple(args.steps))
                print(f"{name}, seed {seed}: {row['runs'][str(seed)]}", flush=True)
                write_results(args.out, results)


if __name__ == "__main__":
    main()
