"""Codes over time under the film of an episode, as dataset pages and reports show them.

Readable without JavaScript: a film has the browser's own controls, codes are a picture and, folded, text. The script of
the page ties them together by the numbers in `data-` attributes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from html import escape
from io import BytesIO
from itertools import pairwise
from typing import NamedTuple, cast

import av
import numpy as np
from av.video.stream import VideoStream

SIDE, CRF, SHOTS = 96, "30", 120  # pixels of a film's height, its quality, and frames at most
WIDEST = 1920  # pixels: encoders end at some width
ROWS, RUNS = 16, 60  # positions that are drawn, and runs of equal codes that are told
WIDTH, LINE, LEFT = 300, 14, 44  # of the picture, in its own units
HUE = 137.5  # degrees between the colours of a code and of the next one: neighbours differ most (golden angle)


class Codes(NamedTuple):
    """What one model said of the frames of an episode."""

    name: str
    codes: np.ndarray  # [T, P] whole numbers
    valid: np.ndarray  # [T] bool: which rows are labels


def shots(length: int) -> np.ndarray:
    """Choose the frames that a film shows, evenly spaced."""
    return np.arange(0, length, -(-length // SHOTS))


def film(frames: np.ndarray, fps: float) -> bytes:
    """Encode frames uint8 [T, H, W, 3], at most `SIDE` pixels high, as a small MP4 that browsers play."""
    height = max(2, min(SIDE, frames.shape[1]) // 2 * 2)
    width = max(2, min(WIDEST, round(frames.shape[2] * height / frames.shape[1])) // 2 * 2)
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(VideoStream, container.add_stream("h264", rate, options={"crf": CRF, "preset": "veryfast"}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        container.mux(stream.encode())
    return data.getvalue()


def panel(
    title: str,
    task: str,
    films: Mapping[str, np.ndarray],
    labels: Sequence[Codes],
    moments: np.ndarray,
    fps: float,
) -> str:
    """Show an episode: films of some frames [S, H, W, 3] by camera, and codes at frames `moments` [T] under them.

    `fps` is that of the dataset; the films show the frames `moments[shots(T)]`. All texts may come from strangers.
    """
    step = -(-len(moments) // SHOTS) * (int(moments[1] - moments[0]) if len(moments) > 1 else 1)
    parts = [f"<p>{escape(title)} · <b>{escape(task) or 'no task'}</b></p>"]
    shown = []
    for camera, frames in films.items():
        source = base64.b64encode(film(frames, max(fps / step, 0.1))).decode()
        shown.append(
            f'<video controls muted playsinline preload="metadata" aria-label="{escape(camera, quote=True)}" '
            f'src="data:video/mp4;base64,{source}"></video>'
        )
    parts.append(f'<div class="films">{"".join(shown)}</div>')
    parts += [_timeline(each, moments, fps) for each in labels if each.codes.shape[1]]
    return f'<div class="episode" data-task="{escape(task, quote=True)}">{"".join(parts)}</div>'


def _timeline(labels: Codes, moments: np.ndarray, fps: float) -> str:
    codes, drawn = labels.codes, labels.codes[:, :ROWS]
    rows = zip(drawn.tolist(), labels.valid, strict=True)
    told_of = ";".join(",".join(map(str, row)) if valid else "" for row, valid in rows)
    more = f", the first {ROWS} of {codes.shape[1]}" if codes.shape[1] > ROWS else ""
    return (
        f'<div class="timeline" data-codes="{told_of}" data-moments="{",".join(map(str, moments.tolist()))}" '
        f'data-fps="{fps:g}" data-left="{LEFT}">{picture(labels._replace(codes=drawn))}'
        f'<p class="now">{escape(labels.name)}: {codes.shape[1]} codes{more}, {len(moments)} frames</p>'
        f"<details><summary>Codes as text</summary><p>{'; '.join(_told(labels, moments))}</p></details></div>"
    )


def picture(labels: Codes) -> str:
    """Draw codes [T, P] as rows of coloured cells, one colour for each code; frames without a label stay empty."""
    codes, count = labels.codes, max(len(labels.codes), 1)
    parts, scale = [], (WIDTH - LEFT) / count
    for position, column in enumerate(codes.T):
        y = position * LINE
        parts.append(f'<text class="m" x="0" y="{y + LINE - 4}">code {position + 1}</text>')
        for start, end in runs(column[:, None], labels.valid):
            hue = int(column[start]) * HUE % 360
            x, width = LEFT + start * scale, (end - start) * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LINE - 2}" fill="hsl({hue:.0f} 55% 55%)"/>'
            )
    label = escape(f"{labels.name}: {codes.shape[1]} codes over {len(codes)} frames", quote=True)
    opening = f'<svg viewBox="0 0 {WIDTH} {codes.shape[1] * LINE}" role="img" aria-label="{label}">'
    return f"{opening}{''.join(parts)}</svg>"


def runs(codes: np.ndarray, valid: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of every run of equal valid rows of codes [T, P]."""
    if not len(codes):
        return
    change = (codes[1:] != codes[:-1]).any(1) | (valid[1:] != valid[:-1])
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(codes)]
    yield from ((start, end) for start, end in pairwise(edges) if valid[start])


def _told(labels: Codes, moments: np.ndarray) -> Iterator[str]:
    """Say which codes were there when."""
    found = list(runs(labels.codes, labels.valid))
    for start, end in found[:RUNS]:
        last = f" to {moments[end - 1]}" if end - start > 1 else ""
        yield f"frame {moments[start]}{last}: {' '.join(map(str, labels.codes[start].tolist()[:ROWS]))}"
    if len(found) > RUNS:
        yield f"and {len(found) - RUNS} more changes"
    if not found:
        yield "no frame has a label"
