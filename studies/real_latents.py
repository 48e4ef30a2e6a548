"""Latent actions of real video: what codes say of the action, beside controls of as many bits.

python -m studies.real_latents --data FOLDER --folder study     # again, it continues

FOLDER holds the datasets of studies/real_sets.py; outcomes are kept in studies/results/real_latents.json. A small image
model learns from video alone; `lattok evaluate` judges it. The plan is studies/pages/real_robots.md.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lattok
from lattok.evaluation import evaluate
from studies.real_sets import Kept, Recording, arguments, opened, write_frames

NAMES = ("g1", "bridge", "cloth")
PRESET = "tiny+robust+flow"
ROWS = {
    "r2_from_codes/codes": "codes",
    "r2_from_codes/untrained": "an untrained copy, its codes",
    "r2_from_codes/flow_kmeans": "k-means of block motion, as many bits",
    "r2_from_codes/residual_kmeans": "k-means of frame changes, as many bits",
    "r2_from_codes/current_frame": "the frame alone, no limit of bits",
    "r2_from_latents/latents": "latents before the codebook",
    "r2_from_latents/untrained": "an untrained copy, its latents",
    "r2_from_latents/pca_change": "frame change (PCA)",
    "r2_from_latents/pca_flow": "block motion (PCA)",
    "r2_from_latents/proprio_change": "change of proprio, *for scale*",
}


def outcome(recording: Recording, folder: Path) -> dict[str, Any]:
    """Train a model on the video of a set and judge it."""
    dataset, out = write_frames(recording, folder / f"frames.{recording.name}"), folder / f"lam.{recording.name}"
    may, judges = recording.holders()
    if not (out / "config.json").is_file():
        options = {
            "features": "pixels",
            "episodes": ",".join(map(str, may)),
            "labelled_fraction": 0.0,
            "device": "cpu",
            "seed": 0,
        }
        lattok.train(lattok.ImageLAMRecipe.from_preset(dataset.root, out, PRESET, **options))
    report = evaluate(out, dataset, episodes=judges)
    assert report.answer is not None
    return {"judges": judges, "answer": report.answer.reason, "figures": dict(report.figures)}


def table(kept: Mapping[str, Any]) -> str:
    """Return R² of every row by set."""
    names = [name for name in NAMES if name in kept]
    lines = [f"| R² of held-out actions | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for key, row in ROWS.items():
        cells = []
        for name in names:
            figures, (what, whose) = kept[name]["figures"], key.split("/")
            ends = [figures.get(f"{what}_{end}/{whose}") for end in ("low", "high")]
            span = "" if None in ends else " ({:.2f} to {:.2f})".format(*ends)
            cells.append(f"{figures[key]:.2f}{span}" if key in figures else "–")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    given = arguments(__doc__, NAMES).parse_args()
    torch.set_num_threads(1)
    kept = Kept("real_latents")
    for recording in opened(given.data, given.sets):
        kept.add(recording.name, partial(outcome, recording, given.folder), table)
    print(table(kept.found))


if __name__ == "__main__":
    main()
