"""What the labels of the study say about actions, by one measure for all their sources, next to what they gained.

python -m benchmarks.closed_loop.quality --folder study      # adds benchmarks/results/closed_loop_labels.{json,md,png}

Of every labelled dataset in the folder: R^2 of ridge probes from one-hot codes to the mean action over the stride, on
the last episodes of each task, with and without the current frame (128 principal components of its pixels), and the
entropy of the joint code. The gain is that of LA-Direct on these labels over Baseline with the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lattok
from benchmarks.closed_loop.labels import STRIDE, small_frames
from benchmarks.closed_loop.plan import LABELS, ROWS
from benchmarks.closed_loop.run import study_parser
from benchmarks.closed_loop.tables import BASE, read, success
from benchmarks.common import environment, write_results
from lattok.data.episodes import read_vectors, select_episodes, split_by_task
from lattok.evaluation.evidence.controls import Coordinates, Target
from lattok.evaluation.evidence.probes import one_hot
from lattok.samples.windows import FramePairs

HELD_OUT = 4  # episodes of each task
FIGURES = {"codes": "codes alone", "with_frame": "codes and frame", "beyond_frame": "beyond the frame", "bits": "bits"}


def label_figures(path: Path) -> dict[str, float]:
    """Return the figures of the labels in one dataset."""
    dataset = lattok.open_dataset(path)
    train, held_out = (select_episodes(dataset, half) for half in split_by_task(dataset, HELD_OUT))
    size = max(int(read_vectors(dataset, "key", "latent.codes", dataset.episodes).max()) + 1, 2)
    parts = [_rows(dataset, [episode.index for episode in half]) for half in (train, held_out)]
    target = Target(parts[0]["actions"], parts[0]["episode"].numpy(), parts[1]["actions"])
    codes = [one_hot(part["codes"], size) for part in parts]
    frame = Coordinates.fit(parts[0]["frame"], parts[1]["frame"], 128).first(128)
    both = [torch.cat(pair, 1) for pair in zip(codes, frame, strict=True)]
    found = {
        "codes": target.probe(*codes),
        "frame": target.probe(*frame),
        "with_frame": target.probe(*both),
    }
    figures = {name: float(probe.r2.nanmean()) for name, probe in found.items()}
    counts = torch.unique(parts[0]["codes"], dim=0, return_counts=True)[1].double()
    shares = counts / counts.sum()
    return figures | {
        "beyond_frame": figures["with_frame"] - figures["frame"],
        "bits": float(-(shares * shares.log2()).sum()),
    }


def _rows(dataset: Any, episodes: list[int]) -> dict[str, Tensor]:
    """Return codes, actions over the stride and pixels of every pair of these episodes."""
    pairs = FramePairs(dataset, STRIDE, None, "expert_action", episodes=episodes, transform=small_frames)
    batch = pairs.batch(torch.arange(len(pairs)))
    columns = {index: dataset.columns(index, ["latent.codes"])["latent.codes"] for index in episodes}
    codes = np.stack([columns[e][f] for e, f in zip(pairs.episode_of, pairs.frame_of, strict=True)])
    return {
        "codes": torch.from_numpy(codes).long(),
        "actions": batch.actions,
        "frame": batch.frames[:, 0].flatten(1).float() / 255,
        "episode": torch.from_numpy(np.asarray(pairs.episode_of)),
    }


def gains(results: Path, regime: str) -> dict[str, float]:
    """Return the mean gain of LA-Direct over Baseline by the source of its labels."""
    rows = read(results).get(regime, {})
    base = {seed: success(run) for seed, run in rows.get(BASE, {}).items()}
    found = {}
    for row, runs in rows.items():
        shared = base.keys() & runs.keys()
        if ROWS[row].strategy == "la_direct" and not ROWS[row].options and shared:
            found[str(ROWS[row].labels)] = float(np.mean([success(runs[seed]) - base[seed] for seed in shared]))
    return found


def plot(figures: Mapping[str, Mapping[str, float]], gained: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the gain over each figure, a colour for each regime."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(1, len(FIGURES), figsize=(3.4 * len(FIGURES), 3.4), sharey=True)
    for axis, (name, title) in zip(axes, FIGURES.items(), strict=True):
        for regime, by_source in gained.items():
            known = [source for source in by_source if source in figures]
            axis.scatter([figures[s][name] for s in known], [by_source[s] for s in known], label=regime)
            for source in known:
                axis.annotate(source, (figures[source][name], by_source[source]), fontsize=7)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(xlabel=title)
    axes[0].set_ylabel("success of LA-Direct minus Baseline")
    axes[0].legend()
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)


def main() -> None:
    args = study_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {}
    for path in sorted((args.folder / "labelled").glob("*")):
        labels, *_, seed = path.name.split(".")
        if labels in LABELS and path.name == f"{labels}.{seed}":  # of the regime in which all actions are known
            runs.setdefault(labels, []).append(label_figures(path))
    figures = {
        labels: {name: float(np.mean([run[name] for run in found])) for name in found[0]}
        for labels, found in runs.items()
    }
    gained = {regime: gains(args.results, regime) for regime in read(args.results)}
    target = args.results.with_name(f"{args.results.name}_labels.json")
    write_results(target, {"environment": environment(), "labels": figures, "gain": gained})
    plot(figures, gained, target.with_suffix(".png"))
    for labels, row in figures.items():
        print(labels, {name: round(value, 3) for name, value in row.items()})


if __name__ == "__main__":
    main()
