"""A dataset to look at: films of episodes with their codes over time, on one page or in rerun.

The page is one file that asks for nothing, below 3 MB: episodes of different tasks first, as many as there is room for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data import RobotDataset, select_episodes
from lattok.data.schema import camera_keys, short_name
from lattok.evaluation.page import document
from lattok.evaluation.page.timeline import Codes, panel, shots
from lattok.evaluation.report import Progress
from lattok.types import Episode
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.utils.output import Output

MARK = '<meta name="generator" content="lattok view">'
ROOM, MOST, CAMERAS = 2_800_000, 60, 2  # bytes of a page, episodes on it, and cameras unless others are asked for
RERUN = "pip install 'lattok[rerun]'"


def view(
    dataset: RobotDataset,
    out: str | os.PathLike[str] | None = None,
    *,
    episodes: str | Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path | None:
    """Show episodes with their label columns; returns the file, or None where rerun was opened.

    `out` is a page (FILE.html) or a recording for rerun (FILE.rrd). Without it rerun opens, where it is installed and
    there is a screen; otherwise the page is view.html. Raises `LattokError` where another file is in the way.
    """
    chosen = select_episodes(dataset, episodes)
    views = camera_keys(dataset, cameras) if cameras else dataset.cameras[:CAMERAS]
    note: Progress = progress or (lambda stage, done, total: None)
    if out is None and find_spec("rerun") and has_screen():
        to_rerun(dataset, chosen, views, None, note)
        return None
    path = Path("view.html" if out is None else out)
    if path.suffix not in (".html", ".rrd"):
        checks.fail("out", "FILE.html, a page, or FILE.rrd, a recording for rerun", path)
    if path.suffix == ".rrd":
        if path.exists():
            checks.fail("out", "a new file", path)
        with files.whole_file(path) as place:
            to_rerun(dataset, chosen, views, place, note)
        return path
    Output(path.parent).check_own({path.name: _is_page}, True, "page")
    files.write_text(path, page(dataset, chosen, views, note))
    return path


def page(dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str], note: Progress) -> str:
    """Return the page of some episodes, those of other tasks first, as long as there is room."""
    names, shown, size = prefixes(dataset), list[tuple[int, str]](), 0
    order = by_task(episodes)[:MOST]
    for done, episode in enumerate(order):
        note("episodes", done, len(order))
        made = _episode(dataset, episode, cameras, names)
        if shown and size + len(made) > ROOM:
            break
        size += len(made)
        shown.append((episode.index, f'<div class="panel">{made}</div>'))
    note("episodes", len(order), len(order))
    left = len(episodes) - len(shown)
    facts = f"{len(shown)} of {len(episodes)} episodes, {dataset.fps:g} frames a second"
    labels = f"labels {', '.join(names)}" if names else "no label columns (lattok annotate writes them)"
    more = " One of each task comes first; lattok view --episodes shows others." if left else ""
    panels = "".join(html for _, html in sorted(shown))
    head = f'<p class="kind">lattok view · {escape(dataset.kind)}</p><h1>{escape(dataset.name)}</h1>'
    hint = "A colour is a code. Click on codes, or use the arrow keys there, to see the frame that they belong to."
    body = [
        f'<header>{head}<p class="headline">{escape(facts)}; {escape(labels)}.</p></header>',
        f'<p class="note">{hint}{more}</p><figure><div class="panels">{panels}</div></figure>',
    ]
    return document(dataset.name, body, MARK)


def prefixes(dataset: RobotDataset) -> list[str]:
    """Return the prefixes of label columns with codes."""
    found = [key.removesuffix(".codes") for key in dataset.features if key.endswith(".codes")]
    return [name for name in found if f"{name}.valid" in dataset.features]


def by_task(episodes: Sequence[Episode]) -> list[Episode]:
    """Sort episodes so that the first of every task comes before any second one."""
    seen: dict[tuple[str, ...], int] = {}
    turns = []
    for episode in episodes:
        turns.append(seen.get(episode.tasks, 0))
        seen[episode.tasks] = turns[-1] + 1
    return [episode for _, episode in sorted(zip(turns, episodes, strict=True), key=lambda pair: pair[0])]


def _episode(dataset: RobotDataset, episode: Episode, cameras: Sequence[str], names: Sequence[str]) -> str:
    title, task = f"Episode {episode.index}", ", ".join(episode.tasks)
    try:
        films = {}
        for camera in cameras:
            frames = dataset.frames(episode.index, [camera], shots(episode.length))[:, 0]
            films[short_name(camera)] = frames
        labels = list(_labels(dataset, episode, names))
    except LattokError as error:  # others can be looked at
        return f'<div class="episode" data-task="{escape(task, quote=True)}"><p>{title}: {escape(str(error))}</p></div>'
    return panel(title, task, films, labels, np.arange(episode.length), dataset.fps)


def _labels(dataset: RobotDataset, episode: Episode, names: Sequence[str]) -> Iterator[Codes]:
    for name in names:
        keys = [f"{name}.codes", f"{name}.valid"]
        found = dataset.columns(episode.index, keys)
        codes = found[keys[0]].reshape(episode.length, -1)
        if not np.issubdtype(codes.dtype, np.integer):
            checks.fail(keys[0], "whole numbers", codes.dtype)
        valid = found[keys[1]].reshape(-1).astype(bool)
        checks.size(keys[1], "values, one for each frame", len(valid), episode.length)
        yield Codes(name, codes, valid)


def _is_page(path: Path) -> bool | None:
    """Tell whether a file is a page of `view`; None where it is not."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return MARK.encode() in file.read(4096) or None


def has_screen() -> bool:
    """Tell whether a window could open here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def to_rerun(
    dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str], path: Path | None, note: Progress
) -> None:
    """Log episodes to rerun: images, and a curve for each code; into the recording `path`, or its own viewer."""
    if find_spec("rerun") is None:
        raise LattokError(f"recordings for rerun need rerun-sdk. Install it: {RERUN}")
    rerun: Any = import_module("rerun")
    recording = rerun.RecordingStream("lattok")
    recording.save(str(path)) if path else recording.spawn()
    names = prefixes(dataset)
    for done, episode in enumerate(episodes):
        note("episodes", done, len(episodes))
        place = [f"episode {episode.index}"]  # parts of a path: rerun escapes each
        recording.log(place, rerun.TextDocument(", ".join(episode.tasks)), static=True)
        labels = list(_labels(dataset, episode, names))
        for camera in cameras:
            start = 0
            for block in dataset.blocks(episode.index, camera, np.arange(episode.length)):
                for t, image in enumerate(block, start):
                    recording.set_time("frame", sequence=t)
                    recording.log([*place, short_name(camera)], rerun.Image(image).compress(jpeg_quality=80))
                start += len(block)
        for each in labels:
            for t in np.flatnonzero(each.valid).tolist():
                recording.set_time("frame", sequence=t)
                for position, code in enumerate(each.codes[t].tolist()):
                    recording.log([*place, each.name, f"code {position + 1}"], rerun.Scalars(code))
        recording.reset_time()
    recording.flush()
    note("episodes", len(episodes), len(episodes))
