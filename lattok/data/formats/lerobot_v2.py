"""LeRobot datasets of version 2.0 and 2.1: one Parquet file and one video of each camera for every episode.

    meta/info.json, meta/tasks.jsonl, meta/episodes.jsonl
    meta/stats.json             v2.0: statistics of all rows
    meta/episodes_stats.jsonl   v2.1: those of every episode

Everything but metadata is read as in version 3.
"""

import json
import shlex
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
from typing_extensions import TypedDict

from lattok.data.formats.lerobot import LeRobotV3, note_renewed
from lattok.data.formats.lerobot_meta import (
    AGAIN,
    INFO,
    MOST_MISSING,
    OUTLINE,
    PLACE,
    SPAN,
    EpisodeTable,
    read_info,
    version_of,
)
from lattok.data.schema import ManyColumns
from lattok.data.statistics import STORED, compared, misfit, together
from lattok.data.summaries import column_stats
from lattok.data.table_dataset import NewColumns
from lattok.data.tables import CACHE_BYTES, FEW_ROWS, SHORT, DataFile, check_rows, column_to_numpy
from lattok.types import Episode
from lattok.utils.checks import LattokError, counted, is_int
from lattok.utils.files import write_text
from lattok.utils.untrusted import JSON_BYTES, Rule, parse_json, safe_path, typed

TASKS, EPISODES = "meta/tasks.jsonl", "meta/episodes.jsonl"
EPISODE_STATS = "meta/episodes_stats.jsonl"
THEIR_CHUNK = "chunk_index"  # the name of v3, which some write into v2.1 as well
CHUNK_EPISODES = 1000  # in a folder, unless info.json says otherwise
LIST_BYTES = 2**27  # of a list of episodes, a million of them
READERS, RUN_EPISODES = 8, 32  # threads, and episodes that one reads in a row
ENTRY_BYTES = 400  # that a kept column takes besides its numbers
Whole = Annotated[int, Rule("a whole number from 0", lambda it: 0 <= it < 2**31)]


class TaskLine(TypedDict, total=False):
    task_index: Whole
    task: str


class EpisodeLine(TypedDict, total=False):
    episode_index: Whole
    length: Annotated[int, Rule("a number of frames", lambda it: 0 <= it < 2**31)]
    tasks: list[str]


@dataclass
class Kept:
    """Columns of single episodes that are kept in memory, up to `CACHE_BYTES`, and their outlines."""

    columns: dict[tuple[int, str], np.ndarray]  # by episode and key
    taken: int = 0  # bytes
    outlines: dict[int, bytes] | None = None

    def add(self, index: int, values: Mapping[str, np.ndarray]) -> None:
        """Keep columns of an episode, if they are numbers and there is room."""
        size = sum(value.nbytes + ENTRY_BYTES for value in values.values())
        if self.taken + size <= CACHE_BYTES and all(value.dtype != object for value in values.values()):
            self.columns |= {(index, key): value.copy() for key, value in values.items()}
            self.taken += size


_kept: "WeakKeyDictionary[LeRobotV2, Kept]" = WeakKeyDictionary()


class LeRobotV2(LeRobotV3):
    """A LeRobot dataset of version 2.0 or 2.1; see `lattok.data.RobotDataset` for what it offers."""

    kind = "lerobot-v2"
    text = "LeRobot v2.0 and v2.1"
    versions = ("v2.0", "v2.1")
    file_per_episode = True
    place_fields = ("episode_chunk", "episode_index")

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if version_of(folder).startswith(cls.versions) else ()

    @classmethod
    def hint(cls, folder: Path) -> str:
        """Version 3 says what is missing of both; version 1 keeps its meta/ elsewhere."""
        converter = "python -m lerobot.datasets.v2.convert_dataset_v1_to_v2"
        first = (folder / "meta_data" / "info.json").is_file()
        return f"It is of LeRobot v1. Convert it with LeRobot 0.3.3: {converter}" if first else ""

    def _read_info(self) -> dict[str, Any]:
        info = read_info(self.root, self.versions, (*self.place_fields, THEIR_CHUNK))
        path = self.root / INFO
        for field in ("data_path", *(["video_path"] if info.get("video_path") else [])):
            info[field] = info[field].replace(f"{{{THEIR_CHUNK}", "{episode_chunk")
            if "{episode_index" not in info[field]:
                got = f"{info[field][:60]!a}"
                raise LattokError(f"{path}: `{field}`: expected a path for each episode, got {got}. {AGAIN}")
        if not is_int(size := info.get("chunks_size", CHUNK_EPISODES)) or size < 1:
            raise LattokError(f"{path}: `chunks_size`: expected a number of episodes, got {size!r:.40}. {AGAIN}")
        return info

    def _read_tasks(self) -> tuple[str, ...]:
        if not (self.root / TASKS).exists():
            typed_out = shlex.join(["lattok", "repair", str(self.root), "--out", "repaired"])
            way_out = f"Copy it again, or take the instructions of meta/episodes.jsonl: {typed_out}"
            raise LattokError(f"{self.root}: {TASKS} is missing. {way_out}")
        lines = [typed(line, TaskLine, "", where, AGAIN) for where, line in _lines(self.root, TASKS)]
        found = {line.get("task_index", -1): line.get("task") for line in lines}
        right = len(found) == len(lines) and all(isinstance(text, str) for text in found.values())
        if not found or not right or not 0 <= min(found) <= max(found) < len(found) + MOST_MISSING:
            raise LattokError(f"{self.root / TASKS}: expected one text for each task_index. {AGAIN}")
        self.unlisted_tasks = {*range(max(found))} - found.keys()  # merged datasets have gaps
        return tuple(found.get(number) or "" for number in range(max(found) + 1))

    def _read_episodes(self, videos: Sequence[str]) -> EpisodeTable:
        return EpisodeList(self.root, self.info, videos, self.tasks, self.fps)

    def columns_of(self, episodes: Sequence[Episode], keys: Sequence[str], checked: bool = True) -> ManyColumns:
        """Files are read by several threads, and what is short is kept: whoever begins to train asks several times."""
        kept = _kept.setdefault(self, Kept({}))
        for episode in (known := [one for one in episodes if all((one.index, key) in kept.columns for key in keys)]):
            yield episode.index, {key: kept.columns[episode.index, key].copy() for key in keys}
        there = {episode.index for episode in known}
        runs = _runs([episode for episode in episodes if episode.index not in there])
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(runs), READERS):
                for each in pool.map(lambda run: self._read(run, keys), runs[start : start + READERS]):
                    for episode, values in each:
                        if values is None:
                            yield from super().columns_of([episode], keys)
                            continue
                        kept.add(episode.index, values)
                        yield episode.index, values

    def _read(self, run: Sequence[Episode], keys: Sequence[str]) -> list[tuple[Episode, dict[str, np.ndarray] | None]]:
        """Read the files of some episodes, each once; None of those that are not as expected."""
        found = list[tuple[Episode, dict[str, np.ndarray] | None]]()
        for episode in run:
            values = None
            with suppress(LattokError):  # said where it is read by itself
                path = self.data_file(episode.index)
                with self.files.at_hand(path) as place:
                    file = DataFile(place)
                if file.rows == {episode.index: (0, episode.length)} and not file.disordered:
                    self.check_columns(keys, [name for name in file.names if name in self.features])
                    file.check_types({key: self.features[key] for key in keys})
                    table = file.whole(keys)
                    values = {key: column_to_numpy(table[key], self.features[key], f"{path}: `{key}`") for key in keys}
            found.append((episode, values))
        return found

    def outlines(self) -> dict[int, bytes]:
        """Statistics of actions by episode, as those of version 3; of v2.0, and where one is missing, none."""
        kept = _kept.setdefault(self, Kept({}))
        if kept.outlines is None:
            kept.outlines = self._outlines()
        return kept.outlines

    def _outlines(self) -> dict[int, bytes]:
        keys, found = [key for key in self.features if key.split(".")[0] == "action"], dict[int, bytes]()
        try:
            for _, line in _lines(self.root, EPISODE_STATS) if keys and self._has_episode_stats() else ():
                parts = [(line["stats"][key][name], kind) for key in keys for name, kind in OUTLINE.items()]
                with np.errstate(over="ignore"):
                    found[line["episode_index"]] = b"".join(np.asarray(*part).tobytes() for part in parts)
        except (LattokError, LookupError, ValueError, TypeError):  # said elsewhere: without them more rows are read
            return {}
        return found

    def all_statistics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from super().all_statistics()
        if self._has_episode_stats():
            entries = (line.get("stats") for _, line in _lines(self.root, EPISODE_STATS))
            yield EPISODE_STATS, together(entries, [*compared(self), *self.cameras])

    def _has_episode_stats(self) -> bool:
        return (self.root / EPISODE_STATS).is_file()

    def _check_files(self) -> None:
        """Check that long episodes can be in their files, and that each camera has places of its own."""
        table = self._table
        long = np.flatnonzero(table.lengths > FEW_ROWS).tolist()
        frames = {self.data_file(int(table.indices[row])): int(table.lengths[row]) for row in long}
        for path, size in self.files.sizes(frames).items():
            check_rows(path, frames[path], size, FEW_ROWS)
        if len({self._file("video_path", 0, 0, key) for key in self.videos}) < len(self.videos):
            path = self.root / INFO
            raise LattokError(f"{path}: `video_path`: expected a path for each camera, got one for several.")

    def check_copy(self, filled: bool) -> None:
        super().check_copy(filled)
        if filled and self._has_episode_stats():
            for _ in _lines(self.root, EPISODE_STATS):
                pass

    def finish(self, made: Path, new: NewColumns) -> None:
        """Measure again what was filled in, and what does not fit its rows; labels have no statistics by episode."""
        if not self._has_episode_stats():
            return
        copy, written, wrong = LeRobotV2(made), list[str](), Counter[str]()
        keys = [key for key in compared(copy) if key not in new.features]
        for _, line in _lines(self.root, EPISODE_STATS):
            index, stats = line.get("episode_index"), line.get("stats")
            if is_int(index) and isinstance(stats, dict):
                filled = [key for key, episodes in new.changed.items() if index in episodes]
                for key, right in _measured(copy, index, [*dict.fromkeys([*keys, *filled])]).items():
                    here, kind = key in filled, copy.features[key].dtype
                    if here or (key in stats and misfit(stats[key], right, whole=True, dtype=kind)):
                        stats[key] = {name: value.tolist() for name, value in right.items()}
                        wrong.update([] if here else [key])
            written.append(f"{json.dumps(line)}\n")
        if wrong or new.changed:
            write_text(made / EPISODE_STATS, "".join(written))
        note_renewed(EPISODE_STATS, {key: f" in {counted(count, 'episode')}" for key, count in wrong.items() if count})


def _runs(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Divide episodes into runs for a thread each: a few episodes, or one long one."""
    runs, rows = list[list[Episode]](), 0
    for episode in episodes:
        if not runs or len(runs[-1]) == RUN_EPISODES or rows + episode.length > SHORT:
            runs.append([])
            rows = 0
        runs[-1].append(episode)
        rows += episode.length
    return runs


def _measured(dataset: LeRobotV2, index: int, keys: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return statistics of columns of an episode as v2.1 has them, without those of which nothing is known."""
    found = {}
    with suppress(LattokError):  # it was copied as it is
        for key, values in dataset.columns(index, keys).items() if keys else ():
            rows = values.reshape(len(values), -1)
            if len(known := rows[np.isfinite(rows).all(1)]):
                stats = column_stats(known)
                found[key] = {name: stats[name] for name in STORED}
    return found


def _is_episode(line: dict[str, Any]) -> bool:
    """Tell quickly whether a line is right, as nearly all of a hundred thousand are; `typed` says what is wrong."""
    index, length, tasks = line.get("episode_index"), line.get("length"), line.get("tasks")
    right = is_int(index) and 0 <= index < 2**31 and is_int(length) and 0 <= length < 2**31
    return right and isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)


def _with_list(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line in which one instruction is a list of it."""
    return {**line, "tasks": [line["tasks"]]} if isinstance(line.get("tasks"), str) else line


class EpisodeList(EpisodeTable):
    """Episodes of meta/episodes.jsonl, each in files of its own, whose numbers are that of a folder and its index."""

    def __init__(self, root: Path, info: dict[str, Any], videos: Sequence[str], tasks: Sequence[str], fps: float):
        lines = ((where, _with_list(line)) for where, line in _lines(root, EPISODES))
        rows: list[dict[str, Any]] = [
            line if _is_episode(line) else dict(typed(line, EpisodeLine, "", where, AGAIN)) for where, line in lines
        ]
        if not rows:
            raise LattokError(f"{root / EPISODES} lists no episodes. {AGAIN}")
        for row in rows if len(tasks) == 1 else ():
            row.setdefault("tasks", list(tasks))  # the only one that there is
        if odd := next((row for row in rows if not {"episode_index", "length", "tasks"} <= row.keys()), None):
            raise LattokError(f"{root / EPISODES}: expected episode_index, length and tasks, got {odd!r:.80}. {AGAIN}")
        indices = np.array([row["episode_index"] for row in rows], dtype=np.int64)
        order = np.argsort(indices, kind="stable")
        self.indices = indices[order]
        if (np.diff(self.indices) == 0).any():
            raise LattokError(f"{root / EPISODES} lists an episode twice. {AGAIN}")
        self.lengths = np.array([row["length"] for row in rows], dtype=np.int64)[order]
        places = {"chunk_index": self.indices // info.get("chunks_size", CHUNK_EPISODES), "file_index": self.indices}
        spans = dict(zip(SPAN, (np.zeros(len(rows)), self.lengths / fps), strict=True))
        self.columns = {"length": self.lengths} | {f"data/{name}": places[name] for name in PLACE}
        for key in videos:
            self.columns |= {f"videos/{key}/{name}": values for name, values in {**places, **spans}.items()}
        self._stops: dict[str, np.ndarray] = {}
        self.missing = self._check_totals(root / INFO, info, "", EPISODES)
        kinds: dict[tuple[str, ...], int] = {}
        texts = (tuple(dict.fromkeys(rows[row]["tasks"])) for row in order.tolist())
        self._kind_of = np.array([kinds.setdefault(kind, len(kinds)) for kind in texts], dtype=np.int32)
        place = {task: number for number, task in enumerate(tasks)}
        self._kinds = [tuple(sorted(kind, key=lambda text: (place.get(text, len(place)), text))) for kind in kinds]
        self._leave_out_empty(EPISODES)

    def shared_spans(self, camera: str, fps: float) -> dict[int, int]:
        return {}  # a video is of one episode


def _lines(root: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield JSON objects, one a line, each with its place for errors."""
    path = safe_path(root, root / name, str(root / name))
    try:
        if name != EPISODE_STATS and path.stat().st_size > LIST_BYTES:
            raise LattokError(f"{path}: expected at most {LIST_BYTES >> 20} MB. Is this the right file?")
        with path.open("rb") as file:
            for number in count(1):
                if not (line := file.readline(JSON_BYTES + 1)):
                    return
                line = line.removeprefix(BOM_UTF8) if number == 1 else line
                if line.strip():
                    where = f"{path}, line {number}"
                    value = parse_json(line, where, nan=True)
                    yield where, value if isinstance(value, dict) else typed(value, dict[str, Any], "", where)
    except OSError as error:
        raise LattokError(f"cannot read {path}: {error.strerror}. {AGAIN}") from None
