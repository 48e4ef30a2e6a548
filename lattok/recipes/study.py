"""`lattok train vla --study`: all strategies and controls with one seed, data order, backbone and head, in one table.

For whoever has to choose a strategy: which one is best depends on the data, and the paper's order need not hold. Runs
that are finished are not repeated: an interrupted study goes on where it was.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from lattok.backbones import SCRATCH
from lattok.data import RobotDataset
from lattok.evaluation.page import sheet
from lattok.evaluation.page.svg import plot
from lattok.evaluation.report import Pictures
from lattok.labels.spec import targets_of
from lattok.recipes.held_out import HELD_OUT, held_out_episodes
from lattok.recipes.run_folder import first_process, wait_for_all
from lattok.recipes.vla import VLARecipe
from lattok.training import RECIPE, RUN
from lattok.training.runlog import METRICS, read_metrics
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.vla import STRATEGIES

RESULTS, TABLE, CURVES = "study.json", "study.md", "study.svg"
BLIND, PROPRIO = "blind", "proprio"
COLOURS = {"action": "model", "latent": "rival"}  # of losses: blue and orange
CONTROLS = {BLIND: "*control:* baseline without instructions", PROPRIO: "*control:* small policy on proprio alone"}


def train_study(
    recipe: VLARecipe, resume: bool = False, resume_command: str = "", strategies: Sequence[str] | None = None
) -> None:
    """Train these strategies, or all, and the controls into folders of `recipe.out`, with a table and curves there."""
    recipe = replace(recipe, study=True)
    out, data = recipe.folder(resume), recipe.data
    if data.mix:
        raise LattokError("`mix` cannot be used in a study, which compares on one dataset. Train the policies by name.")
    for name in ("layer", "latent_weight", "align_projection", "strategy"):
        value, usual = getattr(data, name), getattr(type(data), name)
        if value != usual:
            hint = "where each strategy has its own" if name != "strategy" else "which trains them all"
            raise LattokError(f"`{name}` cannot be set in a study, {hint} (got {value}).")
    sources = recipe.open()
    dataset = sources[0].dataset
    if not held_out_episodes(dataset, data.episodes, data.compared_key):
        hint = "A study compares on held-out episodes whose actions are known."
        checks.fail("episodes", "some that leave others", data.episodes, hint)
    runs = {name: _member(recipe, dataset, name) for name in strategies or STRATEGIES}
    for member in runs.values():  # labels that are missing are an error now, not after hours
        member.policy_data(sources)
    if data.init is None:  # whose prompt a policy that is trained further must share
        prompt = recipe.model.prompt.replace("{task}", "").strip()
        runs[BLIND] = _member(recipe, dataset, "baseline", BLIND, prompt=prompt)
    if data.proprio:
        runs[PROPRIO] = _of_proprio(recipe, dataset)
    with recipe.begin(resume, sources, resume_command=resume_command):
        for name in (name for name in runs if not (out / name / HELD_OUT).is_file()):
            if first_process():
                print(f"\n== {title_of(name)}", flush=True)
            runs[name].train((out / name / RUN / RECIPE).is_file(), resume_command)
        if first_process():
            write_table(out, [*runs], recipe.loop.batch_size)
        wait_for_all()


def title_of(name: str) -> str:
    return CONTROLS.get(name) or STRATEGIES[name].title or name


def _member(recipe: VLARecipe, dataset: RobotDataset, strategy: str, name: str = "", **model: Any) -> VLARecipe:
    """Return the recipe of one run, with those of the labels' options that fit its strategy."""
    data, images = recipe.data, STRATEGIES[strategy].labels != "chunk"
    known, unfit = targets_of(dataset).get(data.prefix or ""), {"tokenizer" if images else "latent_stride": None}
    prefix = data.prefix if known in (None, "steps" if images else "chunk") else None
    data = replace(data, strategy=strategy, prefix=prefix, **unfit)
    out = str(Path(recipe.out) / (name or strategy))
    return replace(recipe, out=out, data=data, model=replace(recipe.model, **model), study=False)


def _of_proprio(recipe: VLARecipe, dataset: RobotDataset) -> VLARecipe:
    """Return the recipe of the control that sees only proprio: a policy without cameras over the scratch backbone."""
    small = replace(recipe.model.backbone, name=SCRATCH, revision=None, train="full")
    head = replace(recipe.model.head, layers=())  # of the small backbone's
    made = _member(recipe, dataset, "baseline", PROPRIO, prompt="", backbone=small, head=head)
    return replace(made, data=replace(made.data, cameras=(), init=None))


def _held_out(path: Path) -> dict[str, Any]:
    """Read what a finished run says of its held-out episodes; of a damaged file say how to make it again."""
    again = f"Delete {path.name} and continue the study: that run is evaluated again."
    try:
        found = files.read_json(path)
    except LattokError as error:
        raise LattokError(f"{error} {again}") from None
    steps, latent = found.get("by_step"), found.get("latent", {})
    numbers = [found.get(name) for name in ("gain", "mean_action", "windows")]
    numbers += latent.values() if isinstance(latent, dict) else ["none"]
    errors = [found.get("error", "none"), *(steps if isinstance(steps, list) and steps else ["none"])]
    numbers += [error for error in errors if error is not None]  # a step that no episode reaches has none
    if not all(map(checks.is_number, numbers)) or not isinstance(found.get("key"), str):
        checks.fail(str(path), "the errors of a finished run", "something else", again)
    return found


def _metrics(folder: Path) -> list[dict[str, float]]:
    try:
        return read_metrics(folder / RUN / METRICS)
    except LattokError as error:
        raise LattokError(f"{error} Delete {folder} and continue the study: that run is made again.") from None


def write_table(out: Path, names: Sequence[str], batch_size: int) -> None:
    """Write study.json, study.md and study.svg of finished runs."""
    logs, results = {name: _metrics(out / name) for name in names}, dict[str, dict[str, Any]]()
    for name, logged in logs.items():
        rates = [entry.get("samples_per_second") for entry in logged]
        known = [rate for rate in rates if isinstance(rate, int | float) and rate > 0]
        seconds = batch_size / median(known) if known else math.nan  # of a step
        results[name] = {"held_out": _held_out(out / name / HELD_OUT), "last": logged[-1], "seconds": seconds}
    errors = results[names[0]]["held_out"]
    head = ["run", f"held-out error against `{errors['key']}`", "below the mean action", "first step", "last step"]
    head += ["latent actions, held out", "seconds a step"]
    last = ["*control:* mean action", f"{errors['mean_action']:.3f}", "0%", "–", "–", "–", "–"]
    rows = (_cells(name, found["held_out"], found["seconds"]) for name, found in results.items())
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows, last])
    windows = checks.counted(errors["windows"], "window")
    note = f"Mean squared error in units of the variance of the training actions; {windows}."
    files.write_text(out / TABLE, f"{text}\n\n{note}\n\n![Losses]({CURVES})\n")
    files.write_text(out / CURVES, curves(logs))
    files.write_json(out / RESULTS, results)
    print(f"\n{text}\n\n{note}")


def _cells(name: str, errors: Mapping[str, Any], seconds: float) -> list[str]:
    latent = errors.get("latent", {})
    learned = next((f"{kind.removeprefix('latent_')} {latent[kind]:.2f}" for kind in latent if "_" in kind), "–")
    numbers = (errors["error"], errors["by_step"][0], errors["by_step"][-1], seconds)
    error, first, last, took = ("–" if number is None else f"{number:.3f}" for number in numbers)
    return [title_of(name), error, f"{errors['gain']:.0%}", first, last, learned, took]


def curves(runs: dict[str, list[dict[str, float]]]) -> str:
    """Draw losses of every run, small multiples in one SVG, on a logarithmic scale."""
    panels = []
    for name, logged in runs.items():
        logs = []
        for kind, colour in COLOURS.items():
            if losses := [entry[f"loss/{kind}"] for entry in logged if f"loss/{kind}" in entry]:
                logs.append((colour, [math.log10(max(loss, 1e-9)) for loss in losses]))
        panels.append(plot(title_of(name).replace("*", ""), logs, f"{logged[-1]['step']:g} steps"))
    return sheet([Pictures("Action loss blue, latent loss orange; logarithm to base 10", tuple(panels))])
