"""Tables and figures of the closed-loop study, made from its result files and nothing else.

python -m studies.tables  # writes studies/results/closed_loop{.md,.json,.png,_paper.md,_tasks.md}

The seed is the unit: a row's success is the mean over seeds with its t interval, a difference is that of runs with the
same seed, with a paired t interval; p values of a regime are corrected after Holm, those of the core table among
themselves, those of all other rows, those of LARA and its flow head, and those of all other `CONTRASTS`.
`comparisons.py` pairs the rows, `statistics.py` counts.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_results
from studies.comparisons import BASE, CONTRASTS, read, summary
from studies.plan import FEW_ONLY, FEW_SHOT, OWN_PAGE, RECIPE, REGIMES, ROWS
from studies.run import RESULTS
from studies.statistics import Interval, by_family, paired

# what the paper gains over its Baseline, in points: LIBERO on average and Long (Tables 1, 9), RoboTwin (Table 2)
PAPER = {
    "ph_direct": ("-1.2", "+0.0", ""),
    "la_align": ("+3.9", "+9.0", "+10.0"),
    "la_direct": ("+4.0", "+10.8", "+11.3"),
    "la_cond": ("+3.5", "+8.4", "+13.3"),
    "la_tok": ("+2.4", "+6.8", "+17.5"),
}

MODELS = {  # other error terms of the same differences
    "difference": "seeds (the plan)",
    "blocks": "seed x row",
    "these": "seed x task: these tasks",
    "widened": "the same, times the root of F",
    "any": "seeds and tasks: tasks in general",
}

SEEN = "seen with 80 % power"  # the true difference; in brackets at the first step of Holm's correction


def tables(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a regime found in Markdown: the rows, what parts of the recipe do, what changes of the scene do."""
    recipe = {row: figure for row, figure in figures.items() if row in RECIPE}
    text = table({row: figure for row, figure in figures.items() if row not in RECIPE})
    if recipe:
        text += f"\n\nThe Baseline's recipe, one thing changed at a time:\n\n{table(recipe)}"
    return "\n\n".join(filter(None, [text, contrast_table(figures), shift_table(figures), trees(figures)]))


def finer_tables(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what tasks, other error terms and single start states say of the same comparisons, in Markdown."""
    return "\n\n".join(filter(None, [task_table(figures), model_table(figures), start_table(figures)]))


def compared(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every comparison of a regime, with what begins its line in a table."""
    for figure in figures.values():
        pairs = {BASE: figure} if "difference" in figure else {}
        for other, found in {**pairs, **figure.get("over", {})}.items():
            yield f"| {figure['title']} | {figures[other]['title']} |", found


def task_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the gains of all comparisons by task in Markdown; empty where no row has enough seeds."""
    lines = []
    for start, found in compared(figures):
        if gains := found.get("by_task"):
            tasks = [task.rpartition("/")[2] for task in gains]
            cells = [f"{gain:+.3f}" for gain in gains.values()]
            lines.append(f"{start} {' | '.join(cells)} | {p_text(found['tasks_p'])} |")
    if not lines:
        return ""
    head = [f"| row | against | {' | '.join(tasks)} | tasks differ |", "|---" * (len(tasks) + 3) + "|"]
    return "Gains by task, means over seeds:\n\n" + "\n".join([*head, *lines])


def model_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the half widths and p values of other models in Markdown, not corrected for the number of tests."""
    lines = []
    for start, found in compared(figures):
        if "these" in found:
            cells = [f"± {found[name].half:.3f}, {p_text(found[name].p)}" if name in found else "" for name in MODELS]
            lines.append(f"{start} {found['difference'].mean:+.3f} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = [f"| row | against | difference | {' | '.join(MODELS.values())} |", "|---" * (len(MODELS) + 3) + "|"]
    ratios = [found["ratio"] for _, found in compared(figures) if "ratio" in found]
    said = f" Seeds have a mean F of {ratios[0]:.2f} over all pairs of rows." if ratios else ""
    return f"The same differences by other error terms, p values not corrected.{said}\n\n" + "\n".join([*head, *lines])


def start_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how policies of the same seed differ at the same start states, in Markdown; empty where nobody knows."""
    lines = [
        f"{start} {of['seeds']} | {of['of']} | {of['alone']} | {of['other']} | {p_text(of['p'])} |"
        for start, found in compared(figures)
        if (of := found.get("starts"))
    ]
    if not lines:
        return ""
    head = ["| row | against | seeds | starts | it alone won | the other alone won | McNemar |", "|---" * 7 + "|"]
    text = "The same start states; the p value is that of these policies, not of how they were trained:"
    return f"{text}\n\n" + "\n".join([*head, *lines])


def trees(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Say of which commits the runs are: pairs of different ones differ in more than their rows."""
    by_commit: dict[str, list[str]] = {}
    for figure in figures.values():
        for commit, seeds in figure["commits"].items():
            some = f" ({', '.join(map(str, seeds))})" if len(figure["commits"]) > 1 else ""
            by_commit.setdefault(commit, []).append(f"{figure['title']}{some}")
    parts = [f"`{commit}`: {'; '.join(rows)}." for commit, rows in by_commit.items()]
    return "Commits, with seeds in brackets where a row has several: " + " ".join(parts)


def p_text(p: float) -> str:
    """Write a p value."""
    return "" if math.isnan(p) else "p < .001" if p < 0.001 else f"p {p:.3f}"


def planned_differences(by_row: Mapping[str, Mapping[int, float]], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the table of differences of rows, given by seed, with Holm's correction over all pairs that have seeds in
    common."""
    gains = {pair: both for pair in pairs if (both := paired(*(by_row[row] for row in pair)))}
    found = {pair: Interval.of(both) for pair, both in gains.items()}
    corrected = by_family({pair: each.p for pair, each in found.items()}, lambda pair: None)
    lines = ["| row | against | difference | p | after Holm |", "|---|---|---|---|---|"]
    for pair, each in found.items():
        p = p_text(corrected[pair].p) if pair in corrected else ""
        lines.append(f"| {pair[0]} | {pair[1]} | {each.text(signed=True)} | {p_text(each.p)} | {p} |")
    return lines


def contrast_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return differences of rows to one another in Markdown; empty where there are none."""
    lines = [f"| row | against | seeds | difference | what that says | {SEEN} |", "|---" * 6 + "|"]
    for row, other in CONTRASTS:
        if found := figures.get(row, {}).get("over", {}).get(other):
            difference = found["difference"]
            cells = [figures[row]["title"], figures[other]["title"], str(difference.seeds)]
            cells += [difference.text(signed=True), verdict(found), seen(found)]
            lines.append(f"| {' | '.join(cells)} |")
    return "Rows against one another, same seeds:\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def missing(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which rows and regimes of the plan have not been run, by the names that commands take."""
    lines = []
    for regime, figures in found.items():
        acting = REGIMES[regime].acting is not None
        few = REGIMES[regime].demonstrations is not None
        planned = [row for row in ROWS if not ((ROWS[row].filled and not acting) or (row in RECIPE and acting))]
        planned = [row for row in planned if row not in OWN_PAGE and (row in FEW_SHOT if few else row not in FEW_ONLY)]
        if left := [f"`{row}`" for row in planned if row not in figures]:
            lines.append(f"Not run, `{regime}`: {', '.join(left)}.")
    if left := [f"`{regime}`" for regime in REGIMES if regime not in {*found, *OWN_PAGE}]:
        lines.append(f"Regimes not run: {', '.join(left)}.")
    return "\n\n".join(lines)


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a regime's table in Markdown."""
    head = f"| row | seeds | success | against Baseline | what that says | {SEEN}"
    lines = [f"{head} | opposite first | swapped | blank | CPU min |", "|---" * 10 + "|"]
    for figure in figures.values():
        cells = [figure["title"], str(figure["success"].seeds), figure["success"].text()]
        if "difference" in figure:
            cells += [figure["difference"].text(signed=True), verdict(figure), seen(figure)]
        else:
            cells += ["", "", ""]
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
    return "Success where the scene is changed:\n\n" + "\n".join(lines)


def verdict(figure: Mapping[str, Any]) -> str:
    """Say what a difference shows after Holm's correction."""
    difference: Interval = figure["difference"]
    if math.isnan(difference.half):
        return "one seed: nothing" if difference.seeds == 1 else "two seeds: nothing"
    if figure["holm"] < 0.05:
        return f"{'better' if difference.mean > 0 else 'worse'}, {p_text(figure['holm'])}"
    if abs(difference.mean) > difference.half:
        return f"alone it would count; corrected {p_text(figure['holm'])}"
    return "no difference detected"


def seen(figure: Mapping[str, Any]) -> str:
    """Say which true difference would have been called one with 80 % power, alone and at Holm's first step."""
    least = [f"{difference:.2f}" for difference in figure.get("seen", [])]
    return f"{least[0]} ({least[1]})" if len(least) > 1 else "".join(least)


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


def pages(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Return what the study found in Markdown, by the end of a file's name."""
    rows = [f"### {REGIMES[regime].title}\n\n{tables(figures)}" for regime, figures in found.items()]
    finer = [f"### {REGIMES[regime].title}: by task\n\n{finer_tables(figures)}" for regime, figures in found.items()]
    texts = {"": "\n\n".join([*rows, missing(found)]), "_paper": paper_table(found), "_tasks": "\n\n".join(finer)}
    return {name: text.strip() + "\n" for name, text in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = read(args.results)
    found = {regime: summary(results[regime]) for regime in REGIMES if regime in results}
    for name, text in pages(found).items():
        args.results.with_name(f"{args.results.name}{name}.md").write_text(text)
    write_results(args.results.with_suffix(".json"), found)
    plot(found, args.results.with_suffix(".png"))
    print(pages(found)[""])


if __name__ == "__main__":
    main()
