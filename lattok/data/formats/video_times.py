"""When the frames of a video file are shown, told from its packets without decoding, and what a frame rate makes of it.

Headers cannot be trusted with this: Matroska and WebM have no frame count, recorders write no duration, and a variable
frame rate has no header at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lattok.checks import LattokError
from lattok.data.video import open_video

IRREGULAR = 0.25  # of a frame interval: a frame further from its place in the grid of a rate does not fit the rate
CUT_SHORT_S = 0.5  # a file whose packets end this much before the end that its header promises is truncated
LONGEST_S = 7 * 86400  # a week; a changed bit in a time can claim centuries
EXACT_FPS = 1e5  # for decode_at: wanted times are those of existing frames to within 5 µs
VP8_SHOWN = 0x10  # bit of a frame's first byte; frames without it only serve others


class VideoTimes(NamedTuple):
    """What the packets of a video file say."""

    times: np.ndarray  # [n] float64: when each frame is shown, in seconds, ascending
    end: float  # when the last frame stops being shown
    tick: float  # resolution of the file's clock, in seconds
    rate: float  # frames per second; of a variable rate the average, rounded; 0 where nothing tells
    size: tuple[int, int]  # height and width as coded


class Schedule(NamedTuple):
    """Which frames of a file are the frames of an episode."""

    length: int
    start: float  # seconds
    times: np.ndarray | None  # [length] when the frames are shown; None: at start + i / fps, to within IRREGULAR

    def wanted(self, indices: np.ndarray, fps: float) -> tuple[np.ndarray, float]:
        """Times of frames, and the fps that tells `decode_at` how precise they are."""
        if self.times is None:
            return self.start + indices / fps, fps
        return self.times[indices], EXACT_FPS


def read_times(path: Path) -> VideoTimes:
    """Read all packets of a video file. A file that is damaged or cut short is a `LattokError`."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            raise LattokError(f"{path}: AVI does not say when B frames are shown. Convert it to mp4.")
        tick = float(stream.time_base or 1)
        ticks, durations, end = _shown(path, container, stream)
        if not ticks:
            raise LattokError(f"{path} holds no frame that can be decoded. Copy it again or remove it.")
        order = np.argsort(ticks, kind="stable")
        times = np.array(ticks, dtype=np.float64)[order] * tick
        _check_span(path, container, stream, float(times[0]), end)
        last = durations[order[-1]] * tick or (float(np.median(np.diff(times))) if len(times) > 1 else 0.0)
        rates = [float(rate or 0) for rate in (stream.base_rate, stream.average_rate)]
        size = (stream.codec_context.height, stream.codec_context.width)
    return VideoTimes(times, float(times[-1]) + last, tick, _rate(times, rates), size)


def schedule(video: VideoTimes, fps: float) -> Schedule:
    """Frame by frame where the video keeps to `fps`; otherwise resampled in time.

    Resampled, there are floor(duration * fps) frames (at least one), duration being from the first frame's start to
    the last one's end, to within a tick of the file's clock and half a frame. Frame i is the one nearest to
    start + i / fps, the earlier of two that are equally near.
    """
    start = float(video.times[0])
    if _keeps_to(video.times, fps):
        return Schedule(len(video.times), start, None)
    length = max(1, int((video.end - start + min(video.tick, 0.5 / fps)) * fps))
    targets = start + np.arange(length) / fps
    after = np.searchsorted(video.times, targets).clip(1, len(video.times) - 1)
    nearest = np.where(targets - video.times[after - 1] <= video.times[after] - targets, after - 1, after)
    return Schedule(length, start, video.times[nearest])


def _shown(path: Path, container: InputContainer, stream: VideoStream) -> tuple[list[int], list[int], float]:
    """Presentation times and durations (ticks) of the frames that decoding gives; when the last stream ends (s)."""
    ticks: list[int] = []
    durations: list[int] = []
    end, first_key = 0.0, None
    for packet in _packets(path, container):
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None:
            raise LattokError(f"{path}: its frames have no presentation times. Convert it to mp4.")
        if first_key is None and packet.is_keyframe:
            first_key = packet.pts
        # before the first key frame there is nothing to decode from; edit lists discard frames
        if first_key is None or packet.pts < first_key or packet.is_discard:
            continue
        if stream.codec_context.name == "vp8" and not bytes(packet)[0] & VP8_SHOWN:
            continue
        ticks.append(packet.pts)
        durations.append(packet.duration or 0)
    return ticks, durations, end


def _packets(path: Path, container: InputContainer) -> Iterator[av.Packet]:
    """Packets of sound and pictures."""
    for packet in container.demux([*container.streams.video[:1], *container.streams.audio]):
        if packet.is_corrupt:
            raise LattokError(f"{path} is truncated: a packet is incomplete. Copy it again.")
        if packet.size:  # an empty one ends each stream
            yield packet


def _check_span(path: Path, container: InputContainer, stream: VideoStream, start: float, end: float) -> None:
    """Packets must reach the end that the header promises, where it does, and be of this world."""
    if end - start > LONGEST_S:
        raise LattokError(f"{path} is damaged: its frames lie {end - start:.0f} s apart. Copy it again.")
    if container.format.name.startswith("matroska"):  # counts from zero, for the longest stream
        promised = (container.duration or 0) / av.time_base
    else:
        promised = start + float((stream.duration or 0) * (stream.time_base or 0))
    if end < promised - CUT_SHORT_S:
        raise LattokError(f"{path} is truncated: {promised:.1f} s long, ends after {end:.1f} s. Copy it again.")


def _rate(times: np.ndarray, header: list[float]) -> float:
    """Return the first rate that the times keep to: the header's, a whole number, their average; otherwise rounded."""
    span = float(times[-1] - times[0])
    if span <= 0:
        return next((rate for rate in header if rate > 0), 0.0)
    average = (len(times) - 1) / span
    rounded = float(max(1, round(average)))
    return next((rate for rate in (*header, rounded, average) if _keeps_to(times, rate)), rounded)


def _keeps_to(times: np.ndarray, fps: float) -> bool:
    """Tell whether frame i is shown at start + i / fps, for all frames."""
    return fps > 0 and bool(np.all(np.abs((times - times[0]) * fps - np.arange(len(times))) <= IRREGULAR))
