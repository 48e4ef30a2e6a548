"""Does it matter that streamed samples are shuffled in windows only? A tenth of the data at a time, against all.

python -m studies.shuffle lam --out studies/results/shuffle_lam.json            # 15 minutes of one core
python -m studies.shuffle policy --data DEMONSTRATIONS --out studies/results/shuffle_policy.json   # 40

`lam`: the demo's latent action model on the bundled sample, with the figures of `lam_runs`; a tenth of so little data
has no room for 96 lanes, so give it `--lanes 48`. `policy`: the Baseline of the closed-loop study, on its
demonstrations, its error on held-out episodes and its success over 40 start states of each task. Three seeds. With
`--lanes 8` a batch sees eight places of the data at a time: how far the number of lanes may go down.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import lattok
from benchmarks.common import environment, spread, write_results
from benchmarks.quality.lam_runs import dataset, figures, untrained
from lattok.image_lam import PairLearner
from lattok.samples import order, stream
from lattok.samples.batches import PairBatches
from lattok.training import fit
from studies.cell import counted
from studies.plan import POLICY, STARTS, WORLD

SHARE, SEEDS = 0.1, (0, 1, 2)


def train_lam(seed: int, streamed: bool) -> dict[str, float]:
    """Train the demo's latent action model and judge it."""
    data = dataset(None)
    pairs = data.labelled(0.05, seed)
    recipe, model = untrained(pairs, seed)
    learner = PairLearner(model)
    learner.attach_action_head(torch.from_numpy(pairs.actions[pairs.labelled]))
    window = int(2 * SHARE * len(pairs.reader)) if streamed else None
    options = recipe.loop.batch_size, recipe.data.labelled_per_batch, seed
    batches = PairBatches(pairs, *options, window=window)
    with tempfile.TemporaryDirectory() as scratch:
        fit(learner, batches, recipe.loop, Path(scratch) / "run", loss_weights=model.config.loss_weights)
    return {**figures(model.eval(), data), "shuffle_window": window or len(pairs.reader)}


def train_policy(data: Path, seed: int, streamed: bool) -> dict[str, float]:
    """Train the study's Baseline and let it act."""
    source = lattok.open_dataset(data)
    frames = sum(episode.length for episode in source.episodes)
    window = int(SHARE * frames) if streamed else 0
    given: dict[str, Any] = {**POLICY, "seed": seed, "shuffle_window": window}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "policy"
        policy = lattok.train(lattok.VLARecipe.from_preset(data, out, "scratch", **given))
        error = json.loads((out / "held_out.json").read_text())["error"]
    won = counted(policy, WORLD, STARTS)
    success = sum(task[0] for task in won.values()) / sum(task[2] for task in won.values())
    return {"held_out_error": error, "success": success, "shuffle_window": window or frames}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["lam", "policy"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--lanes", type=int, default=order.LANES)
    parser.add_argument("--only", choices=["streamed", "kept"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    order.LANES = stream.LANES = args.lanes
    hows = {f"streamed, {args.lanes} lanes": True, "kept": False}
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for seed in args.seeds:
        for how, streamed in hows.items():
            name = f"{how}, seed {seed}"
            if args.only in (None, how.split(",")[0]) and name not in found:
                options = seed, streamed
                found[name] = train_lam(*options) if args.what == "lam" else train_policy(args.data, *options)
                print(name, found[name], flush=True)
                write_results(args.out, found | {"environment": environment()})
    runs = {how: [found[name] for name in found if name.startswith(how)] for how in hows}
    print(json.dumps({how: spread(values) for how, values in runs.items() if values}, indent=1))


if __name__ == "__main__":
    main()
