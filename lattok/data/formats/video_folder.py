"""Folders of videos without actions: human video, one file per episode.

When the frames of a file are shown is told from its packets: see `video_times`. Headers cannot be trusted with this:
Matroska and WebM have no frame count, recorders write no duration, and a variable frame rate has no header at all.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from statistics import mode
from types import MappingProxyType
from typing import Any

import numpy as np

from lattok.data import problems
from lattok.data.formats.captions import captions_in
from lattok.data.formats.film_numbers import ACTION, FilmNumbers
from lattok.data.formats.folder_names import folder_splits, instruction_of
from lattok.data.formats.frame_plan import Schedule, VideoFile, schedule
from lattok.data.formats.video_times import read_all
from lattok.data.formats.video_views import grouped, likely_views
from lattok.data.schema import (
    FAR_BELOW,
    INDEX_FEATURES,
    Damage,
    Feature,
    RobotDataset,
    holds,
    holds_file,
    in_a_description,
    index_column,
    readable,
)
from lattok.data.video import OTHER_SUFFIXES, SUFFIXES
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding
from lattok.utils.untrusted import walk

NUMBERS = (".hdf5", ".h5", ".zarr")  # of one name with a film, which is then theirs
NOT_OPENED = "of a kind that is not opened; convert it: ffmpeg -i FILE FILE.mp4"
PREFIX = "observation.images."
CAMERA = f"{PREFIX}video"


class VideoFolder(RobotDataset):
    """Videos in a folder and the folders below it; see `lattok.data.RobotDataset` for what it offers.

    Every file is an episode, numbered in the order of relative paths; one that cannot be opened is in `damaged` and
    keeps its number. The instruction is the video's caption, else the name of the folder it is in (its class), else
    empty at the top. Captions come from `captions`, or from captions.jsonl, captions.json, captions.csv or captions.tsv
    in the folder, from Hugging Face's metadata.jsonl or metadata.csv, or from texts of the names of films. `findings`
    has what inspection should say.

    With `views`, such as {"left": "*_left.mp4", "right": "*_right.mp4"}, files that differ by that alone are cameras of
    one episode, which is as long as the shortest of them.

    The frame rate is `fps`, else the most common one of the files. A video that keeps to it is read frame by frame. Any
    other is resampled: frame i is the one shown nearest to i / fps after the first (see `schedule`). Rotated videos
    come upright. `frames` has each video's own size, `features` that of the first of the most common coded size. Where
    npz files of their names have an array `action` with a row for each frame, it is a column, NaN in the other films.
    """

    kind = "video"
    options = MappingProxyType({"fps": float, "captions": Path, "views": object})
    text = "videos (.mp4, .webm, .mkv and others, flat or in one folder per class)"

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        fps: float | None = None,
        captions: str | Path | None = None,
        views: Any = None,
    ):
        self.root = Path(path)
        self.name = name or self.root.resolve().name
        self._files, others = _video_files(self.root)
        unopened = (path for path in others if path.name.lower().endswith(OTHER_SUFFIXES))
        self.left_out = dict.fromkeys(sorted(readable(path.as_posix()) for path in unopened), NOT_OPENED)
        places, self._views = self._files, {CAMERA: self._files}  # places in folders, whose names are instructions
        if views is not None:
            found = grouped(self._files, views)
            places, self._views = found.places, {f"{PREFIX}{name}": each for name, each in found.files.items()}
            self.left_out |= dict.fromkeys(map(readable, found.left_out), "of no episode that has a file of each view")
            self._files = next(iter(self._views.values()))
        self.cameras = tuple(self._views)
        written, source = captions_in(self.root, self._files, captions)
        named = zip(self._files, places, strict=True)
        instructions = [
            written.get(file, instruction_of(Path(place).parent.parts)) for file, place in named
        ]  # or the class
        self.tasks = tuple(dict.fromkeys(instructions))
        numbers = {task: number for number, task in enumerate(self.tasks)}
        self._task = [numbers[task] for task in instructions]

        read, unread = read_all(self.root, [file for files in self._views.values() for file in files])
        reasons = {number % len(self._files): reason for number, reason in unread.items()}
        rates = [video.rate for video in read.values() if checks.is_frame_rate(video.rate)]
        if fps is None and not rates:
            checks.fail("fps", "the frame rate, which these videos do not tell", "none", "Give fps.")
        self.fps = mode(rates) if fps is None else float(fps)
        self._schedules = dict[int, list[Schedule]]()  # of all views
        for index in range(len(self._files)):
            try:
                if index not in reasons:
                    videos = (
                        read[place] for place in range(index, len(self._views) * len(self._files), len(self._files))
                    )
                    self._schedules[index] = [schedule(video, self.fps) for video in videos]
            except LattokError as error:
                reasons[index] = f"{self.root / self._files[index]}: {error}"
        if not self._schedules:
            raise LattokError(next(iter(reasons.values())))
        self.damaged = tuple(Damage(index, reason) for index, reason in sorted(reasons.items()))
        lengths = {index: min(plan.length for plan in plans) for index, plans in self._schedules.items()}
        self.episodes = tuple(Episode(i, length, (instructions[i],)) for i, length in lengths.items())
        films = {i: self.root / self._files[i] for i, (first, *_) in self._schedules.items() if first.times is None}
        self._numbers = FilmNumbers.beside(films if views is None else {}, lengths)
        self._sizes = {place: (video.height, video.width) for place, video in read.items()}  # by view, then by episode
        self._bytes = {index: read[index].bytes for index in self._schedules}
        found = [*self._findings(source, len(self._files) - len(written))]
        if several := [place % len(self._files) for place, video in read.items() if video.tracks > 1]:
            tracks = max(video.tracks for video in read.values())
            found.append(problems.TRACKS.finding(sorted({*several}), count=len(several), tracks=tracks))
        self.held_out, splits = folder_splits({i: Path(self._files[i]).parent.parts for i in self._schedules})
        told = [path for path in others if source is None or self.root / path != source]
        self.findings = (*found, *splits, *self._numbers_beside(told))

    def _numbers_beside(self, others: Iterable[Path]) -> Iterator[Finding]:
        if count := len(self._numbers.files):
            return iter([problems.ACTIONS_BESIDE.finding(count=count, all=len(self.episodes))])
        return problems.numbers_beside("videos", others, len(self.episodes), map(Path, self._files))

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        places = (folder, *(path for path in folder.iterdir() if path.is_dir()))
        return [folder] if any(_is_video_alone(path) for place in places for path in place.iterdir()) else ()

    @classmethod
    def hint(cls, folder: Path) -> str:
        return "Convert the videos: ffmpeg -i FILE FILE.mp4" if holds(folder, OTHER_SUFFIXES) else ""

    @classmethod
    def guess(cls, folder: Path) -> bool:
        return any(_is_video_alone(path) for path in folder.glob("*/*/*"))

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        return holds_file(folder, _is_video_alone, FAR_BELOW)

    @cached_property
    def features(self) -> dict[str, Feature]:
        """Only a decoded frame says whether it is rotated, so the first use decodes one of each camera."""
        found: dict[str, Feature] = {}
        for view, camera in enumerate(self.cameras):
            sizes = {i: self._sizes[view * len(self._files) + i] for i in self._schedules}
            size = common = mode(sizes.values())
            for index in (index for index, coded in sizes.items() if coded == common):
                with suppress(LattokError):
                    size = self.frames(index, [camera], indices=[0]).shape[2:4]
                    break
            found[camera] = Feature("video", (*size, 3), None)
        known = self._numbers
        acts = {ACTION: Feature(known.dtype, (known.width,), None)} if known.files else {}
        return found | acts | INDEX_FEATURES

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        self.length(episode_index)  # an error where there is no such episode
        films = (self.root / files[episode_index] for files in self._views.values())
        numbers = self._numbers.files
        return (*films, *([numbers[episode_index]] if episode_index in numbers else ()))

    def outlines(self) -> dict[int, int]:
        return self._bytes

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        length, task = self.length(episode_index), self._task[episode_index]
        own = [ACTION] if self._numbers.files else []
        self.check_columns(keys, [*INDEX_FEATURES, *own], "Videos have no others.")
        return {
            key: self._numbers.read(episode_index, length)
            if key == ACTION
            else index_column(key, length, episode_index, task, self.fps)
            for key in keys
        }

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        return self._file(episode_index, camera)[0], 0.0, self.length(episode_index) / self.fps

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        path, plan = self._file(episode_index, camera)
        try:
            yield from VideoFile(path, self.fps, plan).blocks(indices)
        except LattokError as error:
            raise LattokError(f"episode {episode_index}: {error}") from None

    def _file(self, episode_index: int, camera: str) -> tuple[Path, Schedule]:
        view = self.cameras.index(camera)
        return self.files_of(episode_index)[view], self._schedules[episode_index][view]

    def _findings(self, source: Path | None, silent: int) -> Iterator[Finding]:
        if source is not None and silent:
            yield problems.UNCAPTIONED.finding(count=silent, all=len(self._files), file=source)
        plans = self._schedules.items()
        if resampled := [index for index, each in plans if any(plan.times is not None for plan in each)]:
            facts = {"count": len(resampled), "all": len(self._files), "fps": self.fps, "first": resampled[0]}
            yield problems.RESAMPLED.finding(**facts)
        lengths = {self._files[episode.index]: episode.length for episode in self.episodes}
        if self.cameras == (CAMERA,) and (views := likely_views(lengths)):
            way_out = in_a_description(self.root, f'"views": {json.dumps(views)}')
            yield problems.FILES_AS_EPISODES.finding(names=checks.listed([*views]), way_out=way_out)
        if smaller := self._smaller_copies():
            one, other = (self._files[index] for index in next(iter(smaller.items())))
            yield problems.SMALLER_COPIES.finding([*smaller], count=len(smaller), one=one, other=other)

    def _smaller_copies(self) -> dict[int, int]:
        """Return films that are called as another one in a folder above theirs, as long, smaller and of its shape; with
        that one."""
        places = {file: index for index, file in enumerate(self._files) if index in self._schedules}
        found: dict[int, int] = {}
        for file, index in places.items():
            path, (height, width) = PurePosixPath(file), self._sizes[index]
            above = (places[str(up / path.name)] for up in path.parent.parents if str(up / path.name) in places)
            for other in above:
                tall, wide = self._sizes[other]
                alike = self._schedules[index][0].length == self._schedules[other][0].length
                if alike and height < tall and abs(width * tall - wide * height) <= max(tall, wide):
                    found[index] = other
        return found


def _video_files(root: Path) -> tuple[list[str], list[Path]]:
    """List videos below a folder by relative path (with /), sorted, and all other files. Links are followed, no folder
    is entered twice."""
    if not root.is_dir():
        checks.fail("path", "a folder with videos", f"{root}", "Give the folder that holds the files.")
    found = [*walk(root, lambda path: path.name.startswith("."), once=True)]
    files = [path.as_posix() for path in found if path.name.lower().endswith(SUFFIXES)]
    if inner := sorted(path for path in found if path.parts[-2:] == ("meta", "info.json")):
        hint = "Put the videos into a folder of their own."
        checks.fail("path", "a folder with videos alone", f"{root} with the dataset {inner[0].parents[1]} in it", hint)
    if not files:
        checks.fail("path", "a folder with videos (" + ", ".join(SUFFIXES) + ")", f"none in {root}")
    return sorted(files), [path for path in found if not path.name.lower().endswith(SUFFIXES)]


def _is_video_alone(path: Path) -> bool:
    """Return whether a file is a video, and not that of a file of numbers, whose camera it is."""
    return path.suffix.lower() in SUFFIXES and not any(path.with_suffix(each).exists() for each in NUMBERS)
