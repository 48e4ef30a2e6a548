"""Single videos: which of their frames are shown when rows at a rate are."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattok.data.formats.video_times import VideoTimes, keeps_to, read_times
from lattok.data.video import EXACT_FPS, decode_at
from lattok.utils import checks

MIN_RESAMPLED, MAX_REPEATS = 2**17, 1000  # of an episode that is resampled: more, only if few of them repeat each frame


class Schedule(NamedTuple):  # which frames of a file are the frames of an episode
    length: int
    start: float  # seconds
    times: np.ndarray | None  # [length] when the frames are shown; None: at start + i / fps, to within IRREGULAR


def schedule(video: VideoTimes, fps: float) -> Schedule:
    """Frame by frame where the video keeps to `fps`; otherwise resampled in time. Resampled, there are floor(duration *
    fps) frames (at least one), duration being from the first frame's start to the last one's end, to within a tick of
    the file's clock and half a frame. Frame i is the one nearest to start + i / fps, the earlier of two that are
    equally near. Far more of them than the file has are a `LattokError`."""
    times = video.times
    start = float(times[0])
    if keeps_to(times, fps):
        return Schedule(len(times), start, None)
    span = (video.end - start + min(video.tick, 0.5 / fps)) * fps
    if span > max(MIN_RESAMPLED, MAX_REPEATS * len(times)):
        hint = "Give the rate of the videos."
        checks.fail("fps", f"a rate at which {len(times):,} frames are not {span:.3g}", f"{fps:g}", hint)
    length = max(1, int(span))
    targets = start + np.arange(length) / fps
    after = np.searchsorted(times, targets).clip(1, len(times) - 1)
    nearest = np.where(targets - times[after - 1] <= times[after] - targets, after - 1, after)
    return Schedule(length, start, times[nearest])


class VideoFile(NamedTuple):
    """One video file, read as an episode of a `VideoFolder` is."""

    path: Path
    fps: float
    plan: Schedule

    @property
    def length(self) -> int:
        """Count the frames T."""
        return self.plan.length

    def blocks(self, indices: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield these frames, or all, in blocks uint8 [n, H, W, 3]: each is a view that the next one overwrites."""
        wanted, times = np.arange(self.length) if indices is None else indices, self.plan.times
        at, fps = (self.plan.start + wanted / self.fps, self.fps) if times is None else (times[wanted], EXACT_FPS)
        yield from decode_at(self.path, at, fps)


def read_video(path: str | os.PathLike[str], fps: float | None = None) -> VideoFile:
    """Open one video file at `fps`, else at its own rate. Raises `LattokError` where there is none that can be read."""
    place = Path(path).expanduser()
    if not place.is_file():
        near = [*Path().glob(f"*/{glob.escape(place.name)}")] if place.name else []
        hint = f"Did you mean {near[0]}?" if near else ""
        hint = "Videos in a folder are a dataset: lattok.annotate(FOLDER, MODEL, OUT)." if place.is_dir() else hint
        checks.fail("frames", "a video file", f"{place}, {'a folder' if place.is_dir() else 'which is none'}", hint)
    video = read_times(place)
    if fps is None and not checks.is_frame_rate(video.rate):
        checks.fail("fps", f"the frame rate, which {place} does not tell", "none", "Such as fps=30.")
    rate = video.rate if fps is None else fps
    checks.frame_rate(fps=rate)
    return VideoFile(place, float(rate), schedule(video, rate))
