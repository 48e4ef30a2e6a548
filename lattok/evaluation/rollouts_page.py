"""What a rollout found, as a section of a policy's report and as a page of its own: shares, intervals, films."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lattok.evaluation.page import render, svg
from lattok.evaluation.page.episode import MAX_PAGE_BYTES, EpisodeView, episode_panel, film_frames
from lattok.evaluation.report import Pictures, Report, Section, Table, TableRow
from lattok.evaluation.wording import percent
from lattok.utils import checks, files

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
    reading = f"It succeeds in {percent(every['success'])} of the episodes ({percent(low)} to {percent(high)}); "
    reading += f"in {percent(every['failure'])} the opposite came first."
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
        clip = EpisodeView(f"{result.task}, seed {result.seed}", outcome, fps, moments)
        panel = episode_panel(clip, {"all cameras": frames[film_frames(len(frames))]})
        size += len(panel)
        if panels and size > MAX_PAGE_BYTES:
            break
        panels.append(panel)
    failed = sum(not result.success for result in found["films"])
    shown = f"{len(panels)} of {checks.counted(len(found['films']), 'filmed episode')}"
    caption = f"{shown}, failures first ({failed} failed). All cameras side by side."
    return (Pictures(caption, tuple(panels), top=True),)


def write_page(found: Mapping[str, Any], folder: Path) -> Path:
    """Write the page of a rollout into its folder."""
    section, agent = rollouts_section(found), found["agent"]
    name = agent.get("source") or agent.get("model") or agent.get("type", "policy")
    provenance = {key: found[key] for key in ("agent", "options", "versions")}
    report = Report("latent-vla", f"Rollout of {name}", section.reading, (), {}, (section,), provenance)
    files.write_text(folder / PAGE, render(report))
    return folder / PAGE
