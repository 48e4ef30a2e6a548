"""How far a small policy errs that acts by each tokenizer at about 64 bits: what `lattok evaluate` says first of it.

python -m benchmarks.quality.policy_error --out benchmarks/results/policy_error     # about an hour of CPU time
    writes policy_error.json and policy_error.md; tokenizers are kept in build/policy_error, rows that are there too

Tokenizers are fitted once, to the bundled demonstrations but for the last episode of every task. Then the reference
policy of `lattok evaluate` learns their codes from state and instruction, code by code, with each of three seeds; once
on these demonstrations, and once on eight tasks that no tokenizer was fitted to (benchmarks/data/blind_tasks.json; the
states as scripts/make_metaworld_sample.py recorded them). The last episode of every task judges.

Errors are mean squared ones in units of the variance of the actions that the policy learned. Controls: the same network
without a tokenizer, which regresses actions with L2, and the mean action. All runs are of one commit: those of another
one are measured again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import lattok
from benchmarks.common import environment, spread, write_results
from benchmarks.quality.tokenizers import FPS, HORIZON, ROOT, SETTINGS, Setting, build, load_splits
from lattok.data import Feature, LeRobotWriter, RobotDataset
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.tokenizer_evidence import Scale, encode_all
from lattok.evaluation.questions.learnability import (
    BY_MEAN,
    Inputs,
    ReferencePolicy,
    chunk_errors,
    policy_inputs,
    unseen,
)
from lattok.samples import ActionWindows
from lattok.types import ActionTokenizer

AXES = ("x", "y", "z", "gripper")
FOLDER = Path("build/policy_error")
OAT = next(setting.name for setting in SETTINGS if setting.family == "OAT")
ROWS = [
    *(row for row in SETTINGS if row.at_64_bits and not row.name.startswith("control")),
    Setting("residual VQ, perturbed", "ResidualVQ", {"perturb": 0.1}),
    Setting("FSQ, perturbed", "FSQ", {"perturb": 0.1}),
    Setting("FSQ, balanced", "FSQ", {"balance": 0.5}),
    Setting("FSQ, perturbed and balanced", "FSQ", {"perturb": 0.1, "balance": 0.5}),
]


class Place(NamedTuple):
    """Where a policy learns and is judged."""

    dataset: RobotDataset
    train: Inputs
    judged: Inputs
    scale: Scale


def blind_tasks(folder: Path) -> RobotDataset:
    """Write the tasks that no tokenizer was fitted to as a dataset without cameras."""
    stored = np.load(ROOT / "data" / "blind_tasks.npz")
    tasks = list(json.loads((ROOT / "data" / "blind_tasks.json").read_text()).values())
    ends = stored["lengths"].cumsum()[:-1]
    episodes = list(zip(np.split(stored["actions"], ends), np.split(stored["states"], ends), strict=True))
    features: dict[str, Feature] = dict.fromkeys(("action", "observation.state"), Feature("float32", (4,), AXES))
    with LeRobotWriter.create(folder, FPS, features) as writer:
        for i, (actions, states) in enumerate(episodes):
            columns = {"action": actions, "observation.state": states}
            writer.add_episode(columns, {}, task=tasks[i * len(tasks) // len(episodes)])
    return lattok.open_dataset(folder)


def place_of(dataset: RobotDataset, tokenizer: ActionTokenizer) -> Place:
    """Cut windows and what the policy sees, as `lattok evaluate` does; any tokenizer of this horizon will do."""
    options = EvalOptions()
    case = Case(tokenizer, dataset, options.split(dataset), options)
    training, held_out = (
        ActionWindows(dataset, HORIZON, "action", part) for part in (case.split.train, case.split.held_out)
    )
    both = policy_inputs(case, training, held_out)
    assert both is not None
    return Place(dataset, *both, Scale.fit(training.actions, training.action_names))


def fitted(row: Setting, folder: Path) -> Any:
    """Return the tokenizer of a row, fitted unless it is there."""
    place = folder / "".join(c if c.isalnum() else "-" for c in row.name)
    if not place.exists():
        build(row, load_splits()["train"], 0).save_pretrained(place)
    return lattok.load(place)


def measure(tokenizer: ActionTokenizer | None, place: Place, seed: int) -> dict[str, float]:
    """Let a policy of that seed learn and act, by the codes of a tokenizer or without one."""
    train, judged, normalizer = place.train, place.judged, place.scale.normalizer
    known = torch.empty(0) if tokenizer is None else encode_all(tokenizer, train.windows)
    torch.manual_seed(seed)
    policy = ReferencePolicy(train.inputs.shape[1], len(AXES), HORIZON, tokenizer, known.shape[-1])
    chunks, codes = policy.fit(train, known, normalizer, seed).act(judged, normalizer)
    figures = {"error": float(chunk_errors(place.scale, chunks, judged).mean())}
    if tokenizer is None or codes is None:
        return figures
    meant = tokenizer.encode(*judged.windows.batch(judged.rows))
    figures["reconstruction"] = float(chunk_errors(place.scale, tokenizer.decode(meant), judged).mean())
    figures["codes"] = float((meant >= 0).sum()) / len(meant)
    figures["bits"] = figures["codes"] * float(np.log2(tokenizer.vocab_size))
    figures["unseen"] = unseen(codes, known, "half")
    chunks, _ = policy.by_mean().act(judged, normalizer)
    return figures | {"mean_of_draws": float(chunk_errors(place.scale, chunks, judged).mean())}


def share_of_oat(runs: dict[str, Any], name: str, part: str) -> float:
    """Return the error of a row over OAT's, each the mean over the seeds that both have: seeds differ by more."""
    own, other = runs[name][part], runs[OAT][part]
    both = own.keys() & other.keys()
    return sum(own[seed]["error"] for seed in both) / sum(other[seed]["error"] for seed in both)


def table(results: dict[str, Any]) -> str:
    """All rows in Markdown, the least mean error first."""
    lines = [
        "| tokenizer | bits | sample | of OAT's | blind tasks | of OAT's | mean of draws | reconstruction | seeds |",
        "|---" * 9 + "|",
    ]
    rows, parts = results["rows"], ("sample", "blind")
    for name in sorted(rows, key=lambda name: sum(rows[name][part]["error"]["mean"] for part in parts)):
        row = rows[name]
        bits = f"{row['sample']['bits']['mean']:.0f}" if "bits" in row["sample"] else "–"
        cells = [f"*control:* {name}" if bits == "–" else name, bits]
        for part in parts:
            error = row[part]["error"]
            cells.append(f"{error['mean']:.3f} ({error['min']:.3f} to {error['max']:.3f})")
            cells.append(f"{share_of_oat(results['runs'], name, part):.2f}" if OAT in rows else "")
        for key, digits in (("mean_of_draws", 3), ("reconstruction", 4)):
            cells.append(" / ".join(f"{row[part][key]['mean']:.{digits}f}" for part in parts if key in row[part]))
        lines.append(f"| {' | '.join([*cells, str(len(results['runs'][name]['sample']))])} |")
    head = (
        "Mean squared error of what a small policy's codes decode to, in units of the actions' variance: mean (least "
        "to greatest) of the policy's seeds. On both: *mean of draws*, the error of the mean of "
        f"{BY_MEAN['draws']} chunks that the policy draws at temperature {BY_MEAN['temperature']}; *reconstruction*, "
        "that of the true codes.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the policy")
    parser.add_argument("--only", nargs="+", help="update the rows with these words in their names")
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.out.with_suffix(".json")
    runs = of_this_commit(json.loads(stored.read_text())["runs"]) if stored.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        bins = fitted(next(row for row in ROWS if row.family == "UniformBins"), FOLDER)
        datasets = {"sample": lattok.open_dataset(lattok.sample_dataset_path())}
        datasets["blind"] = blind_tasks(Path(scratch) / "blind")
        places = {name: place_of(dataset, bins) for name, dataset in datasets.items()}
        for seed in args.seeds:
            for name in ("regression", *(row.name for row in ROWS)):
                if args.only and not any(word in name for word in args.only):
                    continue
                for part, place in places.items():
                    found = runs.setdefault(name, {}).setdefault(part, {})
                    if str(seed) not in found:
                        row = next((row for row in ROWS if row.name == name), None)
                        tokenizer = None if row is None else fitted(row, FOLDER)
                        found[str(seed)] = {"commit": environment()["commit"], **measure(tokenizer, place, seed)}
                        print(f"{name}, {part}, seed {seed}: {found[str(seed)]['error']:.4f}", flush=True)
                write_results(stored, summary(runs, places))
    args.out.with_suffix(".md").write_text(table(json.loads(stored.read_text())))


def of_this_commit(runs: dict[str, Any]) -> dict[str, Any]:
    """Return the runs by row, place and seed that today's code made: others may be of other settings."""
    own = environment()["commit"]
    return {
        name: {part: {seed: run for seed, run in found.items() if run["commit"] == own} for part, found in row.items()}
        for name, row in runs.items()
    }


def summary(runs: dict[str, Any], places: dict[str, Place]) -> dict[str, Any]:
    """Return mean, least and greatest of every figure of every row that has both places, and all runs."""
    rows = dict[str, Any]()
    for name, parts in runs.items():
        if all(parts.get(place) for place in places):
            figures = {place: [dict(run) for run in parts[place].values()] for place in places}
            for run in (run for found in figures.values() for run in found):
                del run["commit"]
            rows[name] = {place: spread(found) for place, found in figures.items()}
    means = dict[str, float]()
    for name, place in places.items():
        middle = place.scale.normalizer.shift.expand(len(place.judged.rows), HORIZON, -1)
        means[name] = float(chunk_errors(place.scale, middle, place.judged).mean())
    return {"environment": environment(), "mean_action": means, "rows": rows, "runs": runs}


if __name__ == "__main__":
    main()
