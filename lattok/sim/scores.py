"""What rollouts found: shares of success with their intervals, films, and a file with all that runs them again."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lattok.data.video import VideoWriter
from lattok.utils import checks, files
from lattok.utils.output import Output
from lattok.version import SIMULATORS, __version__, installed

SHEET_FRAMES = 8  # of each episode on the sheet
SHEET_HEADER = 14  # pixels above each row


class EpisodeResult(NamedTuple):
    task: str
    seed: int
    success: bool
    failure: bool  # the opposite was reached first
    decisions: int
    beyond: float  # share of the numbers in its actions that exceeded the limits


def contact_sheet(films: Mapping[EpisodeResult, np.ndarray]) -> Image.Image:
    """Return a picture with a row for each film: evenly spaced frames, the first and the last among them."""
    height = max(film.shape[1] for film in films.values()) + SHEET_HEADER
    width = max(film.shape[2] for film in films.values()) * SHEET_FRAMES
    sheet = Image.new("RGB", (width, height * len(films)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (result, film) in enumerate(films.items()):
        shots = film[np.linspace(0, len(film) - 1, SHEET_FRAMES).round().astype(int)]
        sheet.paste(Image.fromarray(np.concatenate([*shots], axis=1)), (0, row * height + SHEET_HEADER))
        outcome = "success" if result.success else "opposite first" if result.failure else "time is up"
        draw.text((2, row * height + 1), f"{result.task}  seed {result.seed}  {outcome}, {result.decisions}", "black")
    return sheet


RESULTS, SPEED = "rollouts.json", "speed.json"
LEGEND = """Opposite first: the robot did the other task of its scene before its own.
Decisions: actions until success, on average.
Beyond limits: share of action values outside the simulator's limits, which it clips."""
Z = 1.959964  # 95 %


class RolloutScore(NamedTuple):
    episodes: int
    success: float  # share
    interval: tuple[float, float]  # of that, Wilson's, 95 %
    failure: float  # share in which the opposite was reached first
    decisions: float | None  # until success, on average; None without any
    beyond: float  # share of the numbers in all actions that exceeded the limits


@dataclass(frozen=True)
class Rollouts:
    """What happened in every episode, and all that is needed to run them again."""

    episodes: tuple[EpisodeResult, ...]  # by task, then by seed
    agent: dict[str, Any]
    options: dict[str, Any]
    notes: tuple[str, ...]  # what may make the figures mean something else, a line each
    seconds: float
    films: dict[EpisodeResult, np.ndarray] = field(repr=False)  # uint8 [T, H, V W, 3] of the filmed ones
    fps: dict[str, float] = field(repr=False)  # decisions in a second, by task

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.task for result in self.episodes))

    def score(self, task: str | None = None) -> RolloutScore:
        """Return the figures of one task, or of all episodes."""
        if task is not None:
            checks.one_of("task", task, self.tasks)
        chosen = [result for result in self.episodes if task in (None, result.task)]
        won = [result.decisions for result in chosen if result.success]
        total = sum(result.decisions for result in chosen)
        success, interval = len(won) / len(chosen), wilson(len(won), len(chosen))
        failure = sum(result.failure for result in chosen) / len(chosen)
        beyond = sum(result.beyond * result.decisions for result in chosen) / total
        return RolloutScore(len(chosen), success, interval, failure, sum(won) / len(won) if won else None, beyond)

    def to_json(self) -> dict[str, Any]:
        """Return figures, episodes and provenance as a JSON object: the same for the same seeds and versions."""
        own = {"lattok": __version__, "python": platform.python_version(), "MUJOCO_GL": os.environ.get("MUJOCO_GL", "")}
        found: dict[str, Any] = {"schema": 1, "overall": self.score()._asdict()}
        found |= {"tasks": {task: self.score(task)._asdict() for task in self.tasks}}
        found |= {"notes": self.notes, "agent": self.agent, "options": self.options}
        found |= {"versions": own | installed(("torch", "numpy", *SIMULATORS))}
        return found | {"episodes": [result._asdict() for result in self.episodes]}

    def to_text(self) -> str:
        """Return a table for a terminal."""
        width = max(len(name) for name in (*self.tasks, "all"))
        lines = [f"{'':<{width}}  success  95 %         opposite first  decisions  beyond limits"]
        for name, score in [*((task, self.score(task)) for task in self.tasks), ("all", self.score())]:
            low, high = score.interval
            taken = "–" if score.decisions is None else f"{score.decisions:.1f}"
            shares = f"{score.success:>7.2f}  [{low:.2f}, {high:.2f}]  {score.failure:>14.2f}"
            lines.append(f"{name:<{width}}  {shares}  {taken:>9}  {score.beyond:>13.1%}")
        return "\n".join([*lines, LEGEND])

    def save(self, folder: Path) -> None:
        """Write `speed.json`, which identifies the folder, then films if there are any, and `rollouts.json` last."""
        decisions = sum(result.decisions for result in self.episodes)
        speed = {"seconds": self.seconds, "decisions_per_second": decisions / self.seconds}
        files.write_json(folder / SPEED, speed)  # of its own: it differs from run to run
        for result, frames in self.films.items():
            with files.whole_file(folder / f"{result.task.replace('/', '-')}-{result.seed}.mp4") as path:
                writer = VideoWriter(path, self.fps[result.task], frames.shape[1:3], "h264")
                writer.add(frames)
                writer.close()
        if self.films:
            with files.whole_file(folder / "sheet.png") as path:
                contact_sheet(self.films).save(path, "png")
        files.write_json(folder / RESULTS, self.to_json())


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's interval of a share, 95 %."""
    share, spread = successes / episodes, Z**2 / episodes
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def check_place(folder: Path, agent: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse a folder that cannot be written into, or that has something else, or results of another model."""
    Output(folder).check_new(lambda place: any((place / name).exists() for name in (RESULTS, SPEED)))
    files.check_writable(folder)
    about = (files.finite(agent), files.finite(options))

    def reads(path: Path) -> Any:
        found = files.read_json(path)
        if path.name == SPEED:  # says nothing of the model
            return about if found.keys() == {"seconds", "decisions_per_second"} else None
        return (found["agent"], found["options"]) if {"agent", "options"} <= found.keys() else None

    readers = {RESULTS: reads, SPEED: reads}
    Output(folder).check_own(readers, about, "rollout", "of another model or with other options")
