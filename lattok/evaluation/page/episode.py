"""An episode on a page, all on one axis of seconds: films or a strip of frames, numbers as curves, and codes.

It is readable without JavaScript: films have the browser's own controls, curves their range, codes a text. The script
of the page adds one playhead for all of it, and reads the values there from what is drawn.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from html import escape
from io import BytesIO
from itertools import pairwise
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from lattok.data import RobotDataset
from lattok.data.instructions import task_group
from lattok.data.schema import short_name
from lattok.data.video import ONE_THREAD
from lattok.evaluation.episode_errors import error_tables
from lattok.evaluation.page.svg import ticks
from lattok.evaluation.report import Pictures, Section
from lattok.evaluation.wording import printed
from lattok.types import Episode
from lattok.utils import checks

MAX_PAGE_BYTES = 7_500_000  # of films, beside which there is the rest of a page
FILM_HEIGHT, MAX_FILM_WIDTH, MAX_FILM_FRAMES = 256, 1920, 120  # encoders end at some width
CRF = "30"  # quality of a film
STRIP, STRIP_HEIGHT, QUALITY = 8, 128, 75  # frames of a strip, their pixels, and quality as JPEG
EPISODES, CAMERAS = 6, 2  # that a report shows
CURVES, MAX_POINTS = 6, 600  # curves that are not folded, and points of each
MAX_ROWS, MAX_RUNS = 16, 60  # curves and positions of codes that are drawn, and runs of equal codes that are listed
HEIGHT = 100  # of a curve, in its own units
HUE = 137.5  # degrees between the colours of a code and of the next one: neighbours differ most (golden angle)
Films = Mapping[str, np.ndarray]  # by camera: uint8 [S, H, W, 3]


class EpisodeCodes(NamedTuple):
    """What one model said of the frames of an episode."""

    name: str
    codes: np.ndarray  # [T, P] whole numbers
    valid: np.ndarray  # [T] bool: which rows are labels


class Curve(NamedTuple):
    """A number over time, of one or more sources."""

    name: str
    lines: Mapping[str, np.ndarray]  # [T] by "truth", "model" or "rival"; NaN: not known


class EpisodeView(NamedTuple):
    """An episode and what is said of its frames `moments` [T]."""

    title: str
    task: str
    fps: float  # of the dataset
    moments: np.ndarray
    curves: Sequence[Curve] = ()
    legend: Mapping[str, str] = {}  # what the lines of curves are, by source
    codes: Sequence[EpisodeCodes] = ()

    @classmethod
    def of(
        cls, dataset: RobotDataset, episode: Episode, moments: np.ndarray, curves: Sequence[Curve], **more: Any
    ) -> "EpisodeView":
        """Return a clip of an episode of a dataset; all texts may come from strangers."""
        return cls(f"Episode {episode.index}", ", ".join(episode.tasks), dataset.fps, moments, curves, **more)


def curves(names: Sequence[str], lines: Mapping[str, np.ndarray]) -> list[Curve]:
    """Turn what several sources say, [T, m] each, into curves of the dimensions `names` that the first source moves."""
    first = next(iter(lines.values()))
    known = [column[np.isfinite(column)] for column in first.T]
    moving = [i for i, column in enumerate(known) if len(column) and column.min() < column.max()]
    return [Curve(names[i], {key: rows[:, i] for key, rows in lines.items()}) for i in moving or range(len(names))]


def film_frames(length: int) -> np.ndarray:
    """Choose the frames that a film shows, evenly spaced."""
    return np.arange(0, length, -(-length // MAX_FILM_FRAMES))


def _size(frames: np.ndarray, height: int) -> tuple[int, int]:
    """Return width and height of small versions of images [..., H, W, 3], both even."""
    height = max(2, min(height, frames.shape[-3]) // 2 * 2)
    return max(2, min(MAX_FILM_WIDTH, round(frames.shape[-2] * height / frames.shape[-3])) // 2 * 2), height


def film(frames: np.ndarray, fps: float) -> bytes:
    """Encode frames uint8 [T, H, W, 3], at most `FILM_HEIGHT` pixels high, as a small MP4 that browsers play."""
    width, height = _size(frames, FILM_HEIGHT)
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


def shrink(frames: np.ndarray) -> np.ndarray:
    """Resize frames uint8 [n, H, W, 3] to the height of a film, where they are higher: many of them fit in memory."""
    if frames.shape[1] <= FILM_HEIGHT:
        return frames
    return np.stack([np.asarray(Image.fromarray(image).resize(_size(frames, FILM_HEIGHT))) for image in frames])


def films_of(dataset: RobotDataset, episode: int, cameras: Sequence[str], moments: np.ndarray) -> dict[str, np.ndarray]:
    """Read the films of an episode, by camera."""
    rows = moments[film_frames(len(moments))]
    return {short_name(key): dataset.frames(episode, [key], rows, shrink)[:, 0] for key in cameras}


def episode_panel(clip: EpisodeView, films: Films) -> str:
    """Show an episode: films of the frames `moments[film_frames(T)]`, and under them all else on one axis."""
    moments, shown = clip.moments, ""
    step = -(-len(moments) // MAX_FILM_FRAMES) * (int(moments[1] - moments[0]) if len(moments) > 1 else 1)
    for camera, frames in films.items():
        source = base64.b64encode(film(frames, max(clip.fps / step, 0.1))).decode()
        shown += f'<video controls muted playsinline preload="metadata" aria-label="{escape(camera)}" '
        shown += f'src="data:video/mp4;base64,{source}"></video>'
    return _episode(clip, f'<div class="films">{shown}</div>' if shown else "", _tracks(clip))


def episode_strip(clip: EpisodeView, frames: np.ndarray | None = None) -> str:
    """Show an episode in little room: a few of its frames uint8 [S, H, W, 3], evenly spaced, above all else."""
    stills = ""
    if frames is not None and len(frames):
        places = np.linspace(0, len(frames) - 1, 2 * min(STRIP, len(frames)) + 1).round().astype(int)[1::2]
        images = "".join(image_tag("frame", frames[place], STRIP_HEIGHT, QUALITY) for place in places)
        stills = _track("stills", "", images)
    return _episode(clip, "", stills + _tracks(clip))


def image_tag(text: str, image: np.ndarray, height: int, quality: int) -> str:
    """Put an image uint8 [h, w, 3] into the page, at most `height` pixels high; `text` is said of it."""
    picture, data = Image.fromarray(image), BytesIO()
    if picture.height > height:
        picture = picture.resize((max(1, round(height * picture.width / picture.height)), height))
    picture.save(data, "JPEG", quality=quality)
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'


def over_time(
    dataset: RobotDataset,
    cameras: Sequence[str],
    rows: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    lines: Mapping[str, tuple[str, Tensor]],
    caption: str,
    codes: Tensor | None = None,
) -> Section:
    """Show an episode of each task: the first on the first screen, as a strip, and folded the films of all; and which
    episodes are worst.

    `rows`: episode and frame of each row, [N] both. `lines`: what each source is called and says of all rows, [N, m],
    with `names` of the dimensions. `codes` [N, P].
    """
    episode_of, frame_of = rows
    episodes = {each.index: each for each in dataset.episodes}
    chosen = {task_group(episodes[index]): episodes[index] for index in np.unique(episode_of)[::-1].tolist()}
    strip, panels = "", list[str]()
    for episode in sorted(chosen.values(), key=lambda each: each.index)[:EPISODES]:
        here = np.flatnonzero(episode_of == episode.index)
        drawn = curves(names, {key: values[here].numpy() for key, (_, values) in lines.items()}) if lines else []
        marked = [] if codes is None else [EpisodeCodes("code", codes[here].numpy(), np.ones(len(here), dtype=bool))]
        legend = {key: said for key, (said, _) in lines.items()}
        clip = EpisodeView.of(dataset, episode, frame_of[here], drawn, legend=legend, codes=marked)
        try:
            films = films_of(dataset, episode.index, cameras[:CAMERAS], clip.moments)
        except checks.LattokError as error:  # what needs no pictures is judged without them
            checks.note(f"{clip.title}: no film. {checks.first_line(error)}")
            films = {}
        strip = strip or episode_strip(clip, next(iter(films.values()), None))
        panels.append(episode_panel(clip, films))
    hint = "Drag over the curves, or use the arrow keys there, to see values and frames of a moment. Space plays."
    title = f"Films of {checks.counted(len(panels), 'episode')}"
    shown = Pictures(caption, (strip,), top=True), Pictures(hint, tuple(panels), title=title, folded=True)
    tables = tuple(error_tables(dataset, episode_of, lines)) if lines else ()
    text = "Films and curves are of the first held-out episode of each task."
    if not tables:  # nothing says what is right
        return Section("Over time", text, (), shown)
    worst, table = tables[0].rows[0], tables[0]
    said = ", ".join(f"{table.shown(value, i)} by {table.columns[i]}" for i, value in enumerate(worst.values))
    reading = f"Worst in {worst.name}: error {said}, in units of the variance of actions."
    return Section("Where is it right, and where wrong?", text, tables, shown, reading, lead=True)


def _episode(clip: EpisodeView, films: str, tracks: str) -> str:
    last = printed(float(clip.moments[-1]) / clip.fps, ".3g") if len(clip.moments) else "0"
    keys = "".join(
        f'<span data-line="{key}"><i class="key {key}"></i>{escape(said)}</span>' for key, said in clip.legend.items()
    )
    moments = ",".join(map(str, clip.moments.tolist()))
    texts = "".join(
        f"<details><summary>{escape(each.name)} as text</summary><p>{'; '.join(_listed_runs(each, clip.moments))}</p>"
        "</details>"
        for each in clip.codes
        if each.codes.shape[1]
    )
    return (
        f'<div class="episode" data-task="{escape(clip.task)}"><p class="what">{escape(clip.title)} · '
        f"<b>{escape(clip.task) or 'no task'}</b></p>{films}"
        f'<p class="legend"><span class="now">{checks.counted(len(clip.moments), "frame")}, {last} s</span>{keys}</p>'
        f'<div class="tracks" data-moments="{moments}" data-fps="{clip.fps:g}">{tracks}</div>{texts}</div>'
    )


def _tracks(clip: EpisodeView) -> str:
    """Draw curves, the axis and codes; curves beyond the first ones are folded."""
    shown = [_curve(each) for each in clip.curves[:MAX_ROWS]]
    body = "".join(shown[:CURVES])
    for each in clip.codes:
        body += "".join(_codes(each, position) for position in range(min(each.codes.shape[1], MAX_ROWS)))
        if each.codes.shape[1] > MAX_ROWS:
            body += f'<p class="more">{escape(each.name)}: the first {MAX_ROWS} of {each.codes.shape[1]} codes</p>'
    body += _axis(clip)
    if more := shown[CURVES:]:
        left_out = len(clip.curves) - len(shown)
        said = f"{checks.counted(len(more), 'more curve')}{f' of {left_out + len(more)}' * bool(left_out)}"
        body += f"<details><summary>{said}</summary>{''.join(more)}</details>"
    return body


def _track(kind: str, name: str, plot: str, value: str = "") -> str:
    title = escape(name)
    return (
        f'<div class="track {kind}"><span class="name" title="{title}">{title}</span><div class="plot">{plot}</div>'
        f'<span class="value">{value}</span></div>'
    )


def _curve(curve: Curve) -> str:
    values = np.concatenate([*curve.lines.values()])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    count, lines = len(next(iter(curve.lines.values()))), ""
    unit = (high / HEIGHT - low / HEIGHT) or 1.0
    for key, line in [*curve.lines.items()][::-1]:  # the first one lies on top
        places = np.arange(0, count, -(-count // MAX_POINTS)) if count else np.arange(0)
        for start, end in equal_runs(np.zeros((len(places), 1)), np.isfinite(line[places])):
            points = zip(places[start:end] + 0.5, high / unit - line[places[start:end]] / unit, strict=True)
            lines += f'<polyline class="{key} line" points="{" ".join(f"{x:g},{y:.1f}" for x, y in points)}"/>'
    opening = f'<svg viewBox="0 0 {max(count, 1)} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true" '
    ends = f"{printed(low, '.3g')} … {printed(high, '.3g')}"
    return _track("curve", curve.name, f'{opening}data-ends="{low:.6g} {high:.6g}">{lines}</svg>', ends)


def _codes(labels: EpisodeCodes, position: int) -> str:
    """Draw one position of codes as coloured cells, a colour for each code; frames without a label stay empty."""
    column, cells = labels.codes[:, position], ""
    for start, end in equal_runs(column[:, None], labels.valid):
        code = int(column[start])
        place = f'x="{start}" width="{end - start}" height="1"'
        cells += f'<rect {place} fill="hsl({code * HUE % 360:.0f} 55% 55%)" data-code="{code}"/>'
    opening = f'<svg viewBox="0 0 {max(len(column), 1)} 1" preserveAspectRatio="none" aria-hidden="true">'
    return _track("codes", f"{labels.name} {position + 1}", f"{opening}{cells}</svg>")


def _axis(clip: EpisodeView) -> str:
    """Write seconds where they are: rows need not be evenly spaced in time."""
    count = len(clip.moments)
    if not count:
        return ""
    marks, places = "", np.arange(count) + 0.5
    first, last = float(clip.moments[0]) / clip.fps, float(clip.moments[-1]) / clip.fps
    for second in ticks(first, last):
        if first <= second <= last:
            at = float(np.interp(second * clip.fps, clip.moments, places)) / count
            marks += f'<span style="left:{100 * at:.2f}%">{second:.3g}</span>'
    return _track("axis", "seconds", marks)


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
