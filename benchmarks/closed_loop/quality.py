"""What the labels of the study say about actions, by one measure for all their sources, next to what they gained.

python -m benchmarks.closed_loop.quality --folder study      # adds benchmarks/results/closed_loop_labels.{json,md,png}

Of every labelled dataset in the folder: R^2 of ridge probes from one-hot codes to the mean action over the stride, on
the last episodes of each task, with and without the current frame (128 principal components of its pixels), and in a
scene that the probe was not fitted in; and the entropy of the joint code. The gain is that of LA-Direct on these labels
over Baseline with the same seed.
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
from lattok.sim.metaworld import PAIRS

HELD_OUT = 4  # episodes of each task
SCENES = sorted({pair.scene for pair in PAIRS.values()})
FIGURES = {"codes": "codes alone", "with_frame": "codes and frame", "beyond_frame": "beyond the frame"}
FIGURES |= {"transfer": "codes, in an unseen scene", "bits": "bits"}


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
    figures["transfer"] = float(np.mean([_elsewhere(parts, codes, scene) for scene in parts[1]["scene"].unique()]))
    counts = torch.unique(parts[0]["codes"], dim=0, return_counts=True)[1].double()
    shares = counts / counts.sum()
    return figures | {
        "beyond_frame": figures["with_frame"] - figures["frame"],
        "bits": float(-(shares * shares.log2()).sum()),
    }


def _elsewhere(parts: list[dict[str, Tensor]], codes: list[Tensor], scene: Tensor) -> float:
    """Return R^2 of codes in one scene, of a probe that was fitted in the others."""
    others, here = parts[0]["scene"] != scene, parts[1]["scene"] == scene
    episodes = parts[0]["episode"][others].numpy()
    target = Target(parts[0]["actions"][others], episodes, parts[1]["actions"][here])
    return float(target.probe(codes[0][others], codes[1][here]).r2.nanmean())


def _rows(dataset: Any, episodes: list[int]) -> dict[str, Tensor]:
    """Return codes, actions over the stride, pixels and the scene of every pair of these episodes."""
    scenes = {pair.instruction: SCENES.index(pair.scene) for pair in PAIRS.values()}
    scene_of = {episode.index: scenes[episode.tasks[0]] for episode in dataset.episodes}
    pairs = FramePairs(dataset, STRIDE, None, "expert_action", episodes=episodes, transform=small_frames)
    batch = pairs.batch(torch.arange(len(pairs)))
    columns = {index: dataset.columns(index, ["latent.codes"])["latent.codes"] for index in episodes}
    codes = np.stack([columns[e][f] for e, f in zip(pairs.episode_of, pairs.frame_of, strict=True)])
    return {
        "codes": torch.from_numpy(codes).long(),
        "actions": batch.actions,
        "frame": batch.frames[:, 0].flatten(1).float() / 255,
        "episode": torch.from_numpy(np.asarray(pairs.episode_of)),
        "scene": torch.tensor([scene_of[index] for index in pairs.episode_of.tolist()]),
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
