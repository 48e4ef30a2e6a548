"""`lattok.repair`: a copy of a dataset in which what inspection finds is made right, as far as nothing is invented.

First everything is read, which gives a plan: pieces of episodes, columns whose numbers change, and videos that are
encoded again. Then LeRobot v3 is written. Video files are copied as they are; the source stays as it is.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.carried import CopiedVideos, Piece
from lattok.data.copies import first_of_copies
from lattok.data.exporting import Plan, check_export, damage_of, plan_export, write_pieces
from lattok.data.flaws import RATE_TOLERANCE, TOLERANCE, unit_of
from lattok.data.formats.lerobot import LeRobotV3, tolerant
from lattok.data.formats.lerobot_v2 import LeRobotV2
from lattok.data.image_writer import ImageStats, VideoSpan
from lattok.data.inspection import MAX_DIMENSIONS, Inspection, inspect_dataset
from lattok.data.modality import with_modality
from lattok.data.opening import as_dataset
from lattok.data.picture_flaws import BLANK_LEVELS, SAME_LEVELS
from lattok.data.repairs import REPAIRS, DatasetRepair, EpisodeRows, FlawedPart, repair_of
from lattok.data.schema import NONE, Progress, RobotDataset, dimension_names, own_vectors
from lattok.data.summaries import Stats
from lattok.data.table_dataset import tables_of
from lattok.data.video import BLOCK, VideoWriter, codec_for, decode_at, probe
from lattok.data.views import ColumnsView, unwrap
from lattok.data.writers import WRITERS, Extra
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError, counted, few_of
from lattok.utils.findings import Finding
from lattok.utils.output import Output

RECORD = "repair.json"  # in meta/
FORMAT = "lerobot"  # that is written
CLIPS = "clips"  # folder in that of the writer, which removes it, for videos that are encoded again
ALWAYS = ("unreadable", "cut")  # whatever inspection found, which looks at some frames only
LEAST_S = 1.0  # of a part of an episode that is kept
MOST_S = 1e9  # of an episode
SAME_TIME_S = 1e-3  # that a frame may be away from where it is looked for
LEROBOT_S, ROUNDED = 1e-4, 1e-7  # that LeRobot allows a time to be off; of a time, what float32 rounds off
NAMED = 6  # episodes in a sentence

_Parts = dict[str, list[tuple[DatasetRepair, FlawedPart]]]  # by column


class RepairStep(NamedTuple):
    """One thing that was made right."""

    repair: str  # its name
    what: str  # a sentence
    episodes: tuple[int, ...]  # of the source; none where it concerns all


class RepairResult(NamedTuple):
    """What was repaired: each step, and the rows of the source that the episodes of the copy hold."""

    path: Path | None  # None of a dry run
    steps: tuple[RepairStep, ...]
    pieces: tuple[tuple[int, int, int], ...]  # episode of the source, first row, end
    frames: int
    more: tuple[RepairStep, ...]  # what `also` would repair besides


@dataclass
class _Done:
    """What one repair did."""

    episodes: set[int] = field(default_factory=set)
    rows: int = 0
    why: dict[str, None] = field(default_factory=dict)  # different reasons, in order
    most: float = 0.0  # seconds that times were off

    def step(self, repair: DatasetRepair) -> RepairStep:
        numbers = sorted(self.episodes)
        why = list(self.why)
        facts = {
            "episodes": f"{counted(len(numbers), 'episode')} ({few_of(numbers, NAMED)})",
            "rows": counted(self.rows, "row"),
            "why": f"{1000 * self.most:.2g} ms" if self.most else why[0] if why else "",
            "column": ", ".join(f"`{name}`" for name in why),
        }
        what = repair.did.format(**facts).rstrip(".")
        return RepairStep(repair.name, f"{what}.", tuple(numbers))


class _Deeds:
    """What is done, by the name of the repair."""

    def __init__(self) -> None:
        self._done: dict[str, _Done] = {}

    def add(self, name: str, episode: int | None = None, rows: int = 0, why: str = "", most: float = 0.0) -> None:
        done = self._done.setdefault(name, _Done())
        done.episodes.update(() if episode is None else (episode,))
        done.rows, done.most = done.rows + rows, max(done.most, most)
        done.why.update({why: None} if why else {})

    def steps(self) -> tuple[RepairStep, ...]:
        return tuple(self._done[name].step(each) for name, each in REPAIRS.items() if name in self._done)


def repair(
    dataset: RobotDataset | str | os.PathLike[str],
    out: str | Path | None = None,
    *,
    also: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RepairResult:
    """Write a copy of `dataset` to the new folder `out`, with the flaws repaired that `inspect_dataset` finds.

    Left out are episodes that cannot be read, rows beyond the end of a video, and rows with numbers that are not
    finite; episodes are split where times go back or frames were lost, and parts shorter than a second left out.
    Quaternions keep their sign from row to row. Episodes, rows, times (frame / fps) and statistics are written anew.
    `also` names repairs that depend on the use: "wraps" unwraps angles, "copies" leaves out episodes that equal earlier
    ones, "blank" and "frozen" those in which a camera shows nothing or one picture, "last" a last row whose action only
    fills it. All other values stay, and video files are copied as they are.

    The copy is LeRobot v3, whatever the source is. meta/repair.json says what was done, as the result does. Everything
    is read before anything is written; with `dry_run` nothing is. `progress(frames done, frames in all)` is called
    after every episode, of reading and then of writing. Raises `LattokError` if there is nothing to repair, or if
    nothing would be left.
    """
    dataset, wrong = _opened(dataset)
    for name in also:
        checks.one_of("also", name, [name for name, each in REPAIRS.items() if each.asked])
    if out is not None:
        check_export(dataset, Path(out), FORMAT, "auto", None)
    elif not dry_run:
        checks.fail("out", "a new folder", "none", "To see what would be done, ask for a `dry_run`.")
    inspection = inspect_dataset(dataset)
    due, more = _due(inspection.findings, also)
    deeds, view = _Deeds(), _Mended(dataset, _parts(dataset, inspection, due))
    if wrong:
        deeds.add("meta", why=wrong)
    pieces = _pieces(view, due, deeds)
    videos = _Videos(view)
    exported = plan_export(view, _episodes_of(pieces), "auto", None, videos, not view.flawed)
    pieces = _that_can_be_read(exported, videos, pieces, deeds, progress)
    pieces = _by_looks(view, pieces, due, deeds)
    if [piece.episode.index for piece in pieces] != list(range(len(dataset.episodes))):
        deeds.add("numbers")
    if not (steps := deeds.steps()):
        asking = {step.repair: step.what for step in more}
        hint = "".join(f" `also` {name} is for: {what}" for name, what in asking.items())
        raise LattokError(f"{dataset.name}: there is nothing to repair.{hint}")
    if not pieces:
        raise LattokError(f"{dataset.name}: no episode would be left. {steps[0].what}")
    rows = tuple((piece.episode.index, piece.first, piece.last) for piece in pieces)
    result = RepairResult(None, steps, rows, sum(piece.length for piece in pieces), more)
    if dry_run or out is None:
        return result
    codec = codec_for(camera.feature.shape for camera in exported.cameras)
    record = {"steps": [step._asdict() for step in steps], "pieces": [*map(list, rows)]}
    videos.folder = Output(out, kind="writing").work / CLIPS
    write_pieces(WRITERS[FORMAT], Path(out), exported, pieces, codec, {RECORD: record}, progress)
    return result._replace(path=Path(out))


def _opened(dataset: RobotDataset | str | os.PathLike[str]) -> tuple[RobotDataset, str]:
    """Open a dataset, also a LeRobot one whose meta/ contradicts itself in what is not needed: its totals, and its list
    of instructions where every episode has one. Return what is wrong, too."""
    try:
        return as_dataset(dataset), ""
    except LattokError as error:
        place = Path(dataset) if isinstance(dataset, str | os.PathLike) else Path()
        kinds = [kind for kind in (LeRobotV3, LeRobotV2) if place.is_dir() and kind.recognise(place)]
        if not kinds:
            raise
        with suppress(LattokError):
            opened = tolerant(kinds[0])(place)
            if opened.tasks or all(len(episode.tasks) < 2 for episode in opened.episodes):
                opened.address = str(place)
                return with_modality(opened), str(error).partition(". ")[0]
        raise


def _due(findings: Sequence[Finding], also: Sequence[str]) -> tuple[dict[str, list[Finding]], tuple[RepairStep, ...]]:
    """Return which repairs there are for what was found, with that, and those that nobody asked for."""
    due, more = dict[str, list[Finding]](), list[RepairStep]()
    for finding in findings:
        if finding.problem == problems.OTHER_RATE:
            raise _two_rates(finding.what)
        if (each := repair_of(finding)) is not None and each.asked and each.name not in also:
            more.append(RepairStep(each.name, finding.what, ()))
        elif each is not None:
            due.setdefault(each.name, []).append(finding)
    return due, tuple(more)


def _parts(dataset: RobotDataset, inspection: Inspection, due: Mapping[str, list[Finding]]) -> _Parts:
    """Return which parts of columns change, with what changes them."""
    found: _Parts = {}
    spans = {(d.key, d.name): d.maximum - d.minimum for d in inspection.dimensions}
    for name, findings in due.items():
        for facts in (dict(finding.facts) for finding in findings if REPAIRS[name].values is not None):
            key, dimension = str(facts["column"]), str(facts.get("dimension", facts.get("first")))
            if key in dataset.parts:  # of another column, of which the same is said
                continue
            first = dimension_names(dataset.features[key]).index(dimension)
            found.setdefault(key, []).append((REPAIRS[name], FlawedPart(first, spans[key, dimension])))
    return found


def _episodes_of(pieces: Sequence[Piece]) -> list[Episode]:
    return list(dict.fromkeys(piece.episode for piece in pieces))


# what stays of each episode, by its numbers and by what meta/ says of its videos


def _pieces(view: "_Mended", due: Mapping[str, list[Finding]], deeds: _Deeds) -> list[Piece]:
    dataset, found, rates = view.dataset, list[Piece](), list[float]()
    for name in (name for name in ("numbers", "statistics", "unlisted") if name in due):
        deeds.add(name)
    for each in due.get("meta", []):
        deeds.add("meta", why=each.what.rstrip("."))
    for damage in dataset.damaged:
        deeds.add("unreadable", damage.episode_index, why=damage.reason)
    equal = first_of_copies(dataset) if "copies" in due else {}
    episodes = {episode.index: episode for episode in dataset.episodes}
    for index, read in dataset.columns_of(dataset.episodes, view.numbers):
        columns, error = (NONE, str(read)) if isinstance(read, LattokError) else (read, "")
        first = equal.get(index, index)
        recording = view.recording(episodes[index], columns, error, None if first == index else first)
        for start, stop in _stretches(recording, due, deeds):
            whole = stop - start == recording.episode.length
            if whole or stop - start >= LEAST_S * view.fps:
                piece = Piece(recording.episode, start, stop, view.moment(recording.seconds[start]))
                rates += _say_clock(deeds, piece, columns.get("timestamp"), view.fps)
                found.append(piece)
            else:
                deeds.add("short", index, stop - start)
        if found and found[-1].episode.index == index:
            _say_values(deeds, view, index, columns)
    if rates and abs(np.median(rates) / view.fps - 1) > RATE_TOLERANCE:
        raise _two_rates(
            f"The times of {counted(len(rates), 'episode')} say {np.median(rates):.4g} fps, not {view.fps:g}."
        )
    return sorted(found, key=lambda piece: (piece.episode.index, piece.first))


def _two_rates(what: str) -> LattokError:
    way_out = "Which one is right cannot be told from them. Correct the wrong one in a copy, then repair that."
    return LattokError(f"{what} {way_out}")


def _stretches(recording: EpisodeRows, due: Mapping[str, list[Finding]], deeds: _Deeds) -> Iterator[tuple[int, int]]:
    """Yield the rows [first, end) of each part of an episode that stays."""
    length = recording.episode.length
    stays, begins = np.ones(length, dtype=bool), np.zeros(length, dtype=bool)
    for name in dict.fromkeys([*ALWAYS, *due]):
        if (marks := REPAIRS[name].marks) is None or not stays.any():
            continue
        without, split = marks(recording, due.get(name, ()))
        if (without & stays).any() or split.any():
            deeds.add(name, recording.episode.index, int((without & stays).sum()), recording.error)
        stays, begins = stays & ~without, begins | split
    start: int | None = None
    for row in range(length + 1):
        if start is not None and (row == length or not stays[row] or begins[row]):
            yield start, row
            start = None
        if row < length and stays[row] and start is None:
            start = row


def _say_clock(deeds: _Deeds, piece: Piece, times: np.ndarray | None, fps: float) -> Iterator[float]:
    """Note how far times are away from frame / fps, which is what the copy has; yield their rate where that is far."""
    if times is None or piece.length < 2:
        return
    own = times.reshape(-1)[piece.first : piece.last].astype(np.float64)
    own -= own[0] if piece.first else 0
    off = float(np.abs(own - np.arange(piece.length) / fps).max())
    if not np.isfinite(off):
        deeds.add("clock", piece.episode.index, why="what is no number")
    elif off > LEROBOT_S + ROUNDED * np.abs(times).max():
        deeds.add("clock", piece.episode.index, most=off)
    if off > TOLERANCE / fps and own[-1] > own[0]:
        rate = (piece.length - 1) / (own[-1] - own[0])
        yield rate * unit_of(rate, fps).by


def _say_values(deeds: _Deeds, view: "_Mended", index: int, columns: Mapping[str, np.ndarray]) -> None:
    for key, parts in view.flawed.items():
        for each, part in parts:
            assert each.values is not None
            before = columns[key].reshape(len(columns[key]), -1)
            changed = (each.values(before, part) != before) & ~np.isnan(before)
            if rows := int(changed.any(1).sum()):
                deeds.add(each.name, index, rows, key)


# what can be read of it, to the last frame


def _that_can_be_read(
    exported: Plan, videos: "_Videos", pieces: Sequence[Piece], deeds: _Deeds, progress: Progress | None
) -> list[Piece]:
    """Read everything; leave out pieces that cannot be read, and cut off what a video does not show."""
    found, done, total = list[Piece](), 0, sum(piece.length for piece in pieces)
    for piece in pieces:
        if (why := damage_of(exported, piece)) is None:
            count, why = videos.read(piece)
            kept = piece._replace(last=piece.first + count)
            if count == piece.length:
                found.append(piece)
            elif count >= LEAST_S * videos.view.fps and videos.read(kept)[0] == count:
                deeds.add("cut", piece.episode.index, piece.length - count)
                found.append(kept)
            else:
                deeds.add("unreadable", piece.episode.index, piece.length, why)
        else:
            deeds.add("unreadable", piece.episode.index, piece.length, why)
        done += piece.length
        if progress is not None:
            progress(done, total)
    for piece in found:
        for reason in videos.encoded_of(piece).values():
            deeds.add("video", piece.episode.index, why=reason)
    return found


def _by_looks(view: "_Mended", pieces: Sequence[Piece], due: Mapping[str, list[Finding]], deeds: _Deeds) -> list[Piece]:
    """Leave out pieces in which a camera shows nothing, or one picture."""
    gone: dict[Piece, str] = {}
    for name in ("blank", "frozen"):
        for finding in due.get(name, ()):
            facts, found = dict(finding.facts), {*finding.episodes}
            if len(view.episodes) > int(facts["all"]):  # inspection looked at some of them
                found |= {piece.episode.index for piece in pieces if _looks(view, piece, str(facts["camera"])) == name}
            gone |= {piece: name for piece in pieces if piece.episode.index in found}
    for piece, name in gone.items():
        deeds.add(name, piece.episode.index)
    return [piece for piece in pieces if piece not in gone]


def _looks(view: "_Mended", piece: Piece, camera: str) -> str:
    """Judge the first, the middle and the last frame, as inspection does."""
    ends = [piece.first, (piece.first + piece.last) // 2, piece.last - 1]
    frames = view.frames(piece.episode.index, [camera], ends)[:, 0]
    if np.ptp(frames, axis=(1, 2, 3)).max() <= BLANK_LEVELS:
        return "blank"
    changes = (np.abs(frames[0].astype(np.int16) - later).mean() for later in frames[1:])
    return "frozen" if max(changes) <= SAME_LEVELS else ""


class _Mended(ColumnsView):
    """The dataset with changed numbers. Frames come from where the rows are in the videos, whatever their times say."""

    def __init__(self, dataset: RobotDataset, parts: _Parts):
        super().__init__(dataset)
        self.flawed = parts
        here = tables_of(dataset) is not None and dataset.videos_at_rate
        self.copied = tuple(key for key in dataset.cameras if here and dataset.features[key].dtype == "video")
        own = [key for key in own_vectors(dataset) if dataset.features[key].dtype.startswith("float")]
        self.numbers = [key for key in own if dataset.features[key].shape[0] <= MAX_DIMENSIONS]
        self.numbers += ["timestamp"] if "timestamp" in dataset.features else []

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        return [*keys]

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: self._mended(key, read[key]) for key in keys}

    def _mended(self, key: str, values: np.ndarray) -> np.ndarray:
        rows = values.reshape(len(values), -1)
        for repair, part in self.flawed.get(key, ()):
            assert repair.values is not None
            rows = repair.values(rows, part)
        return rows.reshape(values.shape)

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        if camera not in self.copied:
            yield from self.dataset.blocks(episode_index, camera, indices)
            return
        path, start, _ = self.span(episode_index, camera)
        with self.files.at_hand(path) as place:
            yield from decode_at(place, start + self.shown(episode_index, camera)[indices], self.fps)

    def span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        found = self.video_span(episode_index, camera)
        assert found is not None  # of cameras with videos
        return found

    def recording(
        self, episode: Episode, columns: Mapping[str, np.ndarray], error: str, equals: int | None
    ) -> EpisodeRows:
        """Say of an episode what there is of it, by its numbers and by what meta/ says of its videos."""
        seconds, shown = np.arange(episode.length) / self.fps, episode.length
        try:
            for camera in self.copied:
                if (other := self.shared_spans(camera).get(episode.index)) is not None:
                    facts = {"episode": episode.index, "other": other, "camera": camera}
                    raise LattokError(
                        str(problems.SHARED_SPAN.finding(**facts, file=self.span(episode.index, camera)[0]))
                    )
            if not error:
                seconds = self._seconds(episode, columns.get("timestamp"))
                shown = int((seconds <= self._room(episode.index) - 0.5 / self.fps).sum())
        except LattokError as damage:
            error = str(damage)
        return EpisodeRows(episode, columns, seconds, shown, equals, error)

    def seconds(self, index: int) -> np.ndarray:
        """Return when each row [T] of an episode is shown in its videos, from where the episode begins in them."""
        times = self.dataset.columns(index, ["timestamp"])["timestamp"] if "timestamp" in self.features else None
        return self._seconds(Episode(index, self.length(index), ()), times)

    def shown(self, index: int, camera: str) -> np.ndarray:
        """Return when the frame of each row [T] is shown, from where the episode begins in that video."""
        source = unwrap(self.dataset)
        own = source.clock(index, camera) if isinstance(source, LeRobotV3) else None
        return self.seconds(index) if own is None else own

    def _seconds(self, episode: Episode, times: np.ndarray | None) -> np.ndarray:
        """By the times of the rows, as everybody reads them; by their numbers where times go back, or go on after
        the end of a video that has a frame for each row."""
        even = np.arange(episode.length) / self.fps
        if times is None:
            return even
        own, end = times.reshape(-1).astype(np.float64), self._room(episode.index) - 0.5 / self.fps
        forward = bool((np.diff(own) > 0).all()) and 0 <= own[0] < MOST_S and own[-1] < MOST_S
        return own if forward and (own[-1] <= end or even[-1] > end) else even

    def _room(self, index: int) -> float:
        """Return how many seconds all videos have of an episode."""
        spans = (self.span(index, camera) for camera in self.copied)
        return min((stop - start for _, start, stop in spans), default=np.inf)

    def moment(self, seconds: float) -> float:
        """Return when a piece begins in the videos, at a whole frame where it is near one."""
        frame = round(seconds * self.fps)
        return frame / self.fps if abs(seconds * self.fps - frame) <= TOLERANCE else float(seconds)


class _Videos(CopiedVideos):
    """Videos of a dataset, copied whole; of pieces that others would read otherwise, encoded again."""

    def __init__(self, view: _Mended):
        self.view, self.keys = view, view.copied
        self._stats: dict[tuple[int, int, str], Stats] = {}  # by episode, first row and camera
        self._reasons: dict[tuple[int, int, str], str] = {}  # why it is encoded again
        self._odd: dict[Path, str] = {}  # files that have to be encoded again, "" of others
        self._ends: dict[str, dict[Path, float]] = {}  # seconds that episodes take of each file, by camera
        self.folder: Path | None = None  # for clips

    @property
    def encoded(self) -> set[str]:
        return {key for _, _, key in self._reasons}

    def encoded_of(self, piece: Piece) -> dict[str, str]:
        """Return the cameras of a piece that are encoded again, with the reason."""
        every = {key: self._reasons.get((piece.episode.index, piece.first, key), "") for key in self.keys}
        return {key: why for key, why in every.items() if why}

    def read(self, piece: Piece) -> tuple[int, str]:
        """Read what all cameras show of a piece, and measure it; return how many of its rows they show, and why no
        more."""
        count, why = piece.length, ""
        for key in self.keys:
            place = (piece.episode.index, piece.first, key)
            path, start, _ = self.view.span(piece.episode.index, key)
            even = start + piece.seconds + np.arange(piece.length) / self.view.fps
            with self.view.files.at_hand(path) as file:
                stats, seen = ImageStats(piece.length), 0
                try:
                    odd = self._odd_file(key, path, file)
                    times = start + self.view.shown(piece.episode.index, key)[piece.first : piece.last]
                except LattokError as error:
                    return 0, str(error)
                try:
                    for block in decode_at(file, times, self.view.fps):
                        stats.add(block)
                        seen += len(block)
                    self._stats[place] = stats.result()
                    if reason := odd or ("" if self._same(file, times, even) else "frames at times that are not even"):
                        self._reasons[place] = reason
                except LattokError as error:
                    count, why = min(count, _readable(file, times, seen, self.view.fps)), str(error)
        return count, why

    def _odd_file(self, key: str, path: Path, file: Path) -> str:
        """Say why others would not read the right frames from a file, "" where they would; an error if nobody can tell
        which frame is which row's."""
        if path not in self._odd:
            facts, fps = probe(file), self.view.fps
            if abs(facts.fps - fps) <= RATE_TOLERANCE * fps:
                self._odd[path] = "" if path.suffix == ".mp4" else f"{path.suffix} instead of .mp4"
            elif facts.frames / facts.fps < self._end(key, path) - 0.5 / fps:
                what = f"{path} runs at {facts.fps:g} fps, the dataset at {fps:g}, and it ends before its episodes do"
                raise LattokError(f"{what}: which frame is which row's is not known.")
            else:
                self._odd[path] = f"{facts.fps:g} fps instead of {fps:g}"
        return self._odd[path]

    def _end(self, key: str, path: Path) -> float:
        if key not in self._ends:
            ends = self._ends.setdefault(key, {})
            for episode in self.view.episodes:
                file, _, stop = self.view.span(episode.index, key)
                ends[file] = max(ends.get(file, 0.0), stop)
        return self._ends[key][path]

    def _same(self, file: Path, times: np.ndarray, even: np.ndarray) -> bool:
        """Return whether a video shows the same frames at even times."""
        if np.abs(times - even).max() <= SAME_TIME_S:
            return True
        try:
            both = zip(*(decode_at(file, each, self.view.fps) for each in (times, even)), strict=True)
            return all(np.array_equal(one, other) for one, other in both)
        except LattokError:
            return False

    @contextmanager
    def of(self, piece: Piece) -> Iterator[Extra]:
        index, spans, encoded = piece.episode.index, dict[str, VideoSpan](), self.encoded_of(piece)
        with ExitStack() as stack:
            for number, key in enumerate(self.keys):
                path, start, stop = self.view.span(index, key)
                if key in encoded:
                    assert self.folder is not None
                    self.folder.mkdir(exist_ok=True)
                    clip = self.folder / f"{index}-{piece.first}-{number}.mp4"
                    self._encode(piece, key, clip)
                    stack.callback(clip.unlink)
                    spans[key] = VideoSpan(clip, 0.0, piece.length / self.view.fps, clip)
                else:
                    here = stack.enter_context(self.view.files.at_hand(path))
                    spans[key] = VideoSpan(path, *piece.span(start, stop, self.view.fps), here)
            yield Extra(spans, {key: self._stats[index, piece.first, key] for key in self.keys})

    def _encode(self, piece: Piece, key: str, here: Path) -> None:
        indices, writer = np.arange(piece.first, piece.last), None
        for block in self.view.blocks(piece.episode.index, key, indices):
            writer = writer or VideoWriter(
                here, self.view.fps, block.shape[1:3], codec_for([self.view.features[key].shape])
            )
            writer.add(block)
        assert writer is not None
        writer.close()


def _readable(file: Path, times: np.ndarray, least: int, fps: float) -> int:
    """Return how many of the first frames can be read, of which `least` are known to be."""
    low, high = least, min(len(times) - 1, least + BLOCK)  # all of them were just tried
    while low < high:
        middle = (low + high + 1) // 2
        try:
            for _ in decode_at(file, times[least:middle], fps):
                pass
            low = middle
        except LattokError:
            high = middle - 1
    return low
