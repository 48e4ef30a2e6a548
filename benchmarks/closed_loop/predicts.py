"""Which figure of inferred actions says what a policy that imitates them will reach.

python -m benchmarks.closed_loop.predicts      # after benchmarks.closed_loop.inferred and the runs of few_actions

Over all sources (rows of the study that differ in nothing but the actions that were filled in, in all regimes): the
rank correlation of each figure with the gain over the Baseline of the same regime and seed, over the means of sources;
the mean of the same within each regime and seed, where what the regime is worth plays no part; and 95 % intervals of
both by drawing sources, then seeds, again (percentiles of DRAWS draws).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.closed_loop.comparisons import read, success
from benchmarks.closed_loop.inferred import OUT
from benchmarks.closed_loop.plan import LABELS, REGIMES, ROWS
from benchmarks.closed_loop.planned import BASE, RESULTS
from benchmarks.common import write_results

FIGURES = {  # +1: more is better
    "r2_xyz": ("R² of the expert's action", 1),
    "r2_executed_xyz": ("R² of the executed action", 1),
    "systematic": ("systematic error by task and phase", -1),
    "absolute": ("absolute error", -1),
    "given_frame": ("R² beyond what the scene says", 1),
    "confidence": ("rank correlation of confidence and error", 1),
}
DRAWS = 2000


class Point(NamedTuple):
    """A source in a regime: by seed, the gain of imitating it and its figures."""

    regime: str
    row: str
    gains: Mapping[int, float]
    figures: Mapping[int, Mapping[str, float]]

    def mean(self, name: str, seeds: Sequence[int]) -> float:
        """Return the mean of a figure over some seeds; NaN where it has none."""
        return float(np.mean([self.figures[seed].get(name, np.nan) for seed in seeds]))


def points(results: Path, runs: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """Return the sources of the study with those seeds of which gain and figures are there."""
    found = []
    for regime, rows in read(results).items():
        for row, by_seed in rows.items():
            plan = ROWS[row]
            if not plan.filled or plan.strategy != "baseline" or plan.options:
                continue
            figures = {seed: runs.get(f"{regime}.{plan.labels}.{seed}") for seed in by_seed}
            seeds = [seed for seed, each in figures.items() if each and seed in rows.get(BASE, {})]
            gains = {seed: success(by_seed[seed]) - success(rows[BASE][seed]) for seed in seeds}
            if seeds:
                found.append(Point(regime, row, gains, {seed: figures[seed]["all"] for seed in seeds}))
    return found


def rank(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the rank correlation of the pairs that are numbers; NaN of fewer than three, or of what is constant."""
    both = np.array([x, y]).T
    both = both[np.isfinite(both).all(1)]
    if len(both) < 3 or (both == both[0]).all(0).any():
        return float("nan")
    return float(spearmanr(both[:, 0], both[:, 1]).statistic)


def over_sources(found: Sequence[Point], seeds: Sequence[Sequence[int]], name: str) -> float:
    """Return the rank correlation of figure and gain over the means of sources, each over its own seeds."""
    gains = [np.mean([point.gains[seed] for seed in own]) for point, own in zip(found, seeds, strict=True)]
    return rank([point.mean(name, own) for point, own in zip(found, seeds, strict=True)], gains)


def within(found: Sequence[Point], seeds: Sequence[Sequence[int]], name: str) -> float:
    """Return the mean, over regimes and seeds, of the rank correlation over the sources of one regime and seed."""
    each = []
    for regime in dict.fromkeys(point.regime for point in found):
        here = [(point, set(own)) for point, own in zip(found, seeds, strict=True) if point.regime == regime]
        for seed in sorted(set.union(*(own for _, own in here))):
            there = [point for point, own in here if seed in own]
            each.append(rank([point.mean(name, [seed]) for point in there], [point.gains[seed] for point in there]))
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def interval(found: Sequence[Point], measure: Any, name: str, draws: int = DRAWS) -> tuple[float, float]:
    """Return 95 % of `measure` over sources that are drawn again, and of each its seeds."""
    rng, values = np.random.default_rng(0), list[float]()
    for _ in range(draws):
        chosen = [found[i] for i in rng.integers(len(found), size=len(found))]
        seeds = [rng.choice(list(point.gains), size=len(point.gains)).tolist() for point in chosen]
        values.append(measure(chosen, seeds, name))
    numbers = np.array(values)[np.isfinite(values)]
    low, high = np.percentile(numbers, [2.5, 97.5]) if len(numbers) else (np.nan, np.nan)
    return float(low), float(high)


def analysis(found: Sequence[Point], draws: int = DRAWS) -> dict[str, Any]:
    """Return by figure both rank correlations with the gain, turned so that 1 is best, and their intervals."""
    seeds, result = [list(point.gains) for point in found], dict[str, Any]()
    for name, (_, sign) in FIGURES.items():
        result[name] = {}
        for title, measure in {"sources": over_sources, "within": within}.items():
            ends = [sign * end for end in interval(found, measure, name, draws)]
            result[name][title] = [sign * measure(found, seeds, name), min(ends), max(ends)]
    return result


def page(found: Sequence[Point], result: Mapping[str, Any]) -> str:
    """Return sources and correlations in Markdown."""
    lines = [f"| actions known | source | seeds | gain | {' | '.join(title for title, _ in FIGURES.values())} |"]
    lines.append("|---" * (4 + len(FIGURES)) + "|")
    for point in sorted(
        found, key=lambda each: (list(REGIMES).index(each.regime), -np.mean(list(each.gains.values())))
    ):
        source, seeds = LABELS[str(ROWS[point.row].labels)].title, list(point.gains)
        cells = [REGIMES[point.regime].title, source, str(len(seeds)), f"{np.mean(list(point.gains.values())):+.3f}"]
        means = [point.mean(name, seeds) for name in FIGURES]
        lines.append(f"| {' | '.join(cells + ['' if np.isnan(mean) else f'{mean:.2f}' for mean in means])} |")
    lines += ["", "| figure | rank correlation with the gain, over sources | within regime and seed |", "|---|---|---|"]
    for name, (title, _) in sorted(FIGURES.items(), key=lambda each: -np.nan_to_num(result[each[0]]["sources"][0])):
        both = [result[name][kind] for kind in ("sources", "within")]
        texts = ["–" if np.isnan(each[0]) else "{:+.2f} ({:+.2f} … {:+.2f})".format(*each) for each in both]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "few_actions")
    parser.add_argument("--figures", type=Path, default=OUT)
    args = parser.parse_args()
    found = points(args.results, json.loads(args.figures.read_text())["runs"])
    if len(found) < 3:
        raise SystemExit(f"{len(found)} sources have runs and figures: nothing can be ranked")
    result = analysis(found)
    target = args.results.with_name("few_actions_predicts.json")
    write_results(target, {"points": [point._asdict() for point in found], "correlations": result})
    target.with_suffix(".md").write_text(page(found, result))
    print(page(found, result))


if __name__ == "__main__":
    main()
