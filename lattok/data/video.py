"""Frames from and to video files (PyAV): decoding by timestamp, encoding with short groups of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lattok import checks
from lattok.checks import LattokError

BLOCK = 64  # frames per decoded block: 64 x 480 x 640 x 3 bytes = 59 MB
SEEK_GAP_S = 1.0  # a longer hole between wanted frames is skipped by seeking
# from 17 on PyAV converts colours with as many threads as there are cores: for one frame the hand-over costs more
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

# GOP of 2 as LeRobot writes: any frame costs at most two decodes
CODECS = {
    "libsvtav1": {"g": "2", "crf": "30", "preset": "10"},
    "h264": {"g": "2", "crf": "23", "preset": "veryfast", "tune": "zerolatency"},
}


class VideoFacts(NamedTuple):
    """Header of a video file."""

    frames: int  # 0 where the container does not say
    fps: float
    width: int
    height: int
    codec: str


def probe(path: Path) -> VideoFacts:
    """Facts from the header of a video, without decoding it."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.base_rate or 0
        return VideoFacts(stream.frames, float(rate), stream.width, stream.height, stream.codec.canonical_name)


def decode_at(path: Path, timestamps: np.ndarray, fps: float) -> Iterator[np.ndarray]:
    """Frames nearest to ascending `timestamps` (seconds), in blocks uint8 [n, H, W, 3] with n <= 64.

    Whatever the video holds (grey, with transparency) comes as RGB. A block is a view of one buffer: use or copy it
    before asking for the next. A time without a frame within half a frame interval is an error with file and time.
    """
    breaks = np.flatnonzero(np.diff(timestamps) > SEEK_GAP_S) + 1
    to_rgb = VideoReformatter()  # kept: setting one up for every frame costs more than decoding
    buffer, filled = np.empty((0, 0, 0, 3), dtype=np.uint8), 0
    with _opened(path) as container:
        for run in np.split(timestamps, breaks):
            for frame in _nearest(path, container, run, 0.5 / fps):
                image = to_rgb.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray()
                if filled == BLOCK or (filled and image.shape != buffer.shape[1:]):
                    yield buffer[:filled]
                    filled = 0
                if image.shape != buffer.shape[1:]:
                    buffer = np.empty((min(BLOCK, len(timestamps)), *image.shape), dtype=np.uint8)
                buffer[filled] = image
                filled += 1
        if filled:
            yield buffer[:filled]


def _nearest(path: Path, container: InputContainer, wanted: np.ndarray, tolerance: float):
    """One decoded frame for each of the ascending times `wanted`."""
    before: av.VideoFrame | None = None
    i = 0
    for frame in _decoded(path, container, float(wanted[0])):
        while i < len(wanted) and wanted[i] <= frame.time:
            closer_before = before is not None and wanted[i] - before.time < frame.time - wanted[i]
            yield _checked(path, before if closer_before else frame, wanted[i], tolerance)
            i += 1
        if i == len(wanted):
            return
        before = frame
    for time in wanted[i:]:
        yield _checked(path, before, time, tolerance)


def _checked(path: Path, frame: av.VideoFrame | None, wanted: float, tolerance: float) -> av.VideoFrame:
    if frame is None or abs(frame.time - wanted) > tolerance:
        nearest = "none" if frame is None else f"the nearest at {frame.time:.3f} s"
        raise LattokError(
            f"{path}: expected a frame at {wanted:.3f} s, got {nearest}. "
            "The video is truncated or does not belong to this dataset: copy it again, "
            "or leave its episodes out with `episodes`."
        )
    return frame


def _decoded(path: Path, container: InputContainer, start: float) -> Iterator[av.VideoFrame]:
    """Frames in order of time, from the key frame at or before `start` seconds."""
    stream = container.streams.video[0]
    try:
        container.seek(max(0, int(start / (stream.time_base or 1))), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.time is not None:
                yield frame
    except av.error.FFmpegError as error:
        raise _damaged(path, error) from None


def _opened(path: Path) -> InputContainer:
    if not path.is_file():
        raise LattokError(
            f"missing video file {path}. Download or copy it again, or choose other cameras with `cameras`."
        )
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise _damaged(path, error) from None
    if not container.streams.video:
        container.close()
        raise LattokError(f"{path} holds no video stream. Copy the file again.")
    # one thread: a decoder's own threads log through Python and wait for each other for ever when the file is closed;
    # whoever has cores to spare decodes several episodes at once
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _damaged(path: Path, error: Exception) -> LattokError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return LattokError(f"cannot decode video {path} ({reason}). It is truncated or damaged: copy it again.")


class VideoEncoder:
    """Writes one video file of a constant frame rate, episode after episode."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: str, threads: int | None = None):
        """Opens `path` for frames of `size` = (height, width), both even."""
        checks.one_of("video_codec", codec, CODECS)
        if size[0] % 2 or size[1] % 2:
            checks.fail("frames", "an even height and width (yuv420p)", f"{size[0]} x {size[1]}", "Crop one row.")
        os.environ.setdefault("SVT_LOG", "1")  # errors only: the AV1 encoder prints its settings for every file
        options = dict(CODECS[codec])
        if threads is not None:
            options |= {"svtav1-params": f"lp={threads}"} if codec == "libsvtav1" else {"threads": str(threads)}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = cast(VideoStream, self._container.add_stream(codec, rate, options=options))
        self._stream.pix_fmt, self._stream.height, self._stream.width = "yuv420p", *size
        self._size = size
        self.frames = 0  # frames written
        self.bytes = 0  # bytes that left the encoder so far

    def add(self, frames: np.ndarray) -> None:
        """Append frames uint8 [T, H, W, 3]."""
        if frames.shape[1:3] != self._size:
            checks.fail("frames", f"size {self._size} as before", f"{frames.shape[1:3]}")
        for image in frames:
            self._mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            self.frames += 1

    def close(self) -> None:
        """Flush the encoder and finish the file."""
        self._mux(self._stream.encode())
        self._container.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)
