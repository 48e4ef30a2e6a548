"""Which figure says beforehand what a policy will reach that imitates inferred actions, or acts by a tokenizer.

python -m studies.predicts few_actions        # after studies.inferred and the runs
python -m studies.predicts acting_by_tokens   # after studies.learnable and the runs

Over all sources (rows of the study that differ in nothing but the actions that were filled in, or the tokenizer): the
rank correlation of each figure with the gain over the Baseline of the same regime and seed, over the means of sources;
the mean of the same within each regime and seed, where what the regime is worth plays no part; and 95 % intervals of
both by drawing sources, then seeds, again (percentiles of DRAWS draws). Ceilings, and controls that are wrong on
purpose, lie far from all other sources and can make a correlation alone; so everything is also said without them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import environment, unnamed, write_results
from studies import inferred, learnable
from studies.comparisons import Runs, read, success
from studies.plan import ACTS, IN_TURN, LABELS, REGIMES, ROWS
from studies.planned import BASE, RESULTS, STUDIES, Study, check_commit, whole

INFERRED = {  # +1: more is better
    "r2_xyz": ("R² of the expert's action", 1),
    "systematic": ("systematic error by task and phase", -1),
    "absolute": ("absolute error", -1),
    "given_frame": ("R² beyond what the scene says", 1),
    "confidence": ("rank correlation of confidence and error", 1),
}
TOKENS = {
    "policy_error": ("error of the small policy that acts by codes", -1),
    "policy_error/draws": ("error of its mean of draws", -1),
    "normalised_mse": ("error of reconstruction", -1),
    "unseen_prefixes_half": ("half of the codes as in no training chunk", -1),
    "neighbour_error": ("error of a near code", -1),
    "rank_consistency": ("ranks kept", 1),
}
DRAWS = 2000
Results = Mapping[str, Mapping[str, Runs]]  # by regime and row
SIGNS = (
    "Gain: success minus that of the Baseline. Correlations of errors are turned round: +1 always means that a better "
    "figure goes with a higher gain."
)
WITHOUT = "Without ceilings, and controls that are wrong on purpose"


class Question(NamedTuple):
    """Where figures are, what they are called and whether more is better, which rows are sources, and which of these
    are ceilings or wrong on purpose. `whole`: the plan has all rows in the answer, or none."""

    file: Path
    figures: Mapping[str, tuple[str, int]]
    rows: tuple[str, ...]
    extremes: tuple[str, ...] = ()
    whole: bool = False


QUESTIONS = {
    "few_actions": Question(
        inferred.OUT,
        INFERRED,
        tuple(name for name, row in ROWS.items() if row.filled and row.strategy == BASE and not row.options),
        ("executed", "idm-shuffled"),
    ),
    "acting_by_tokens": Question(
        learnable.OUT, TOKENS, tuple(row for row in ACTS if ROWS[row].options == IN_TURN), whole=True
    ),
}


class Point(NamedTuple):
    """A source in a regime: by seed, the gain of imitating it and its figures."""

    regime: str
    row: str
    gains: Mapping[int, float]
    figures: Mapping[int, Mapping[str, float]]

    def mean(self, name: str, seeds: Sequence[int]) -> float:
        """Return the mean of a figure over some seeds; NaN where it has none."""
        return sum(self.figures[seed].get(name, np.nan) for seed in seeds) / len(seeds)


def points(results: Results, study: Study, rows: Sequence[str], runs: Mapping[str, Any]) -> list[Point]:
    """Return the sources of a study, of these rows, once they have all their seeds, with those that have figures."""
    found = []
    for regime, every in results.items():
        played = whole(study, regime, every)
        for row in rows:
            by_seed = played.get(row, {})
            figures = {seed: runs.get(f"{regime}.{ROWS[row].labels}.{seed}") for seed in by_seed}
            seeds = [seed for seed, each in figures.items() if each and seed in played.get(BASE, {})]
            gains = {seed: success(by_seed[seed]) - success(played[BASE][seed]) for seed in seeds}
            if seeds:
                said = {seed: each["all"] for seed, each in figures.items() if each and seed in seeds}
                found.append(Point(regime, row, gains, said))
    return found


def check_whole(question: Question, study: Study, results: Results, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where a row lacks seeds or one of its figures, where figures are of several commits, or of other models than
    the rows acted by."""
    commits = set[str]()
    for regime in study.seeds:
        there = whole(study, regime, results.get(regime, {}))
        if missing := [row for row in (BASE, *question.rows) if row not in there]:
            raise SystemExit(f"not all seeds are there of {', '.join(missing)}")
        for row in question.rows:
            for seed, cell in there[row].items():
                name = f"{regime}.{ROWS[row].labels}.{seed}"
                if name not in runs or runs[name]["model"] != cell["label_model"]["weights_sha256"]:
                    raise SystemExit(f"there are no figures of the tokenizer that {row} acts by in seed {seed}")
                said = runs[name]["all"]
                if lacking := [each for each in question.figures if not np.isfinite(said.get(each, np.nan))]:
                    raise SystemExit(f"of the tokenizer that {row} acts by in seed {seed} there is no {lacking[0]}")
                commits.add(runs[name]["commit"][:7])  # git may say more digits
    if len(commits) > 1 or any(map(unnamed, commits)):
        raise SystemExit(f"figures must be of one commit, and are of {', '.join(sorted(commits))}")


def regimes_of(found: Sequence[Point]) -> list[str]:
    """Return the regimes of some sources, in their order."""
    return list(dict.fromkeys(point.regime for point in found))


def rank(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the rank correlation of the pairs that are numbers; NaN of fewer than three, or of what is constant."""
    both = np.array([x, y], dtype=float)
    both = both[:, np.isfinite(both).all(0)]
    if both.shape[1] < 3:
        return float("nan")
    above = both[:, :, None] - both[:, None]  # a place in the order: how many are below, ties in the middle
    one, two = np.sign(above).sum(2)  # around 0; scipy's ranks take ten times as long, which counts in so many draws
    spread = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / spread if spread else float("nan")


def over_sources(found: Sequence[Point], seeds: Sequence[Sequence[int]], name: str) -> float:
    """Return the rank correlation of figure and gain over the means of sources, each over its own seeds."""
    gains = [sum(point.gains[seed] for seed in own) / len(own) for point, own in zip(found, seeds, strict=True)]
    return rank([point.mean(name, own) for point, own in zip(found, seeds, strict=True)], gains)


def within(found: Sequence[Point], seeds: Sequence[Sequence[int]], name: str) -> float:
    """Return the mean, over regimes and seeds, of the rank correlation over the sources of one regime and seed."""
    each = []
    for regime in regimes_of(found):
        here = [(point, own) for point, own in zip(found, seeds, strict=True) if point.regime == regime]
        drawn = Counter[int]()  # a seed counts as often as it was drawn, the same for all sources that have it
        for _, own in here:
            drawn |= Counter(own)
        for seed in sorted(drawn.elements()):
            there = [point for point, own in here if seed in own]
            each.append(rank([point.mean(name, [seed]) for point in there], [point.gains[seed] for point in there]))
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def group_sizes(found: Sequence[Point]) -> dict[str, list[int]]:
    """Return by regime, for each of its seeds in order, how many sources `within` ranks; it leaves out fewer than 3."""
    return {
        regime: [count for _, count in sorted(Counter(s for p in found if p.regime == regime for s in p.gains).items())]
        for regime in regimes_of(found)
    }


def interval(found: Sequence[Point], measure: Any, name: str, draws: int = DRAWS) -> tuple[float, float]:
    """Return 95 % of `measure` over sources that are drawn again, and seeds: the same for all sources of a regime,
    which share its Baseline."""
    rng, values = np.random.default_rng(0), list[float]()
    every = {regime: sorted({s for p in found if p.regime == regime for s in p.gains}) for regime in regimes_of(found)}
    for _ in range(draws):
        drawn = {regime: rng.choice(own, size=len(own)).tolist() for regime, own in every.items()}
        chosen = [found[i] for i in rng.integers(len(found), size=len(found))]
        seeds = [[seed for seed in drawn[point.regime] if seed in point.gains] for point in chosen]
        kept = [i for i, own in enumerate(seeds) if own]  # a draw may leave out all the seeds of a source
        values.append(measure([chosen[i] for i in kept], [seeds[i] for i in kept], name) if kept else np.nan)
    numbers = np.array(values)[np.isfinite(values)]
    low, high = np.percentile(numbers, [2.5, 97.5]) if len(numbers) else (np.nan, np.nan)
    return float(low), float(high)


def analysis(found: Sequence[Point], figures: Mapping[str, tuple[str, int]], draws: int = DRAWS) -> dict[str, Any]:
    """Return by figure both rank correlations with the gain, turned so that 1 is best, and their intervals."""
    seeds, result = [list(point.gains) for point in found], dict[str, Any]()
    for name, (_, sign) in figures.items():
        result[name] = {}
        for title, measure in {"sources": over_sources, "within": within}.items():
            ends = [sign * end for end in interval(found, measure, name, draws)]
            result[name][title] = [sign * measure(found, seeds, name), min(ends), max(ends)]
    return result


def source_table(found: Sequence[Point], figures: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return the lines of a table of sources in Markdown."""
    lines = [f"| regime | source | seeds | gain | {' | '.join(title for title, _ in figures.values())} |"]
    lines.append("|---" * (4 + len(figures)) + "|")
    for point in sorted(
        found, key=lambda each: (list(REGIMES).index(each.regime), -np.mean(list(each.gains.values())))
    ):
        source, seeds = LABELS[str(ROWS[point.row].labels)].title, list(point.gains)
        cells = [REGIMES[point.regime].title, source, str(len(seeds)), f"{np.mean(list(point.gains.values())):+.3f}"]
        means = [point.mean(name, seeds) for name in figures]
        lines.append(f"| {' | '.join(cells + ['' if np.isnan(mean) else f'{mean:.3g}' for mean in means])} |")
    return lines


def rank_table(figures: Mapping[str, tuple[str, int]], result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table of correlations in Markdown."""
    lines = ["| figure | rank correlation with the gain, over sources | within regime and seed |", "|---|---|---|"]
    for name, (title, _) in sorted(figures.items(), key=lambda each: -np.nan_to_num(result[each[0]]["sources"][0])):
        both = [result[name][kind] for kind in ("sources", "within")]
        texts = ["–" if np.isnan(each[0]) else "{:+.2f} ({:+.2f} … {:+.2f})".format(*each) for each in both]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return lines


def size_text(sizes: Mapping[str, Sequence[int]]) -> str:
    """Say how many sources are ranked within each regime and seed."""
    by_regime = {regime: sorted(set(counts)) for regime, counts in sizes.items()}
    texts = [f"{REGIMES[regime].title}: {' or '.join(map(str, counts))}" for regime, counts in by_regime.items()]
    return f"Sources of one seed: {'; '.join(texts)}. Fewer than three are not ranked within a regime and seed."


def page(found: Sequence[Point], figures: Mapping[str, tuple[str, int]], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return sources and correlations in Markdown; `parts`: by title, what `analysis` and `group_sizes` returned."""
    lines = [*source_table(found, figures), "", SIGNS]
    for title, part in parts.items():
        lines += ["", f"{title} ({part['sources']}):", "", *rank_table(figures, part["correlations"])]
        lines += ["", size_text(part["sizes"])]
    return "\n".join(lines) + "\n"


def parts_of(found: Sequence[Point], question: Question) -> dict[str, dict[str, Any]]:
    """Return correlations of all sources and, where there are some, of those that are not extremes."""
    kept = [point for point in found if point.row not in question.extremes]
    parts = {"All sources": found} | ({WITHOUT: kept} if 3 <= len(kept) < len(found) else {})
    return {
        title: {
            "sources": len(some),
            "correlations": analysis(some, question.figures, DRAWS),
            "sizes": group_sizes(some),
        }
        for title, some in parts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", choices=list(QUESTIONS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder in which each study has one")
    args = parser.parse_args()
    question = QUESTIONS[args.study]
    runs = json.loads((args.results / question.file.name).read_text())["runs"]
    study, results = STUDIES[args.study], read(args.results / args.study)
    if question.whole:
        check_commit(study, results)
        check_whole(question, study, results, runs)
    found = points(results, study, question.rows, runs)
    if len(found) < 3:
        raise SystemExit(f"{len(found)} sources have runs and figures: nothing can be ranked")
    parts = parts_of(found, question)
    target = args.results / f"{args.study}_predicts.json"
    all_of, without = (parts.get(title, {}) for title in ("All sources", WITHOUT))
    told = {"points": [point._asdict() for point in found], "extremes": question.extremes, **all_of}
    write_results(target, {"environment": environment(), **told, "without_extremes": without})
    target.with_suffix(".md").write_text(page(found, question.figures, parts))
    print(page(found, question.figures, parts))


if __name__ == "__main__":
    main()
