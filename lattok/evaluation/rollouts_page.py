"""What a rollout found, as a section of a policy's report and as a page of its own: shares, intervals, films."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lattok.evaluation.page import render, svg
from lattok.evaluation.page.episode import MAX_PAGE_BYTES, EpisodeView, episode_panel, film_frames
from lattok.evaluation.report import Answer, Pictures, Report, Section, Table, TableRow
from lattok.evaluation.wording import percent
from lattok.utils import checks, files
from lattok.utils.commands import Advice, advise, command

PAGE = "rollouts.html"
COLUMNS = {"success": "success", "failure": "opposite first", "decisions": "decisions", "beyond": "beyond limits"}


def rollouts_section(found: Mapping[str, Any]) -> Section:
    """Show rollouts, in the form of rollouts.json: figures of all episodes and of each task, and films where `found`
    also has `films`, uint8 [T, H, W, 3] by what is known of the episode, and `fps` by task."""
    scores = {"all": found["overall"], **found["tasks"]}
    rows, digits = [], (".2f", ".2f", ".1f", ".1%")
    for name, score in scores.items():
        values, spare = tuple(score[key] for key in COLUMNS), (None,) * (len(COLUMNS) - 1)
        rows.append(TableRow(name, name, values, name == "all", intervals=(tuple(score["interval"]), *spare)))
    table = Table("Episodes", tuple(COLUMNS.values()), tuple(rows), digits=digits, note=_options(found))
    every, seed = found["overall"], found["options"]["seed"]
    low, high = every["interval"]
    text = (
        f"{checks.counted(every['episodes'], 'episode')} in a simulator, {found['options']['episodes']} of each task, "
        f"from the start states {seed}, {seed + 1}, ..., which are the same for all policies. Where two opposite tasks "
        "share a scene, a policy that reaches the other end first has failed. Intervals are Wilson's, 95 %; they do "
        "not cover other seeds of training."
    )
    reading = f"It succeeds in {percent(every['success'])} of {checks.counted(every['episodes'], 'episode')} "
    reading += f"({percent(low)} to {percent(high)})"
    worst = min(found["tasks"], key=lambda name: found["tasks"][name]["success"])
    if found["tasks"][worst]["success"] < every["success"]:
        reading += f", least often at {worst} ({percent(found['tasks'][worst]['success'])})"
    reading += f"; in {percent(every['failure'])} the opposite came first." if every["failure"] else "."
    alike = len({name.rpartition("/")[0] for name in found["tasks"]}) == 1  # then the world tells bars apart no more
    bars = [
        (name.rpartition("/")[2] if alike else name, "model", float(score["success"])) for name, score in scores.items()
    ]
    caption = "Share of the episodes in which it does what it was told, of all and of each task; longer is better."
    chart = Pictures(caption, (svg.bars("success", bars, ".2f"),), wide=True, top=True)
    films = _films(found) if found.get("films") else ()
    return Section("Does it do what it is told?", text, (table,), (chart, *films), reading)


def _options(found: Mapping[str, Any]) -> str:
    """Name the options that differ from what a rollout does by itself, and what it noted."""
    options = found["options"]
    said = [f"{key}={options[key]}" for key in ("execute", "repeat", "ensemble") if options[key] is not None]
    if options["instruction"] != "own":
        said.append(f"instruction={options['instruction']}")
    said += [f"{key}={value}" for key, value in options["variation"].items() if value]
    return ". ".join([*([", ".join(said)] if said else []), *found["notes"]])


def _films(found: Mapping[str, Any]) -> tuple[Pictures, ...]:
    """Show films, those that failed first, as many as there is room for."""
    panels, size = list[str](), 0
    for result, frames in sorted(found["films"].items(), key=lambda each: each[0].success):
        outcome = "success" if result.success else "opposite first" if result.failure else "failure: time is up"
        fps, moments = found["fps"][result.task], np.arange(len(frames))
        clip = EpisodeView(f"{outcome}, seed {result.seed}", result.task, fps, moments)
        panel = episode_panel(clip, {"all cameras": frames[film_frames(len(frames))]})
        size += len(panel)
        if panels and size > MAX_PAGE_BYTES:
            break
        panels.append(panel)
    failed = sum(not result.success for result in found["films"])
    shown = f"{len(panels)} of {checks.counted(len(found['films']), 'filmed episode')}"
    caption = f"{shown}, failures first ({failed} failed). All cameras side by side."
    return (Pictures(caption, tuple(panels), top=True),)


def _control(found: Mapping[str, Any], folder: Path, model: str) -> Advice:
    """Advise to let it act without its instruction from the same start states, and to compare the two."""
    options = found["options"]
    numbers = ("episodes", "seed", "execute", "repeat", "ensemble")
    words = [word for key in numbers if options[key] is not None for word in (f"--{key}", str(options[key]))]
    varied = [name if value is True else f"{name}={value}" for name, value in options["variation"].items() if value]
    words += ["--variation", *varied] if varied else []
    blank = f"{folder}-blank"
    acts = command("rollout", model, "--env", *found["tasks"], *words, "--instruction", "blank", "--out", blank)
    compared = command("compare-rollouts", f"instructed={folder}", f"blank={blank}")
    return advise("As a control, let it act without its instruction, and compare", acts, compared)


def write_page(found: Mapping[str, Any], folder: Path, model: str) -> Path:
    """Write the page of a rollout of `model`, a folder or Hub id, into its folder."""
    section, agent = rollouts_section(found), found["agent"]
    name = agent.get("source") or agent.get("model") or agent.get("type", "policy")
    provenance = {key: found[key] for key in ("agent", "options", "versions")}
    answer, noted = Answer(section.title, None, section.reading), " ".join(f"Mind: {note}." for note in found["notes"])
    steps = (_control(found, folder, model),) if found["options"]["instruction"] == "own" else ()
    report = Report("latent-vla", f"Rollout of {name}", noted, (), {}, (section,), provenance, answer, steps)
    files.write_text(folder / PAGE, render(report))
    return folder / PAGE
