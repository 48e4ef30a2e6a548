"""`lattok view`: the episodes of a dataset with its actions and label columns, on one page or in rerun.

The page is one file that asks for nothing, below 8 MB: episodes of different tasks first, as many as there is room for.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data import RobotDataset, dimension_names, select_episodes
from lattok.data.instructions import task_group
from lattok.data.schema import camera_keys, own_vectors, short_name
from lattok.evaluation.page import document, head_of
from lattok.evaluation.page.episode import (
    CAMERAS,
    MAX_PAGE_BYTES,
    Curve,
    EpisodeCodes,
    EpisodeView,
    Films,
    curves,
    episode_panel,
    films_of,
)
from lattok.evaluation.report import Progress
from lattok.types import Episode
from lattok.utils import checks, files
from lattok.utils.output import Output
from lattok.version import install_extra

MARK = '<meta name="generator" content="lattok view">'
MAX_EPISODES = 60
ACTION = "action"  # column that is drawn


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
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if out is None and find_spec("rerun") and screen:
        to_rerun(dataset, chosen, views, None, note)
        return None
    path = Path("view.html" if out is None else out)
    if path.suffix in (".html", ".rrd"):
        files.check_writable(path.parent, f"out=FILE{path.suffix}")
    if path.suffix == ".html":
        Output(path.parent).check_own({path.name: lambda own: MARK.encode() in head_of(own) or None}, True, "page")
        files.write_text(path, page(dataset, chosen, views, note))
    elif path.suffix == ".rrd":
        Output(path).check_absent("file")
        with files.whole_file(path) as place:
            to_rerun(dataset, chosen, views, place, note)
    else:
        checks.fail("out", "FILE.html, a page, or FILE.rrd, a recording for rerun", path)
    return path


def page(dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str], note: Progress) -> str:
    """Return the page of some episodes, those of other tasks first, as long as there is room."""
    names, shown, size = prefixes(dataset), list[tuple[int, str]](), 0
    order = by_task(episodes)[:MAX_EPISODES]
    for done, episode in enumerate(order):
        note("episodes", done, len(order))
        made = _episode(dataset, episode, cameras, names)
        if shown and size + len(made) > MAX_PAGE_BYTES:
            break
        size += len(made)
        shown.append((episode.index, f'<div class="panel">{made}</div>'))
    note("episodes", len(order), len(order))
    facts = f"{len(shown)} of {checks.counted(len(episodes), 'episode')}, {dataset.fps:g} frames a second"
    labels = f"labels {', '.join(names)}" if names else "no label columns (lattok annotate writes them)"
    others = " One of each task comes first; lattok view --episodes shows others."
    more = others if len(shown) < len(episodes) else ""
    if ACTION in own_vectors(dataset) and _inferred(dataset):
        more = f" Recorded actions are black, inferred ones blue.{more}"
    panels = "".join(html for _, html in sorted(shown))
    return _document(dataset.name, f"lattok view · {dataset.kind}", f"{facts}; {labels}.", panels, more)


def page_of_film(name: str, films: Films, labels: EpisodeCodes, fps: float) -> str:
    """Return the page of one film of T frames with its codes; `films` show the frames `film_frames(T)`."""
    length = len(labels.codes)
    facts = f"{checks.counted(length, 'frame')}, {fps:g} frames a second; codes of {labels.name}."
    panel = episode_panel(EpisodeView(name, "", fps, np.arange(length), codes=[labels]), films)
    return _document(name, "lattok label", facts, f'<div class="panel">{panel}</div>')


def _document(name: str, kind: str, headline: str, panels: str, more: str = "") -> str:
    head = f'<p class="kind">{escape(kind)}</p><h1>{escape(name)}</h1>'
    hint = "Drag over curves and codes, or use the arrow keys there: films and values follow. Space plays. "
    hint += "A colour is a code."
    body = [
        f'<header>{head}<p class="headline">{escape(headline)}</p></header>',
        f'<p class="note">{hint}{more}</p><figure><div class="panels">{panels}</div></figure>',
    ]
    return document(name, body, MARK)


def prefixes(dataset: RobotDataset, part: str = "codes") -> list[str]:
    """Return the prefixes of label columns that have a part."""
    found = [key.removesuffix(f".{part}") for key in dataset.features if key.endswith(f".{part}")]
    return [name for name in found if f"{name}.valid" in dataset.features]


def by_task(episodes: Sequence[Episode]) -> list[Episode]:
    """Sort episodes so that the first of every task comes before any second one."""
    turns: defaultdict[tuple[str, ...], Iterator[int]] = defaultdict(count)
    return sorted(episodes, key=lambda episode: next(turns[task_group(episode)]))


def _episode(dataset: RobotDataset, episode: Episode, cameras: Sequence[str], names: Sequence[str]) -> str:
    moments = np.arange(episode.length)
    try:
        films = films_of(dataset, episode.index, cameras, moments)
        labels, drawn = list(_labels(dataset, episode, names)), _actions(dataset, episode)
    except checks.LattokError as error:  # others can be looked at
        task = escape(", ".join(episode.tasks))
        return f'<div class="episode" data-task="{task}"><p>Episode {episode.index}: {escape(str(error))}</p></div>'
    return episode_panel(EpisodeView.of(dataset, episode, moments, drawn, codes=labels), films)


def _actions(dataset: RobotDataset, episode: Episode) -> list[Curve]:
    """Read the actions of an episode; none of video alone."""
    if ACTION not in own_vectors(dataset):
        return []
    feature = dataset.features[ACTION]
    names = [f"{ACTION} {name}" for name in dimension_names(feature)]
    found = dataset.columns(episode.index, [ACTION, *_inferred(dataset)[:1]])
    lines = zip(("truth", "model"), found.values(), strict=False)
    return curves(names, {source: rows.astype(float) for source, rows in lines})


def _inferred(dataset: RobotDataset) -> list[str]:
    """Return the label columns that say what the actions say."""
    found = [f"{name}.{ACTION}" for name in prefixes(dataset, ACTION)]
    return [name for name in found if dataset.features[name].shape == dataset.features[ACTION].shape]


def _labels(dataset: RobotDataset, episode: Episode, names: Sequence[str]) -> Iterator[EpisodeCodes]:
    for name in names:
        keys = [f"{name}.codes", f"{name}.valid"]
        found = dataset.columns(episode.index, keys)
        codes = found[keys[0]].reshape(episode.length, -1)
        if not np.issubdtype(codes.dtype, np.integer):
            checks.fail(keys[0], "whole numbers", codes.dtype)
        valid = found[keys[1]].reshape(-1).astype(bool)
        checks.size(keys[1], "values, one for each frame", len(valid), episode.length)
        yield EpisodeCodes(name, codes, valid)


def to_rerun(
    dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str], path: Path | None, note: Progress
) -> None:
    """Log episodes to rerun: images, and a curve for each code; into the recording `path`, or its own viewer."""
    if find_spec("rerun") is None:
        raise checks.LattokError(f"recordings for rerun need rerun-sdk. Install it: {install_extra('rerun')}")
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
            blocks = dataset.blocks(episode.index, camera, np.arange(episode.length))
            for t, image in enumerate(chain.from_iterable(blocks)):
                recording.set_time("frame", sequence=t)
                recording.log([*place, short_name(camera)], rerun.Image(image).compress(jpeg_quality=80))
        for each in labels:
            for t in np.flatnonzero(each.valid).tolist():
                recording.set_time("frame", sequence=t)
                for position, code in enumerate(each.codes[t].tolist()):
                    recording.log([*place, each.name, f"code {position + 1}"], rerun.Scalars(code))
        recording.reset_time()
    recording.flush()
    note("episodes", len(episodes), len(episodes))
