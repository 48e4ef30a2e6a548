"""Folders of videos without actions: human video, one file per episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from lattok import checks
from lattok.checks import LattokError
from lattok.data.formats.captions import captions_of, find_captions
from lattok.data.formats.video_times import Schedule, VideoTimes, read_times, schedule
from lattok.data.schema import INDEX_FEATURES, Damage, Feature, RobotDataset, index_column, readable
from lattok.data.video import decode_at
from lattok.findings import Finding
from lattok.places import followed, walk
from lattok.types import Episode

CAMERA = "observation.images.video"
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_T = TypeVar("_T")
THREADS = 8  # that open files: on network drives the wait is longer than the work


class VideoFolder(RobotDataset):
    """Videos in a folder and the folders below it; see `lattok.data.RobotDataset` for what it offers.

    Every file is an episode, numbered in the order of relative paths; one that cannot be opened is in `damaged` and
    keeps its number. The instruction is the video's caption, else the name of the folder it is in (its class), else
    empty at the top. Captions come from `captions`, or from captions.jsonl, captions.json, captions.csv or captions.tsv
    in the folder. `findings` has what inspection should say.

    The frame rate is `fps`, else the most common one of the files. A video that keeps to it is read frame by frame. Any
    other, of another or of a variable rate, is resampled: frame i is the one shown nearest to i / fps after the first
    (see `video_times.schedule`). Frame counts come from the packets of the files, which are read once here, without
    decoding. Rotated videos come upright. Videos may differ in size: `frames` has the own one of each, `features` that
    of the first among the videos of the most common coded size.
    """

    kind = "video"
    text = "videos (.mp4, .webm, .mkv and others, flat or in one folder per class)"
    cameras = (CAMERA,)

    def __init__(
        self, path: str | Path, name: str | None = None, *, fps: float | None = None, captions: str | Path | None = None
    ):
        self.root = Path(path)
        self.name = name or self.root.resolve().name
        if fps is not None:
            checks.positive(fps=fps)
        self._files = _video_files(self.root)
        source = find_captions(self.root) if captions is None else Path(captions)
        if captions is None and source is not None:
            followed(self.root, source, str(source))
        written = {} if source is None else captions_of(self._files, source)
        instructions = [written.get(file, _class_of(file)) for file in self._files]
        self.tasks = tuple(dict.fromkeys(instructions))
        numbers = {task: number for number, task in enumerate(self.tasks)}
        self._task = [numbers[task] for task in instructions]

        read, reasons = _read_all(self.root, self._files)
        self.damaged = tuple(Damage(index, reason) for index, reason in reasons.items())
        rates = [video.rate for video in read.values() if video.rate > 0]
        if fps is None and not rates:
            checks.fail("fps", "the frame rate, which these videos do not tell", "none", "Give fps.")
        self.fps = _common(rates) if fps is None else float(fps)
        self._schedule = {index: schedule(video, self.fps) for index, video in read.items()}
        self.episodes = tuple(
            Episode(index, plan.length, (instructions[index],)) for index, plan in self._schedule.items()
        )
        self._sizes = {index: video.size for index, video in read.items()}
        self.findings = tuple(self._findings(source, len(self._files) - len(written)))

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        places = (folder, *(path for path in folder.iterdir() if path.is_dir()))
        return [folder] if any(_is_video(path) for place in places for path in place.iterdir()) else ()

    @classmethod
    def guess(cls, folder: Path) -> bool:
        return any(_is_video(path) for path in folder.glob("*/*/*"))

    @classmethod
    def whole_of(cls, file: Path) -> str:
        return f"Give the folder that holds it, {file.parent}: every video is an episode." if _is_video(file) else ""

    @property
    def features(self) -> dict[str, Feature]:
        """The camera and the columns."""
        return {CAMERA: Feature("video", (*self._size, 3), None)} | INDEX_FEATURES

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Only a decoded frame says whether it is rotated: the first use decodes one."""
        common = _common(list(self._sizes.values()))
        return next(filter(None, (self._upright(i) for i, coded in self._sizes.items() if coded == common)), common)

    def _upright(self, episode_index: int) -> tuple[int, int] | None:
        """Height and width of the frames of an episode; None where they cannot be decoded."""
        try:
            height, width = self.frames(episode_index, indices=[0]).shape[2:4]
        except LattokError:
            return None
        return height, width

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        """Return the video of an episode."""
        self._plan(episode_index)
        return (self.root / self._files[episode_index],)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns [T] of one episode; there are only those that say where a row is."""
        length, task = self._plan(episode_index).length, self._task[episode_index]
        self.check_columns(keys, INDEX_FEATURES, "Videos have no others.")
        return {key: index_column(key, length, episode_index, task, self.fps) for key in keys}

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        """Return the video of an episode, whole."""
        (file,) = self.files_of(episode_index)
        return file, 0.0, self.length(episode_index) / self.fps

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        times, fps = self._plan(episode_index).wanted(indices, self.fps)
        try:
            yield from decode_at(self.root / self._files[episode_index], times, fps)
        except LattokError as error:
            raise LattokError(f"episode {episode_index}: {error}") from None

    def _plan(self, episode_index: int) -> Schedule:
        if episode_index not in self._schedule:
            self.no_episode(episode_index)
        return self._schedule[episode_index]

    def _findings(self, source: Path | None, silent: int) -> Iterator[Finding]:
        """Return what inspection should say about these files."""
        if source is not None and silent:
            what = f"{silent:,} of {len(self._files):,} videos have no caption in {source}."
            yield Finding("note", what, "The name of their folder stands for it.")
        resampled = [index for index, plan in self._schedule.items() if plan.times is not None]
        if resampled:
            what = f"{len(resampled):,} of {len(self._files):,} videos do not keep to {self.fps:g} fps (first: episode "
            advice = "They are resampled in time. Choose another `fps` if most frames repeat."
            yield Finding("note", f"{what}{resampled[0]}).", advice)


def _video_files(root: Path) -> list[str]:
    """Relative paths (with /) of the videos below a folder, sorted. Links are followed, no folder is entered twice."""
    if not root.is_dir():
        checks.fail("path", "a folder with videos", f"{root}", "Give the folder that holds the files.")

    found = walk(root, lambda path: path.name.startswith("."), once=True)
    files = [path.as_posix() for path in found if path.name.lower().endswith(SUFFIXES)]
    if not files:
        checks.fail("path", "a folder with videos (" + ", ".join(SUFFIXES) + ")", f"none in {root}")
    return sorted(files)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _class_of(file: str) -> str:
    """Name of the folder that a file is in, "" at the top."""
    return readable(Path(file).parent.name)


def _read_all(root: Path, files: Sequence[str]) -> tuple[dict[int, VideoTimes], dict[int, str]]:
    """Return what the packets of every readable video say, and why the others are not; by their numbers."""
    read: dict[int, VideoTimes] = {}
    reasons: dict[int, str] = {}
    pool = ThreadPoolExecutor(min(THREADS, len(files)))
    try:
        for index, result in enumerate(pool.map(lambda file: _try_read(root / file), files)):
            if isinstance(result, str):
                reasons[index] = result
            else:
                read[index] = result
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for 10^5 files
    if not read:
        raise LattokError(f"{root}: none of {len(files)} videos can be read, first {reasons[0]}")
    return read, reasons


def _try_read(path: Path) -> VideoTimes | str:
    try:
        return read_times(path)
    except LattokError as error:
        return str(error)


def _common(values: Sequence[_T]) -> _T:
    """Return the most common value, the first one of several that are equally common."""
    return Counter(values).most_common(1)[0][0]
