"""What joint training made of the study's latent action models: what their labels say before and after, seed by seed.

python -m studies.refined --folder study --control --out studies/results/closed_loop_refined.json

For every cell in the folder that has left a refined model (such as action-free.lara.0): the figures of quality.py for
labels of the model that it began with, and of the refined one. `--control` trains each cell once more, with
detach=lam: as many steps on the same batches, in which the model gets no gradient of the alignment. A labelling and its
probes take half a minute, the control as long as the cell's training; what is there is not made again. Cells whose
figures are in the results stay there, so that a study may be done in parts: `--rows` and `--seeds` choose those to add.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

import lattok
from benchmarks.common import environment, write_results
from studies.cell import recipe_of
from studies.labels import labelled_dataset
from studies.plan import REGIMES, ROWS, Cell
from studies.quality import FIGURES, label_figures
from studies.tables import Interval

BEFORE, REFINED, ALONE = "before", "refined", "alone"
MODELS = {BEFORE: "before", ALONE: "*control:* went on alone", REFINED: "refined with the policy"}
DIFFERENCES = ((REFINED, BEFORE), (REFINED, ALONE), (ALONE, BEFORE))
Figures = Mapping[str, Mapping[str, float]]  # of the labels of each of `MODELS`


def refined_cells(folder: Path) -> list[Cell]:
    """Return the cells whose joint training is over and has left a model."""
    found = [path.parent for path in folder.glob("policies/*/config.json") if (path.parent / "lam").is_dir()]
    return sorted(Cell.of(path.name) for path in found)


def figures_of(cell: Cell, folder: Path, control: bool) -> dict[str, dict[str, float]]:
    """Return the figures of labels before and after, and of the control if it is wanted."""
    data = folder / "demonstrations"
    models = {REFINED: folder / "policies" / cell.name / "lam"} | ({ALONE: left_alone(cell, folder)} if control else {})
    paths = {BEFORE: labelled_dataset(folder, data, str(ROWS[cell.row].labels), REGIMES[cell.regime], cell.seed)}
    for name, model in models.items():
        paths[name] = folder / "labelled" / f"{name}.{cell.name}"
        if not paths[name].exists():
            lattok.annotate(data, model, paths[name])
    return {name: _known_figures(path) for name, path in paths.items()}


_known_figures = cache(label_figures)  # rows of one seed begin with one model


def left_alone(cell: Cell, folder: Path) -> Path:
    """Return the model after the training of a cell in which the alignment had no gradient for it."""
    out = folder / ALONE / cell.name
    if not (out / "config.json").exists():
        recipe = recipe_of(cell, folder, out)
        lattok.train(replace(recipe, data=replace(recipe.data, detach="lam")), resume=out.exists())
    return out / "lam"


def table(found: Mapping[Cell, Figures]) -> str:
    """Return means over seeds in Markdown, and differences of models of the same seed with their intervals."""
    lines = [f"| regime | row | model | seeds | {' | '.join(FIGURES.values())} |"]
    lines.append("|---" * (4 + len(FIGURES)) + "|")
    for regime, row in dict.fromkeys((cell.regime, cell.row) for cell in found):
        runs = [figures for cell, figures in found.items() if (cell.regime, cell.row) == (regime, row)]
        start = f"| {REGIMES[regime].title} | {ROWS[row].title} |"
        for model, title in MODELS.items():
            if having := [run for run in runs if model in run]:
                means = [f"{np.mean([run[model][name] for run in having]):.3f}" for name in FIGURES]
                lines.append(f"{start} {title} | {len(having)} | {' | '.join(means)} |")
        for model, other in DIFFERENCES:
            if having := [run for run in runs if model in run and other in run]:
                gains = [Interval.of([run[model][name] - run[other][name] for run in having]) for name in FIGURES]
                title = " - ".join(MODELS[each].removeprefix("*control:* ") for each in (model, other))
                lines.append(f"{start} {title} | {len(having)} | {' | '.join(gain.text(True) for gain in gains)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="demonstrations, labels and policies of the study")
    parser.add_argument("--control", action="store_true", help="also train what went on alone")
    parser.add_argument("--rows", nargs="+", choices=[name for name, row in ROWS.items() if row.joint])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; the table lies next to it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    old = json.loads(args.out.read_text())["cells"] if args.out.exists() else {}
    found: dict[Cell, Figures] = {Cell.of(name): figures for name, figures in old.items()}
    cells = [
        cell
        for cell in refined_cells(args.folder)
        if (args.rows is None or cell.row in args.rows) and (args.seeds is None or cell.seed in args.seeds)
    ]
    wanted = MODELS if args.control else (BEFORE, REFINED)
    for cell in cells:
        if not found.get(cell, {}).keys() >= set(wanted):
            found[cell] = figures_of(cell, args.folder, args.control)
            print(cell.name, {name: round(figures["codes"], 3) for name, figures in found[cell].items()}, flush=True)
    if not found:
        raise SystemExit(f"no cell in {args.folder} has left a refined model: run those of a joint row, such as lara")
    found = {cell: found[cell] for cell in sorted(found)}
    write_results(args.out, {"environment": environment(), "cells": {c.name: figures for c, figures in found.items()}})
    args.out.with_suffix(".md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
