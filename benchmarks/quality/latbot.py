"""Does LatBot's teacher tell what the robot does from what changes around it, and what of it makes it do so?

python -m benchmarks.quality.latbot --out benchmarks/results/latbot.json   # 18 runs of some 9 CPU-minutes, 3 short ones

The bundled demonstrations, preset `tiny` of `lattok train clip-lam`; each of `VARIANTS` from the same
seeds. Linear probes on clips of held-out episodes, the last of every task, read

action     the mean action over the clip: from motion latents, scene latents, the raw frame change (PCA, the best width
           on training episodes) and the change at the width of the motion latents
object     where the object is at the end of the clip (Meta-World's first one, numbers 4 to 6 of
           `observation.environment_state`), as the way from its mean place in the task: from scene latents, motion
           latents and the first frame (PCA)
moved      how far it is moved within the clip: from scene latents, motion latents and the frame change

R² is of all dimensions of a target together, which have one unit: one that hardly changes in an episode or two would
have any R². `minus` has the differences to the first input with 95 % intervals over episodes; `frame`
the error of the predicted frame, with true latents, wrong ones and none, over that of copying the first frame. Runs
that are in the results already are not repeated, so that seeds can follow. Two have (`--seeds 3 4`) of exchange, no
exchange and untrained. The table has means over seeds; its last
columns count the seeds in which the interval of a difference lies above 0: of the action, twice, and of the object.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lattok
from benchmarks.common import environment, spread, write_results
from lattok.data import RobotDataset, read_vectors
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import PairSet
from lattok.evaluation.evidence.probes import Probe, above_zero, linear_probe
from lattok.evaluation.evidence.unlearned import Coordinates
from lattok.evaluation.questions.dependence import variant_losses

VARIANTS: dict[str, dict[str, Any]] = {
    "exchange": {},
    "no exchange": {"decoder_exchange": False},
    "no separation": {"separation_weight": 0.0},
    "separation .1": {"separation_weight": 0.1},
    "velocity, no separation": {"decoder_output": "velocity", "separation_weight": 0.0},
    "velocity, no separation, no exchange": {
        "decoder_output": "velocity",
        "separation_weight": 0.0,
        "decoder_exchange": False,
    },
    "*control:* untrained": {"steps": 1, "lr": 1e-9},
}
SEEDS = (0, 1, 2)
STATE, OBJECT = "observation.environment_state", slice(4, 7)
FIRST_FRAME = 64  # principal components
READ = {  # target: what should read it best, then what it is compared with
    "action": ("motion", "scene", "change", "change, equal width"),
    "object": ("scene", "motion", "first frame"),
    "moved": ("scene", "motion", "change"),
}
Rows = tuple[Tensor, Tensor]  # of training and held-out clips


def train(seed: int, **options: Any) -> lattok.ClipLAM:
    """Do what `lattok train clip-lam` does on the bundled sample."""
    given = {"seed": seed, "device": "cpu", **options}
    with tempfile.TemporaryDirectory() as scratch:
        recipe = lattok.ClipLAMRecipe.from_preset(lattok.sample_dataset_path(), Path(scratch) / "lam", "tiny", **given)
        return lattok.train(recipe).eval()


def judged(lam: lattok.ClipLAM, dataset: RobotDataset, seed: int) -> dict[str, Any]:
    """Return R² of all probes, over all dimensions, their differences, and the errors of the predicted frame."""
    options = EvalOptions(state_key=None, seed=seed)
    evidence = LatentEvidence.gather(Case(lam, dataset, options.split(dataset), options))
    read, wanted = inputs(evidence), targets(evidence)
    found: dict[str, Any] = {}
    for target, names in READ.items():
        probes = {name: fitted(evidence, read[name], wanted[target]) for name in names}
        own = probes[names[0]]
        gains = {name: gain(evidence, own, probes[name]) for name in names[1:]}
        found[target] = {"r2": {name: pooled(probe) for name, probe in probes.items()}, "minus": gains}
    losses = variant_losses(lam, evidence.held_out, seed)
    found["frame"] = {name: loss / losses["copy"] for name, loss in losses.items()}
    return found


def fitted(evidence: LatentEvidence, x: Rows, y: Rows) -> Probe:
    """Fit on training clips, judge on held-out ones."""
    return linear_probe(x[0], y[0], evidence.train.episode_of, x[1], y[1])


def pooled(probe: Probe) -> float:
    """Return R² of all dimensions together."""
    return float(1 - probe.errors.sum() / probe.deviations.nan_to_num().sum())


def gain(evidence: LatentEvidence, own: Probe, other: Probe) -> dict[str, Any]:
    """Return how much more of the variance one probe explains than another, over the same draws of episodes."""
    sums = evidence.bootstrap.sums
    draws = [1 - sums(probe.errors).sum(1) / sums(probe.deviations.nan_to_num()).sum(1) for probe in (own, other)]
    mean, span = pooled(own) - pooled(other), evidence.bootstrap.interval(draws[0] - draws[1])
    return {"mean": mean, "interval": span, "above": above_zero(mean, span)}


def inputs(evidence: LatentEvidence) -> dict[str, Rows]:
    """Return what probes read."""
    train, held_out, change = evidence.train, evidence.held_out, evidence.change
    assert evidence.target is not None
    assert train.latents.env is not None
    assert held_out.latents.env is not None
    motion = train.latents.latents.flatten(1), held_out.latents.latents.flatten(1)
    return {
        "motion": motion,
        "scene": (train.latents.env.latents.flatten(1), held_out.latents.env.latents.flatten(1)),
        "change": change.first(change.best_size(evidence.target)),
        "change, equal width": change.first(min(motion[0].shape[1], change.train.shape[1])),
        "first frame": Coordinates.fit(train.now, held_out.now, FIRST_FRAME).first(FIRST_FRAME),
    }


def targets(evidence: LatentEvidence) -> dict[str, Rows]:
    """Return what is read of training and held-out clips."""
    assert evidence.target is not None
    pairs = evidence.train, evidence.held_out
    task_of = {episode.index: episode.tasks[0] for episode in evidence.source.dataset.episodes}
    tasks = [[task_of[episode] for episode in part.episode_of.tolist()] for part in pairs]
    begins, ends = zip(*(places(evidence, part) for part in pairs), strict=True)
    mean = {task: ends[0][torch.tensor([each == task for each in tasks[0]])].mean(0) for task in {*tasks[0]}}
    ways = [end - torch.stack([mean[task] for task in each]) for end, each in zip(ends, tasks, strict=True)]
    moved = [end - begin for begin, end in zip(begins, ends, strict=True)]
    return {
        "action": (evidence.target.train, evidence.target.held_out),
        "object": (ways[0], ways[1]),
        "moved": (moved[0], moved[1]),
    }


def places(evidence: LatentEvidence, pairs: PairSet) -> Rows:
    """Return where the object is in the first and in the last frame of all clips, [n, 3] each."""
    states = read_vectors(evidence.source.dataset, "state_key", STATE, pairs.frames.episodes)[:, OBJECT]
    first, second = (torch.from_numpy(states[index[pairs.rows]]) for index in (pairs.frames.first, pairs.frames.second))
    return first, second


def flat(run: dict[str, Any]) -> dict[str, float]:
    """Return the R² of a run and its differences under one name each."""
    r2 = {f"{target}/{name}": value for target in READ for name, value in run[target]["r2"].items()}
    gains = {
        f"{target}/{READ[target][0]} minus {n}": g["mean"] for target in READ for n, g in run[target]["minus"].items()
    }
    return r2 | gains | {f"frame/{name}": value for name, value in run["frame"].items()}


COLUMNS = {
    "action from motion": "action/motion",
    "from scene": "action/scene",
    "from frame change": "action/change",
    "object from scene": "object/scene",
    "from motion": "object/motion",
    "from first frame": "object/first frame",
    "error of the frame": "frame/true",
}
ABOVE = {
    "motion > change": ("action", "change"),
    "motion > scene": ("action", "scene"),
    "scene > motion": ("object", "motion"),
}


def table(runs: Mapping[str, Mapping[str, dict[str, Any]]]) -> str:
    """Return means over seeds in Markdown, and in how many seeds the interval of a difference is above 0."""
    lines = [f"| teacher | seeds | {' | '.join([*COLUMNS, *ABOVE])} |", "|---" * (2 + len(COLUMNS) + len(ABOVE)) + "|"]
    for name, found in runs.items():
        each = [flat(run) for run in found.values()]
        means = [f"{sum(run[key] for run in each) / len(each):.2f}" for key in COLUMNS.values()]
        lows = [
            [run[target]["minus"][other]["interval"][0] for run in found.values()] for target, other in ABOVE.values()
        ]
        above = [f"{sum(low > 0 for low in row)} of {len(row)}" for row in lows]
        lines.append(f"| {' | '.join([name, str(len(each)), *means, *above])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, help="fewer, to see that it runs; then --out is not for keeping")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = lattok.open_dataset(lattok.sample_dataset_path())
    steps = {} if args.steps is None else {"steps": args.steps}
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    runs: dict[str, dict[str, Any]] = old.get("runs", {})
    for seed in args.seeds:
        for name in args.variants:
            if str(seed) in runs.get(name, {}):
                continue
            lam = train(seed, **VARIANTS[name], **steps)
            runs.setdefault(name, {})[str(seed)] = {**judged(lam, dataset, seed), "commit": environment()["commit"]}
            runs = {name: runs[name] for name in VARIANTS if name in runs}
            figures = {name: spread([flat(run) for run in found.values()]) for name, found in runs.items()}
            head = {"environment": environment(), "options": steps}
            write_results(args.out, {**head, "runs": runs, "figures": figures})
            args.out.with_suffix(".md").write_text(table(runs) + "\n")
            print(name, seed, json.dumps({k: round(v, 3) for k, v in flat(runs[name][str(seed)]).items()}), flush=True)


if __name__ == "__main__":
    main()
