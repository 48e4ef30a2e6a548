"""Films of episodes as video files, and a contact sheet that shows all of them at a glance."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lattok.data.video import VideoWriter
from lattok.sim.turns import Played
from lattok.utils import files

SHOTS = 8  # of each episode on the sheet
HEAD = 14  # pixels above each row


def write_films(films: Mapping[Played, np.ndarray], fps: Mapping[str, float], folder: Path) -> None:
    """Write each film [T, H, W, 3] as `TASK-SEED.mp4`, and `sheet.png`."""
    for played, frames in films.items():
        with tempfile.TemporaryDirectory() as scratch:  # its format goes by its name
            video = Path(scratch) / "film.mp4"
            writer = VideoWriter(video, fps[played.task], frames.shape[1:3], "h264")
            writer.add(frames)
            writer.close()
            with files.whole_file(folder / f"{played.task.replace('/', '-')}-{played.seed}.mp4") as path:
                shutil.copyfile(video, path)
    if films:
        with files.whole_file(folder / "sheet.png") as path:
            contact_sheet(films).save(path, "png")


def contact_sheet(films: Mapping[Played, np.ndarray]) -> Image.Image:
    """Return a picture with a row for each film: evenly spaced frames, the first and the last among them."""
    height = max(film.shape[1] for film in films.values()) + HEAD
    width = max(film.shape[2] for film in films.values()) * SHOTS
    sheet = Image.new("RGB", (width, height * len(films)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (played, film) in enumerate(films.items()):
        shots = film[np.linspace(0, len(film) - 1, SHOTS).round().astype(int)]
        sheet.paste(Image.fromarray(np.concatenate([*shots], axis=1)), (0, row * height + HEAD))
        outcome = "success" if played.success else "opposite first" if played.failure else "time is up"
        draw.text((2, row * height + 1), f"{played.task}  seed {played.seed}  {outcome}, {played.decisions}", "black")
    return sheet
