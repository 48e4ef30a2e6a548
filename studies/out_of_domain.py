"""Tables of the study of changed scenes (studies/pages/out_of_domain.md), from results alone.

python -m studies.out_of_domain    # reads studies/results/out_of_domain/, writes .md and .json

Rows, seeds and comparisons are those of the plan, which was committed before any run. Nothing is shown before every row
has all seeds. Differences are paired by seed; p values are corrected after Holm within each family.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import unnamed, write_results
from studies.comparisons import BASE, Runs, read, success
from studies.plan import ROWS
from studies.planned import RESULTS
from studies.shift import SHIFTS
from studies.statistics import Interval, holm, paired, smallest_seen
from studies.tables import p_text

SEEDS = range(5)
IMAGE = ("la_align", "la_direct", "la_cond")  # whose latents are of the image; those of la_tok are of actions
PLANNED = (BASE, *IMAGE, "la_tok")
OWN, SCENE = "own", "scene"
CONDITIONS = {OWN: "unchanged", **{name: shift.title for name, shift in SHIFTS.items()}}


def succeeded(runs: Runs, condition: str) -> dict[int, float]:
    """Return the success of a row in a condition, by seed."""
    return {seed: success(run if condition == OWN else run["shift"], condition) for seed, run in runs.items()}


def kept(runs: Runs) -> dict[int, float]:
    """Return by seed how success changes with the scene."""
    own, scene = (succeeded(runs, condition) for condition in (OWN, SCENE))
    return {seed: scene[seed] - own[seed] for seed in scene}


def family(differences: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return intervals of differences that are corrected together, with the true difference that would be seen."""
    found = {name: Interval.of(values) for name, values in differences.items()}
    corrected = holm({name: each.p for name, each in found.items()})
    return {
        name: {
            "difference": each,
            "holm": corrected[name],
            "seen": smallest_seen(each.half, each.seeds, len(found)),
            "seeds": differences[name],
        }
        for name, each in found.items()
    }


def figures(rows: Mapping[str, Runs]) -> dict[str, Any]:
    """Return success by row and condition, and the planned comparisons."""
    own = {name: {row: succeeded(rows[row], name) for row in PLANNED} for name in CONDITIONS}
    others = PLANNED[1:]
    base, scene = kept(rows[BASE]), own[SCENE]
    image = {seed: float(np.mean([scene[row][seed] for row in IMAGE])) for seed in SEEDS}
    return {
        "success": {
            name: {row: Interval.of(list(by.values())) for row, by in each.items()} for name, each in own.items()
        },
        "in changed scenes": family({row: paired(scene[row], scene[BASE]) for row in others}),
        "what the change costs": family({row: paired(kept(rows[row]), base) for row in others}),
        "images against actions": family({"image": paired(image, scene["la_tok"])}),
    }


def page(found: Mapping[str, Any]) -> str:
    """Return the figures in Markdown."""
    lines = [f"| scene | {' | '.join(ROWS[row].title for row in PLANNED)} |", "|---" * (1 + len(PLANNED)) + "|"]
    for name, each in found["success"].items():
        lines.append(f"| {CONDITIONS[name]} | {' | '.join(each[row].text() for row in PLANNED)} |")
    lines += ["", "| comparison | row | difference | p | after Holm | seen with 80 % power |", "|---" * 6 + "|"]
    for title in ("in changed scenes", "what the change costs", "images against actions"):
        for row, each in found[title].items():
            name = ROWS[row].title if row in ROWS else "mean of the three of images"
            cells = [title, name, each["difference"].text(signed=True), p_text(each["difference"].p)]
            lines.append(f"| {' | '.join([*cells, p_text(each['holm']), format(each['seen'], '.3f')])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder in which the study has one")
    folder = parser.parse_args().results / "out_of_domain"
    rows = read(folder).get("plentiful", {})
    there = {row: [seed for seed in SEEDS if "shift" in rows.get(row, {}).get(seed, {})] for row in PLANNED}
    if any(len(seeds) < len(SEEDS) for seeds in there.values()):
        raise SystemExit(f"the plan asks for seeds 0 to {SEEDS[-1]} of every row, and there are {there}")
    commits = {run["environment"]["commit"] for row in PLANNED for run in rows[row].values()}
    if len({name[:7] for name in commits}) > 1 or any(map(unnamed, commits)):
        raise SystemExit(f"the plan asks for runs of one commit, and these are of {', '.join(sorted(commits))}")
    found = figures(rows)
    text = page(found)
    folder.with_suffix(".md").write_text(text)
    write_results(folder.with_suffix(".json"), found)
    print(text)


if __name__ == "__main__":
    main()
