"""Episodes to look at: films with their codes over time, in reports and for a whole dataset, on one page or in rerun.

The page of a dataset is one file that asks for nothing, below 3 MB: episodes of different tasks first, as many as there
is room for. It is readable without JavaScript: a film has the browser's own controls, codes are a picture and, folded,
text. The script of the page ties them together by the numbers in `data-` attributes.
"""

import base64
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from html import escape
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lattok.data import RobotDataset, select_episodes
from lattok.data.instructions import task_group
from lattok.data.schema import camera_keys, short_name
from lattok.data.video import ONE_THREAD
from lattok.evaluation.page import document, head_of
from lattok.evaluation.report import Progress
from lattok.types import Episode
from lattok.utils import checks, files
from lattok.utils.output import Output
from lattok.version import install_extra

MARK = '<meta name="generator" content="lattok view">'
MAX_PAGE_BYTES, MAX_EPISODES = 2_800_000, 60
CAMERAS = 2  # unless others are asked for
FILM_HEIGHT, MAX_FILM_WIDTH, MAX_FILM_FRAMES = 96, 1920, 120  # encoders end at some width
CRF = "30"  # quality of a film
MAX_ROWS, MAX_RUNS = 16, 60  # positions that are drawn, and runs of equal codes that are listed
WIDTH, LINE, LEFT = 300, 14, 44  # of the picture, in its own units
Films = Mapping[str, np.ndarray]  # by camera: some frames uint8 [S, H, W, 3]
HUE = 137.5  # degrees between the colours of a code and of the next one: neighbours differ most (golden angle)


class EpisodeCodes(NamedTuple):
    """What one model said of the frames of an episode."""

    name: str
    codes: np.ndarray  # [T, P] whole numbers
    valid: np.ndarray  # [T] bool: which rows are labels


def film_frames(length: int) -> np.ndarray:
    """Choose the frames that a film shows, evenly spaced."""
    return np.arange(0, length, -(-length // MAX_FILM_FRAMES))


def film(frames: np.ndarray, fps: float) -> bytes:
    """Encode frames uint8 [T, H, W, 3], at most `FILM_HEIGHT` pixels high, as a small MP4 that browsers play."""
    height = max(2, min(FILM_HEIGHT, frames.shape[1]) // 2 * 2)
    width = max(2, min(MAX_FILM_WIDTH, round(frames.shape[2] * height / frames.shape[1])) // 2 * 2)
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(VideoStream, container.add_stream("h264", rate, options={"crf": CRF, "preset": "veryfast"}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        to_yuv = VideoReformatter()  # of one thread: the converter that PyAV 19 shares has several, which forks lack
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(to_yuv.reformat(frame, width, height, "yuv420p", **ONE_THREAD)))
        container.mux(stream.encode())
    return data.getvalue()


def episode_panel(
    title: str, task: str, films: Films, labels: Sequence[EpisodeCodes], moments: np.ndarray, fps: float
) -> str:
    """Show an episode: films, and codes at frames `moments` [T] under them. `fps` is that of the dataset; films show
    the frames `moments[film_frames(T)]`. All texts may come from strangers."""
    step = -(-len(moments) // MAX_FILM_FRAMES) * (int(moments[1] - moments[0]) if len(moments) > 1 else 1)
    shown = ""
    for camera, frames in films.items():
        source = base64.b64encode(film(frames, max(fps / step, 0.1))).decode()
        shown += f'<video controls muted playsinline preload="metadata" aria-label="{escape(camera)}" '
        shown += f'src="data:video/mp4;base64,{source}"></video>'
    head = f"<p>{escape(title)} · <b>{escape(task) or 'no task'}</b></p>"
    timelines = "".join(_timeline(each, moments, fps) for each in labels if each.codes.shape[1])
    return f'<div class="episode" data-task="{escape(task)}">{head}<div class="films">{shown}</div>{timelines}</div>'


def _timeline(labels: EpisodeCodes, moments: np.ndarray, fps: float) -> str:
    codes, drawn = labels.codes, labels.codes[:, :MAX_ROWS]
    rows = zip(drawn.tolist(), labels.valid, strict=True)
    codes_text = ";".join(",".join(map(str, row)) if valid else "" for row, valid in rows)
    more = f", the first {MAX_ROWS} of {codes.shape[1]}" if codes.shape[1] > MAX_ROWS else ""
    return (
        f'<div class="timeline" data-codes="{codes_text}" data-moments="{",".join(map(str, moments.tolist()))}" '
        f'data-fps="{fps:g}" data-left="{LEFT}">{codes_picture(labels._replace(codes=drawn))}'
        f'<p class="now">{escape(labels.name)}: {checks.counted(codes.shape[1], "code")}{more}, '
        f"{checks.counted(len(moments), 'frame')}</p>"
        f"<details><summary>Codes as text</summary><p>{'; '.join(_listed_runs(labels, moments))}</p></details></div>"
    )


def codes_picture(labels: EpisodeCodes) -> str:
    """Draw codes [T, P] as rows of coloured cells, one colour for each code; frames without a label stay empty."""
    codes, parts = labels.codes, []
    scale = (WIDTH - LEFT) / max(len(codes), 1)
    for position, column in enumerate(codes.T):
        y = position * LINE
        parts.append(f'<text class="m" x="0" y="{y + LINE - 4}">code {position + 1}</text>')
        for start, end in equal_runs(column[:, None], labels.valid):
            hue = int(column[start]) * HUE % 360
            x, width = LEFT + start * scale, (end - start) * scale
            place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LINE - 2}"'
            parts.append(f'<rect {place} fill="hsl({hue:.0f} 55% 55%)"/>')
    label = escape(
        f"{labels.name}: {checks.counted(codes.shape[1], 'code')} over {checks.counted(len(codes), 'frame')}"
    )
    opening = f'<svg viewBox="0 0 {WIDTH} {codes.shape[1] * LINE}" role="img" aria-label="{label}">'
    return f"{opening}{''.join(parts)}</svg>"


def equal_runs(codes: np.ndarray, valid: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of every run of equal valid rows of codes [T, P]."""
    if not len(codes):
        return
    change = (codes[1:] != codes[:-1]).any(1) | (valid[1:] != valid[:-1])
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(codes)]
    yield from ((start, end) for start, end in pairwise(edges) if valid[start])


def _listed_runs(labels: EpisodeCodes, moments: np.ndarray) -> Iterator[str]:
    found = list(equal_runs(labels.codes, labels.valid))
    for start, end in found[:MAX_RUNS]:
        last = f" to {moments[end - 1]}" if end - start > 1 else ""
        yield f"frame {moments[start]}{last}: {' '.join(map(str, labels.codes[start].tolist()[:MAX_ROWS]))}"
    if len(found) > MAX_RUNS:
        yield f"and {len(found) - MAX_RUNS} more changes"
    if not found:
        yield "no frame has a label"


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
    turns: defaultdict[tuple[str, ...], Iterator[int]] = defaultdict(count)
    return sorted(episodes, key=lambda episode: next(turns[task_group(episode)]))


def _episode(dataset: RobotDataset, episode: Episode, cameras: Sequence[str], names: Sequence[str]) -> str:
    title, task = f"Episode {episode.index}", ", ".join(episode.tasks)
    try:
        rows = film_frames(episode.length)
        films = {short_name(camera): dataset.frames(episode.index, [camera], rows)[:, 0] for camera in cameras}
        labels = list(_labels(dataset, episode, names))
    except checks.LattokError as error:  # others can be looked at
        return f'<div class="episode" data-task="{escape(task)}"><p>{title}: {escape(str(error))}</p></div>'
    return episode_panel(title, task, films, labels, np.arange(episode.length), dataset.fps)


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
