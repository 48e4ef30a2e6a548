"""Tables and figures of the closed-loop study, made from its result files and nothing else.

python -m benchmarks.closed_loop.tables             # writes benchmarks/results/closed_loop{.md,.json,.png,_paper.md}

The seed is the unit: a row's success is the mean over seeds with its t interval, a difference is that of runs with the
same seed, with a paired t interval; p values of a regime are corrected after Holm, those of the core table among
themselves, those of all other rows, and those of `CONTRASTS`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import stats

from benchmarks.closed_loop.plan import CORE, FEW_ONLY, FEW_SHOT, RECIPE, REGIMES, ROWS
from benchmarks.closed_loop.run import RESULTS
from benchmarks.common import write_results

BASE = "baseline"
CONTRASTS = (  # rows that the text compares with one another: what labels say, how they are learned from, who learns
    ("la_align", "la_align-shuffled"),
    ("la_align-truth", "la_align-shuffled"),
    ("la_align", "la_direct"),
    ("lara", "flow"),
    ("lara-1", "flow"),
    ("placeholder", "la_align"),
    ("placeholder-1", "la_align"),
    ("latbot", "la_align"),
    ("latbot", "longer"),
    ("latbot-whole", "la_align"),
    ("latbot-whole", "longer"),
)
# what the paper gains over its Baseline, in points: LIBERO on average and Long (Tables 1, 9), RoboTwin (Table 2)
PAPER = {
    "ph_direct": ("-1.2", "+0.0", ""),
    "la_align": ("+3.9", "+9.0", "+10.0"),
    "la_direct": ("+4.0", "+10.8", "+11.3"),
    "la_cond": ("+3.5", "+8.4", "+13.3"),
    "la_tok": ("+2.4", "+6.8", "+17.5"),
}

Key = TypeVar("Key")


class Interval(NamedTuple):
    """A mean over seeds, with the half width of its 95 % t interval and the p value of 0."""

    mean: float
    half: float
    p: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the mean of values that are one for each seed; two may agree by chance, and give no interval yet."""
        x = np.asarray(values, dtype=float)
        if len(x) < 3:
            return cls(float(x.mean()), math.nan, math.nan, len(x))
        error = x.std(ddof=1) / math.sqrt(len(x))
        p = float(2 * stats.t.sf(abs(x.mean()) / error, len(x) - 1)) if error else float(x.mean() == 0)
        return cls(float(x.mean()), float(error * stats.t.ppf(0.975, len(x) - 1)), p, len(x))

    def text(self, signed: bool = False) -> str:
        """Return it as a cell of a table."""
        mean = f"{self.mean:+.3f}" if signed else f"{self.mean:.3f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.3f}"


def holm(values: Mapping[Key, float]) -> dict[Key, float]:
    """Correct p values for their number: the smallest counts as many times as there are, the next one time less."""
    corrected, least = {}, 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(values) - rank)))
        corrected[name] = least
    return corrected


def success(result: Mapping[str, Any], how: str = "own", which: int = 0) -> float:
    """Return the share of rollouts that won (or, `which` 1, reached the opposite first)."""
    counts = list(result[how].values())
    return sum(count[which] for count in counts) / sum(count[2] for count in counts)


def read(folder: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return results by regime, row and seed."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        cell = result["cell"]
        found.setdefault(cell["regime"], {}).setdefault(cell["row"], {})[cell["seed"]] = result
    return found


def cpu_minutes(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the mean of a cell, of those that were trained without a break; None where there is no such one."""
    known = [sum(run["cpu_s"].values()) for run in runs if run["cpu_s"]["training"] is not None]
    return float(np.mean(known)) / 60 if known else None


def summary(rows: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the figures of a regime by row, in the order of the plan."""
    base = {seed: success(result) for seed, result in rows.get(BASE, {}).items()}
    figures: dict[str, dict[str, Any]] = {}
    for row in (row for row in ROWS if row in rows):
        runs = rows[row]
        shared = sorted(base.keys() & runs.keys())
        figures[row] = {
            "title": ROWS[row].title,
            "success": Interval.of([success(run) for run in runs.values()]),
            "opposite": float(np.mean([success(run, which=1) for run in runs.values()])),
            "cpu_minutes": cpu_minutes(runs.values()),
            "tasks": {
                task: float(np.mean([success({"own": {task: run["own"][task]}}) for run in runs.values()]))
                for task in next(iter(runs.values()))["own"]
            },
        }
        for how in ("swapped", "blank"):
            if all(how in run for run in runs.values()):
                figures[row][how] = float(np.mean([success(run, how) for run in runs.values()]))
        shifted = [run["shift"] for run in runs.values() if "shift" in run]
        if shifted:
            kinds = shifted[0]
            figures[row]["shift"] = {kind: float(np.mean([success(run, kind) for run in shifted])) for kind in kinds}
        if row != BASE and shared:
            figures[row]["difference"] = Interval.of([success(runs[seed]) - base[seed] for seed in shared])
    p = {row: f["difference"].p for row, f in figures.items() if "difference" in f}
    p = {row: value for row, value in p.items() if not math.isnan(value)}
    for core in (True, False):
        for row, value in holm({row: value for row, value in p.items() if (row in CORE) == core}).items():
            figures[row]["holm"] = value
    for row, other in CONTRASTS:
        shared = sorted(rows.get(row, {}).keys() & rows.get(other, {}).keys())
        if len(shared) > 1:
            difference = Interval.of([success(rows[row][seed]) - success(rows[other][seed]) for seed in shared])
            figures[row].setdefault("over", {})[other] = {"difference": difference}
    over = {(row, other): found for row, f in figures.items() for other, found in f.get("over", {}).items()}
    for pair, value in holm({pair: found["difference"].p for pair, found in over.items()}).items():
        over[pair]["holm"] = value
    return figures


def tables(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a regime found in Markdown: the rows, what parts of the recipe do, what changes of the scene do."""
    recipe = {row: figure for row, figure in figures.items() if row in RECIPE}
    text = table({row: figure for row, figure in figures.items() if row not in RECIPE})
    if recipe:
        text += f"\n\nThe Baseline's recipe, one thing changed at a time:\n\n{table(recipe)}"
    return text + contrast_table(figures) + shift_table(figures)


def contrast_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return differences of rows to one another in Markdown; empty where there are none."""
    lines = ["| row | against | seeds | difference | what that says |", "|---|---|---|---|---|"]
    for row, other in CONTRASTS:
        if found := figures.get(row, {}).get("over", {}).get(other):
            difference = found["difference"]
            cells = [figures[row]["title"], figures[other]["title"], str(difference.seeds)]
            lines.append(f"| {' | '.join([*cells, difference.text(signed=True), verdict(found)])} |")
    return "\n\nRows against one another, same seeds:\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def missing(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which rows and regimes of the plan have not been run, by the names that commands take."""
    lines = []
    for regime, figures in found.items():
        acting = REGIMES[regime].acting is not None
        few = REGIMES[regime].demonstrations is not None
        planned = [row for row in ROWS if not ((ROWS[row].decoded and not acting) or (row in RECIPE and acting))]
        planned = [row for row in planned if (row in FEW_SHOT if few else row not in FEW_ONLY)]
        if left := [f"`{row}`" for row in planned if row not in figures]:
            lines.append(f"Not run, `{regime}`: {', '.join(left)}.")
    if left := [f"`{regime}`" for regime in REGIMES if regime not in found]:
        lines.append(f"Regimes not run: {', '.join(left)}.")
    return "\n\n".join(lines)


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a regime's table in Markdown."""
    lines = [
        "| row | seeds | success | against Baseline | what that says | opposite first | swapped | blank | CPU min |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for figure in figures.values():
        cells = [figure["title"], str(figure["success"].seeds), figure["success"].text()]
        cells += [figure["difference"].text(signed=True), verdict(figure)] if "difference" in figure else ["", ""]
        shares = [f"{figure[name]:.2f}" if name in figure else "" for name in ("opposite", "swapped", "blank")]
        cost = "" if figure["cpu_minutes"] is None else f"{figure['cpu_minutes']:.1f}"
        lines.append("| " + " | ".join([*cells, *shares, cost]) + " |")
    return "\n".join(lines)


def paper_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return differences to the Baseline in points next to those of the paper, in Markdown."""
    titles = [f"here, {REGIMES[regime].title}" for regime in found]
    lines = ["| row | LIBERO | LIBERO-Long | RoboTwin | " + " | ".join(titles) + " |", "|---" * (4 + len(found)) + "|"]
    for row, theirs in PAPER.items():
        ours = [figures.get(row, {}).get("difference") for figures in found.values()]
        points = ["" if d is None else f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}" for d in ours]
        lines.append("| " + " | ".join([ROWS[row].title, *theirs, *points]) + " |")
    return "\n".join(lines)


def shift_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return success where the scene is changed, in Markdown; empty where nothing was tried."""
    rows = [figure for figure in figures.values() if "shift" in figure]
    if not rows:
        return ""
    kinds = list(rows[0]["shift"])
    lines = [f"| row | unchanged | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    for row in rows:
        shares = [row["success"].mean, *row["shift"].values()]
        lines.append(f"| {row['title']} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
    return "\n\nSuccess where the scene is changed:\n\n" + "\n".join(lines)


def verdict(figure: Mapping[str, Any]) -> str:
    """Say what a difference shows after Holm's correction, and how small a one would have been seen."""
    difference = figure["difference"]
    if math.isnan(difference.half):
        return "one seed: nothing" if difference.seeds == 1 else "two seeds: nothing"
    if figure["holm"] < 0.05:
        p = "p < .001" if figure["holm"] < 0.001 else f"p {figure['holm']:.3f}"
        return f"{'better' if difference.mean > 0 else 'worse'}, {p}"
    if abs(difference.mean) > difference.half:
        return f"alone it would count; corrected p {figure['holm']:.3f}"
    return f"no difference detected at ± {difference.half:.2f}"


def plot(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Draw success by row, a panel for each regime."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [len(figures) for figures in found.values()]
    heights = [max(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    size = 10.8, sum(1 + 0.32 * height for height in heights)
    options: dict[str, Any] = {"squeeze": False, "sharex": True, "layout": "constrained"}
    figure, axes = plt.subplots(len(heights), 2, figsize=size, height_ratios=heights, **options)
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (regime, figures) in zip(axes.flat, found.items(), strict=False):
        places = np.arange(len(figures))
        intervals = [row["success"] for row in figures.values()]
        halves = [0.0 if math.isnan(interval.half) else interval.half for interval in intervals]
        axis.errorbar([interval.mean for interval in intervals], places, xerr=halves, fmt="o", capsize=3)
        axis.set_yticks(places, [row["title"].replace("*", "") for row in figures.values()])
        axis.set(title=REGIMES[regime].title, xlabel="success", xlim=(0, 1))
        axis.tick_params(labelbottom=True)
        axis.set_ylim(len(figures) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")  # titles are wider than their axes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = read(args.results)
    found = {regime: summary(results[regime]) for regime in REGIMES if regime in results}
    parts = [f"### {REGIMES[regime].title}\n\n{tables(figures)}" for regime, figures in found.items()]
    target = args.results.with_suffix(".md")
    target.write_text("\n\n".join([*parts, missing(found)]).strip() + "\n")
    args.results.with_name(f"{args.results.name}_paper.md").write_text(paper_table(found) + "\n")
    write_results(args.results.with_suffix(".json"), found)
    plot(found, args.results.with_suffix(".png"))
    print(target.read_text())


if __name__ == "__main__":
    main()
