"""Does the environment stream take what moves but is not the robot?

python -m benchmarks.quality.lam_distractors --out benchmarks/results/lam_distractors.json        # 15 CPU-minutes

Bundled demonstrations, both cameras, pixels, 5 % labelled pairs, preset `tiny+robust` at half its steps with
`streams=joint` and `loss_flow=1`. Trained on clean video, or with a patch of the kind that the evaluation draws, at
another place in every pair; judged by the evaluation's own section about distractors, on the held-out episodes.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lattok
from benchmarks.common import environment, spread, write_results
from benchmarks.quality import lam_runs
from lattok.evaluation.questions.distractor import Overlay
from lattok.samples import FramePairs
from lattok.types import PairBatch

OPTIONS = {"streams": "joint", "loss_flow": 1.0, "steps": 600, "codebook_continuous_steps": 150}
FIGURES = ("separation/", "r2_from_codes/", "r2_from_latents/", "r2_xyz_from_codes/", "joint_entropy_bits/")


class Disturbed(FramePairs):
    """Frame pairs with a moving patch on each."""

    overlay: Overlay

    @classmethod
    def over(cls, pairs: FramePairs, seed: int) -> "Disturbed":
        """The same pairs with patches drawn from `seed`."""
        disturbed = copy.copy(pairs)
        disturbed.__class__ = cls
        disturbed.overlay = Overlay.random(len(pairs), 1000 + seed)  # the evaluation's seeds are others
        return disturbed

    def batch(self, indices: Tensor, frames: Tensor | None = None) -> PairBatch:
        """As without patches, but for the frames."""
        batch = super().batch(indices, frames)
        return batch._replace(frames=self.overlay.draw(batch.frames, indices))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, sample = lam_runs.dataset(None), lattok.open_dataset(lattok.sample_dataset_path())
    results: dict[str, Any] = {"environment": environment(), "options": OPTIONS, "runs": {}, "figures": {}}
    for name in ("patches in training", "clean training"):
        for seed in args.seeds:
            pairs = data.labelled(0.05, seed)
            pairs = Disturbed.over(pairs, seed) if name == "patches in training" else pairs
            model = lam_runs.train(pairs, seed, "tiny+robust", **OPTIONS)
            report = lattok.evaluate(model, sample, seed=seed)
            kept = {k: v for k, v in report.figures.items() if k.startswith(FIGURES)}
            runs = results["runs"].setdefault(name, {})
            runs[str(seed)] = {**kept, "verdicts": {v.key: v.holds for v in report.verdicts}}
            numbers = [{k: v for k, v in run.items() if k != "verdicts"} for run in runs.values()]
            results["figures"][name] = spread(numbers)
            write_results(args.out, results)
            print(name, seed, json.dumps({k: round(v, 3) for k, v in kept.items() if "separation" in k}), flush=True)


if __name__ == "__main__":
    main()
