"""What the labels of the study say about actions, by one measure for all their sources, next to what they gained.

python -m studies.quality --folder study      # adds studies/results/closed_loop_labels.{json,md,png}

Of every labelled dataset in the folder: R^2 of ridge probes to the mean action over the stride, on the last episodes of
each task: from one-hot codes, from the vectors that LA-Align sees, from codes and the current frame (128 principal
components of its pixels), from codes in a scene that the probe was not fitted in; and the entropy of the joint code.
The gain is that of LA-Align or LA-Direct on these labels over Baseline with the same seed. Probes see all actions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import lattok
from benchmarks.common import environment, write_results
from lattok.data.episodes import select_episodes, split_by_task
from lattok.evaluation.evidence.probes import one_hot
from lattok.evaluation.evidence.unlearned import Coordinates, Target
from lattok.samples.frame_pairs import FramePairs, PairLabels
from lattok.sim.worlds.metaworld import INSTRUCTIONS, PAIRS
from studies.comparisons import BASE, read, success
from studies.labels import STRIDE, dataset_name, small_frames
from studies.plan import LABELS, REGIMES, ROWS
from studies.run import study_parser
from studies.statistics import Interval, correlation

HELD_OUT = 4  # episodes of each task
SCENES = sorted({scene for scene, _ in PAIRS.values()})
FIGURES = {"codes": "R² of codes", "latents": "R² of latents", "with_frame": "R² of codes and frame"}
FIGURES |= {"beyond_frame": "R² beyond the frame", "transfer": "R² in an unseen scene", "bits": "bits"}


def label_figures(path: Path) -> dict[str, float]:
    """Return the figures of the labels in one dataset."""
    dataset = lattok.open_dataset(path)
    train, held_out = (select_episodes(dataset, half) for half in split_by_task(dataset, HELD_OUT))
    parts = [_rows(dataset, [episode.index for episode in half]) for half in (train, held_out)]
    target = Target(parts[0]["actions"], parts[0]["episode"].numpy(), parts[1]["actions"])
    codes = [one_hot(part["codes"], parts[0]["codes"]) for part in parts]
    frame = Coordinates.fit(parts[0]["frame"], parts[1]["frame"], 128).first(128)
    both = [torch.cat(pair, 1) for pair in zip(codes, frame, strict=True)]
    found = {
        "codes": target.probe(*codes),
        "latents": target.probe(*(part["latents"] for part in parts)),
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
    scenes = {INSTRUCTIONS[name]: SCENES.index(scene) for name, (scene, _) in PAIRS.items()}
    scene_of = {episode.index: scenes[episode.tasks[0]] for episode in dataset.episodes}
    pairs = FramePairs(
        dataset, STRIDE, None, PairLabels(action_key="expert_action"), episodes=episodes, transform=small_frames
    )
    batch = pairs.batch(torch.arange(len(pairs)))
    columns = {index: dataset.columns(index, ["latent.codes", "latent.embedding"]) for index in episodes}
    rows = list(zip(pairs.episode_of, pairs.frame_of, strict=True))
    codes, latents = (np.stack([columns[e][key][f] for e, f in rows]) for key in ("latent.codes", "latent.embedding"))
    return {
        "codes": torch.from_numpy(codes).long(),
        "latents": torch.from_numpy(latents).flatten(1),
        "actions": batch.actions,
        "frame": batch.frames[:, 0].flatten(1).float() / 255,
        "episode": torch.from_numpy(np.asarray(pairs.episode_of)),
        "scene": torch.tensor([scene_of[index] for index in pairs.episode_of.tolist()]),
    }


class Point(NamedTuple):
    """Labels of one source and seed: what they say, and what a row gained with them."""

    regime: str
    strategy: str
    labels: str
    seed: int
    gain: float
    figures: dict[str, float]


def points(results: Path, figures: Mapping[str, dict[str, float]]) -> list[Point]:
    """Return the gains over Baseline of every row with labels from video whose `figures`, by dataset, are known."""
    found = []
    for regime, rows in read(results).items():
        base = {seed: success(run) for seed, run in rows.get(BASE, {}).items()}
        for row, runs in rows.items():
            plan = ROWS[row]
            if plan.strategy not in ("la_align", "la_direct") or plan.options or plan.labels is None:
                continue
            for seed in base.keys() & runs.keys():
                name = dataset_name(plan.labels, REGIMES[regime], seed)
                if name in figures:
                    gain = success(runs[seed]) - base[seed]
                    found.append(Point(regime, plan.strategy, plan.labels, seed, gain, figures[name]))
    return found


def by_source(found: list[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Group points by regime, strategy and source."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in found:
        groups.setdefault((point.regime, point.strategy, point.labels), []).append(point)
    return groups


def ranked(found: list[Point]) -> list[tuple[str, str]]:
    """Return regimes and strategies in which there are more than two sources to tell apart."""
    kinds = [key[:2] for key in by_source(found)]
    return [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 2]


def correlations(found: list[Point]) -> dict[str, float]:
    """Return the rank correlation of each figure with the gain over the points."""
    gain = [point.gain for point in found]
    return {name: correlation([point.figures[name] for point in found], gain) for name in FIGURES}


def table(found: list[Point]) -> str:
    """Return means by source in Markdown, and rank correlations of each regime and strategy over its points."""
    lines = [f"| regime | strategy | labels | seeds | gain | {' | '.join(FIGURES.values())} |"]
    lines.append("|---" * (5 + len(FIGURES)) + "|")
    groups = by_source(found)
    for (regime, strategy, labels), group in groups.items():
        gain = Interval.of([point.gain for point in group])
        cells = [REGIMES[regime].title, ROWS[strategy].title, LABELS[labels].title, str(gain.seeds), gain.text(True)]
        cells += [f"{np.mean([point.figures[name] for point in group]):.2f}" for name in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    for regime, strategy in ranked(found):
        chosen = [point for point in found if (point.regime, point.strategy) == (regime, strategy)]
        cells = [REGIMES[regime].title, ROWS[strategy].title, "*rank correlation with the gain*", f"{len(chosen)} runs"]
        cells += ["", *(f"{value:+.2f}" for value in correlations(chosen).values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: list[Point], path: Path) -> None:
    """Draw the gain over each figure: a small mark for a seed, a large one for the mean of a source (and its seeds)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(2, 3, figsize=(10, 6.4), sharey=True)
    kinds = ranked(found)
    for axis, (name, title) in zip(axes.flat, FIGURES.items(), strict=True):
        for (regime, strategy, labels), group in by_source(found).items():
            if (regime, strategy) not in kinds:
                continue
            colour = f"C{kinds.index((regime, strategy))}"
            x, y = [point.figures[name] for point in group], [point.gain for point in group]
            axis.scatter(x, y, s=12, alpha=0.5, color=colour)
            axis.scatter(np.mean(x), np.mean(y), s=55, color=colour)
            place = (float(np.mean(x)), float(np.mean(y)))
            axis.annotate(f"{labels} ({len(group)})", place, (5, 5), textcoords="offset points", size=8)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.margins(x=0.2)
        axis.set(xlabel=title)
    for row in axes:
        row[0].set_ylabel("success minus that of Baseline")
    for i, (regime, strategy) in enumerate(kinds):
        axes[0, 0].scatter([], [], color=f"C{i}", label=f"{ROWS[strategy].title}, {REGIMES[regime].title}")
    drawing.legend(loc="upper center", ncols=2, frameon=False)
    drawing.tight_layout(rect=(0, 0, 1, 0.95))
    drawing.savefig(path, dpi=110)


def main() -> None:
    args = study_parser(__doc__, results=True).parse_args()
    torch.set_num_threads(1)
    names = {path.name for path in (args.folder / "labelled").glob("*") if path.name.split(".")[0] in LABELS}
    figures = {name: label_figures(args.folder / "labelled" / name) for name in sorted(names) if "decoded" not in name}
    found = points(args.results, figures)
    target = args.results.with_name(f"{args.results.name}_labels.json")
    write_results(target, {"environment": environment(), "labels": figures, "points": [p._asdict() for p in found]})
    target.with_suffix(".md").write_text(table(found) + "\n")
    plot(found, target.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
