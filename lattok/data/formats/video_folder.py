"""Folders of videos without actions: human video, one file per episode.

When the frames of a file are shown is told from its packets, without decoding. Headers cannot be trusted with this:
Matroska and WebM have no frame count, recorders write no duration, and a variable frame rate has no header at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lattok import checks
from lattok.checks import LattokError
from lattok.data.formats.captions import captions_of, find_captions
from lattok.data.schema import INDEX_FEATURES, Damage, Feature, RobotDataset, index_column, readable
from lattok.data.video import decode_at, open_video
from lattok.findings import Finding
from lattok.places import followed, walk
from lattok.types import Episode

IRREGULAR = 0.25  # of a frame interval: a frame further from its place in the grid of a rate does not fit the rate
CUT_SHORT_S = 0.5  # a file whose packets end this much before the end that its header promises is truncated
LONGEST_S = 7 * 86400  # a week; a changed bit in a time can claim centuries
EXACT_FPS = 1e5  # for decode_at: wanted times are those of existing frames to within 5 µs
VP8_SHOWN = 0x10  # bit of a frame's first byte; frames without it only serve others
CAMERA = "observation.images.video"
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
THREADS = 8  # that open files: on network drives the wait is longer than the work


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
    """List times and durations (ticks) of the frames that decoding gives; and when the last stream ends (s)."""
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
    """Yield the packets of sound and pictures."""
    for packet in container.demux([*container.streams.video[:1], *container.streams.audio]):
        if packet.is_corrupt:
            raise LattokError(f"{path} is truncated: a packet is incomplete. Copy it again.")
        if packet.size:  # an empty one ends each stream
            yield packet


def _check_span(path: Path, container: InputContainer, stream: VideoStream, start: float, end: float) -> None:
    """Check that packets reach the end that the header promises, where it does, and are of this world."""
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


_T = TypeVar("_T")


class VideoFolder(RobotDataset):
    """Videos in a folder and the folders below it; see `lattok.data.RobotDataset` for what it offers.

    Every file is an episode, numbered in the order of relative paths; one that cannot be opened is in `damaged` and
    keeps its number. The instruction is the video's caption, else the name of the folder it is in (its class), else
    empty at the top. Captions come from `captions`, or from captions.jsonl, captions.json, captions.csv or captions.tsv
    in the folder. `findings` has what inspection should say.

    The frame rate is `fps`, else the most common one of the files. A video that keeps to it is read frame by frame. Any
    other, of another or of a variable rate, is resampled: frame i is the one shown nearest to i / fps after the first
    (see `schedule`). Frame counts come from the packets of the files, which are read once here, without
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
        instructions = [written.get(file, readable(Path(file).parent.name)) for file in self._files]  # or the class
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
        """Height and width; only a decoded frame says whether it is rotated, so the first use decodes one."""
        common = _common(list(self._sizes.values()))
        for index in (index for index, coded in self._sizes.items() if coded == common):
            with suppress(LattokError):
                height, width = self.frames(index, indices=[0]).shape[2:4]
                return height, width
        return common

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        self._plan(episode_index)
        return (self.root / self._files[episode_index],)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        length, task = self._plan(episode_index).length, self._task[episode_index]
        self.check_columns(keys, INDEX_FEATURES, "Videos have no others.")
        return {key: index_column(key, length, episode_index, task, self.fps) for key in keys}

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
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
    """List videos below a folder by relative path (with /), sorted. Links are followed, no folder is entered twice."""
    if not root.is_dir():
        checks.fail("path", "a folder with videos", f"{root}", "Give the folder that holds the files.")

    found = walk(root, lambda path: path.name.startswith("."), once=True)
    files = [path.as_posix() for path in found if path.name.lower().endswith(SUFFIXES)]
    if not files:
        checks.fail("path", "a folder with videos (" + ", ".join(SUFFIXES) + ")", f"none in {root}")
    return sorted(files)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _read_all(root: Path, files: Sequence[str]) -> tuple[dict[int, VideoTimes], dict[int, str]]:
    """Return what the packets of every readable video say, and why the others are not; by their numbers."""
    read: dict[int, VideoTimes] = {}
    reasons: dict[int, str] = {}
    pool = ThreadPoolExecutor(min(THREADS, len(files)))
    try:
        for index, result in enumerate([pool.submit(read_times, root / file) for file in files]):
            try:
                read[index] = result.result()
            except LattokError as error:
                reasons[index] = str(error)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for 10^5 files
    if not read:
        raise LattokError(f"{root}: none of {len(files)} videos can be read, first {reasons[0]}")
    return read, reasons


def _common(values: Sequence[_T]) -> _T:
    """Return the most common value, the first one of several that are equally common."""
    return Counter(values).most_common(1)[0][0]
