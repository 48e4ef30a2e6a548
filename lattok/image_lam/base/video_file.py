"""Labels of video files: what `model.label_video("clip.mp4")` does, of several cameras with a file each."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from typing_extensions import TypeIs

from lattok.data.alike import GAPS_DIFFER, called, trained_rates
from lattok.data.formats.frame_plan import VideoFile, read_video
from lattok.latent_actions import LatentActions
from lattok.types import Gap, VideoLabeller
from lattok.utils import checks
from lattok.utils.arrays import like

PIECE = 32  # frames at a time

Path = str | os.PathLike[str]
Files = Path | Sequence[Path]


def are_files(frames: object) -> TypeIs[Files]:
    """Return whether what is to be labelled are video files, by their names."""
    several = frames if isinstance(frames, list | tuple) else [frames]
    return bool(several) and all(isinstance(each, str | os.PathLike) for each in several)


def open_videos(cameras: Sequence[str], files: Files, fps: float | None = None) -> list[VideoFile]:
    """Open the files of cameras, in their order, at `fps`, else at the files' own rate. They must be of one rate and
    length."""
    paths = [files] if isinstance(files, str | os.PathLike) else [*files]
    names = "" if len(cameras) == 1 else f", one for each camera: {', '.join(cameras)}"
    checks.size("frames", f"video files{names}", len(paths), len(cameras))
    videos = [read_video(path, fps) for path in paths]
    facts = [f"{checks.counted(each.length, 'frame')} at {each.fps:g} fps in {each.path}" for each in videos]
    if len({(each.fps, each.length) for each in videos}) > 1:
        checks.fail("frames", "files of one rate and length", "; ".join(facts))
    return videos


def label_files(
    model: VideoLabeller, files: Files, stride: Gap = None, fps: float | None = None, **more: Any
) -> LatentActions:
    """Label video files, one for each of the model's cameras; returns arrays, with `valid` and `times`.

    `stride` and `fps` are those of `label_video`. Without a stride, rates are refused at which the model's own gap
    lasts another time than it learned.
    """
    videos = open_videos(model.cameras, files, fps)
    rate = videos[0].fps
    gap = _own_gap(model, rate) if stride is None else checks.gap(stride, rate, "1")
    found = model.label_video(_pieces(model, videos), gap, fps=rate, **more)
    if found.valid is None:  # of a family that does not say
        found = found.of_video(gap if stride is not None else model.later_frames(rate), rate)
    return like(np.empty(0), found)


def _own_gap(model: VideoLabeller, rate: float) -> int:
    gap = model.stride_frames(rate)
    learned = [model.stride_frames(each) / each for each in trained_rates(model)]
    if learned and all(abs(gap / rate - seconds) > GAPS_DIFFER * seconds for seconds in learned):
        expected = f"seconds, since {called(model)} learned from frames {learned[0]:.3g} s apart"
        got = f"its own {checks.counted(gap, 'frame')}, {gap / rate:.3g} s at {rate:g} fps"
        checks.fail("stride", expected, got, f'Give stride="{learned[0]:.3g}s".')
    return gap


def _pieces(model: VideoLabeller, videos: Sequence[VideoFile]) -> Iterator[np.ndarray]:
    """Yield frames uint8 [n, V, h, w, 3] of the model's size."""
    views = [_resized(model, video) for video in videos]
    for frames in zip(*views, strict=True):
        if len({frame.shape for frame in frames}) > 1:
            checks.fail("frames", "files of one size", ", ".join(str(list(frame.shape[1:3])) for frame in frames))
        yield np.stack(frames, 1)


def _resized(model: VideoLabeller, video: VideoFile) -> Iterator[np.ndarray]:
    images = (image.copy() for image in chain.from_iterable(video.blocks()))  # a block is gone when the next one comes
    while piece := list(islice(images, PIECE)):
        yield model.resize(np.stack(piece))
