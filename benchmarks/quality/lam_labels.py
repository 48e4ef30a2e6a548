"""When does reconstruction add anything to the labels, when does a LAM without labels beat the raw pixels, and how many
labels does the action head need? Objectives by share of labelled pairs, beside controls that learn nothing.

python -m benchmarks.quality.lam_labels --seeds 0 1 2 --out benchmarks/results/lam_labels          # 75 CPU-minutes
... --second second --pool pool      # also on a second dataset, and with more video without actions: see lam_runs.py

Pixels, both cameras, preset `tiny+robust` at half its steps (on validation episodes R^2 was the same); held out: the
last episode of every task. Runs that are in the results already are not repeated, so more seeds or data can follow.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common import environment, spread, write_results
from benchmarks.quality import lam_runs
from benchmarks.quality.lam_runs import Demonstrations
from lattok.samples import FramePairs

OBJECTIVES: dict[str, dict[str, Any]] = {
    "labels only": {"loss_prediction": 0.0, "loss_flow": 0.0},
    "reconstruction": {"loss_flow": 0.0},
    "reconstruction and flow": {"loss_flow": 0.3},
    "flow": {"loss_prediction": 0.0, "loss_flow": 0.3},
}
BUDGET = {"steps": 600, "codebook_continuous_steps": 150}
FRACTIONS = (0.0, 0.01, 0.05, 1.0)
MAIN = ("labels only", "reconstruction", "reconstruction and flow")


class Run(NamedTuple):
    """One cell of the table."""

    study: str  # which data train and judge
    objective: str
    fraction: float
    train: Callable[[int], FramePairs]  # by seed
    judge: Demonstrations

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.objective}, {self.fraction:.0%} labels"


def runs(sample: Demonstrations, second: Demonstrations | None, pool: Demonstrations | None) -> Iterator[Run]:
    """All cells, the most wanted first."""

    def of(data: Demonstrations, fraction: float) -> Callable[[int], FramePairs]:
        return lambda seed: data.labelled(fraction, seed)

    for fraction in (0.01, 0.05, 0.0, 1.0):
        for objective in MAIN:
            if fraction > 0 or objective != "labels only":
                yield Run("sample", objective, fraction, of(sample, fraction), sample)
    if second is not None:
        for fraction in (0.0, 0.01, 0.05):
            for objective in MAIN:
                if fraction > 0 or objective != "labels only":
                    yield Run("second", objective, fraction, of(second, fraction), second)
        video = Run(
            "labels of sample, video of both, judged on second",
            "reconstruction and flow",
            0.05,
            lambda seed: lam_runs.joined(sample.labelled(0.05, seed), second.train),
            second,
        )
        yield video
        yield video._replace(objective="reconstruction")
        for objective in MAIN:
            yield Run("sample, judged on second", objective, 0.05, of(sample, 0.05), second)
    if pool is not None:
        for objective in MAIN[1:]:
            yield Run(
                "sample and more video",
                objective,
                0.01,
                lambda seed: lam_runs.joined(sample.labelled(0.01, seed), pool.train),
                sample,
            )
    for fraction in (0.0, 0.05):
        yield Run("sample", "flow", fraction, of(sample, fraction), sample)


def plot(results: dict[str, Any], out: Path) -> None:
    """R^2 of the codes against the share of labels, one panel for each dataset."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    studies = [name for name in ("sample", "second") if name in results["studies"]]
    figure, axes = plt.subplots(1, len(studies), figsize=(5.5 * len(studies), 4.4), sharey=True, squeeze=False)
    places = {fraction: i for i, fraction in enumerate(FRACTIONS)}
    for axis, study in zip(axes[0], studies, strict=True):
        for color, objective in enumerate(MAIN):
            cells = [results["studies"][study].get(f"{objective}, {f:.0%} labels") for f in FRACTIONS]
            points = [(i, cell["figures"]["r2/codes/mean"]) for i, cell in enumerate(cells) if cell]
            x = [i for i, _ in points]
            mean, low, high = ([value[key] for _, value in points] for key in ("mean", "min", "max"))
            axis.fill_between(x, low, high, color=f"C{color}", alpha=0.2, lw=0)
            axis.plot(x, mean, marker="o", color=f"C{color}", label=objective)
        control = results["controls"][study]
        for style, name in (("--", "change, k-means"), (":", "flow, k-means")):
            axis.axhline(control[f"r2/{name}/mean"], color="0.3", ls=style, lw=1, label=f"{name}, equal bits")
        axis.set(title=f"{study}, held-out episodes", xlabel="labelled pairs")
        axis.set_xlim(-0.2, len(places) - 0.8)
        axis.set_xticks(list(places.values()), [f"{fraction:.0%}" for fraction in places])
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("R² of actions from the codes")
    axes[0][-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(out.with_suffix(".png"), dpi=150)
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})


def table(results: dict[str, Any]) -> str:
    """All cells and controls in Markdown: mean over seeds, in brackets the least and the greatest."""
    lines = [
        "| data | what | seeds | codes | codes, xyz | latents | codes given the current frame | bits |",
        "|---" * 8 + "|",
    ]
    columns = (
        "r2/codes/mean",
        "r2/codes/xyz",
        "r2/latents/mean",
        "r2/codes given the current frame/mean",
        "joint bits",
    )
    for study, cells in results["studies"].items():
        for name, cell in cells.items():
            values = (cell["figures"][key] for key in columns)
            shown = " | ".join(f"{v['mean']:.3f} [{v['min']:.3f}, {v['max']:.3f}]" for v in values)
            lines.append(f"| {study} | {name} | {len(cell['runs'])} | {shown} |")
    for study, figures in results["controls"].items():
        for key in (key for key in figures if key.endswith("/mean")):
            xyz = figures[key.replace("/mean", "/xyz")]
            lines.append(f"| {study} | control: {key.split('/')[1]} | | {figures[key]:.3f} | {xyz:.3f} | | | |")
    return (
        "Made by `python -m benchmarks.quality.lam_labels`, which says what the rows are.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--second", type=Path, help="the second dataset")
    parser.add_argument("--pool", type=Path, help="more video of the sample's tasks; its actions are not used")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose names hold one of these, e.g. 'second: '")
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.out.with_suffix(".json")
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {"studies": {}, "controls": {}}
    results["environment"] = environment()
    sample = lam_runs.dataset(None)
    second, pool = (None if path is None else lam_runs.dataset(path) for path in (args.second, args.pool))
    wanted = {"sample": (sample, None), "second": (second, None), "sample, judged on second": (second, sample)}
    for name, (data, source) in wanted.items():
        if data is not None and name not in results["controls"]:
            results["controls"][name] = lam_runs.controls(data, source)
    for seed in args.seeds:
        for run in runs(sample, second, pool):
            if not any(part in f"{run.study}: {run.name}" for part in args.only):
                continue
            cell = results["studies"].setdefault(run.study, {}).setdefault(run.name, {"runs": {}})
            if str(seed) in cell["runs"]:
                continue
            pairs = run.train(seed)
            figures = lam_runs.figures(lam_runs.train(pairs, seed, **BUDGET, **OBJECTIVES[run.objective]), run.judge)
            cell["runs"][str(seed)] = {**figures, "labelled": int(pairs.labelled.sum()), "pairs": len(pairs)}
            cell["figures"], cell["commit"] = spread(list(cell["runs"].values())), results["environment"]["commit"]
            print(f"{run.study}: {run.name}, seed {seed}: {lam_runs.shown(figures)}", flush=True)
            write_results(stored, results)
    args.out.with_suffix(".md").write_text(table(results))
    plot(results, args.out)


if __name__ == "__main__":
    main()
