"""LeRobot v3 datasets, read without the `lerobot` package: JSON and Parquet tables, videos by timestamp."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lattok.data import problems
from lattok.data.flaws import RATE_TOLERANCE, TOLERANCE
from lattok.data.formats.lerobot_meta import (
    INFO,
    PLACE,
    SPAN,
    STATS,
    EpisodeTable,
    file_of,
    is_depth,
    lance_tables,
    read_episode_statistics,
    read_features,
    read_info,
    read_outlines,
    read_tasks,
    restored_provenance,
    version_of,
)
from lattok.data.formats.video_times import read_times
from lattok.data.images import decode_image
from lattok.data.instructions import TASK
from lattok.data.problems import (
    DISORDERED,
    NO_TIMES,
    NOT_INCREASING,
    SHARED_SPAN,
    STRAYED,
    UNKNOWN_FILE,
    UNKNOWN_ROWS,
    short_video,
)
from lattok.data.schema import (
    DEPTH,
    EXPORTED,
    FAR_BELOW,
    IMAGE_DTYPES,
    JUDGES,
    LEROBOT_INDEX,
    NOTE,
    PROVENANCE,
    ManyColumns,
    holds,
    index_column,
    readable,
)
from lattok.data.statistics import renew_episodes, right_statistics
from lattok.data.summaries import Stats
from lattok.data.table_dataset import NewColumns, TableDataset
from lattok.data.tables import FEW_ROWS, ColumnReader, DataFile, check_rows, column_to_numpy, damaged_values, read_table
from lattok.data.video import BLOCK, decode_at, probe
from lattok.hub.fetching import LocalFiles
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError, counted, is_number, listed, note, refuse
from lattok.utils.files import read_json, write_json, write_text
from lattok.utils.findings import Finding
from lattok.utils.untrusted import inside, safe_path

MANY_FRAMES = 2**24  # of a dataset that lists more, every data file is looked at when it is opened
MAX_IMAGE_BYTES = 2**28
AS_BYTES = 'Write cells {"bytes": ..., "path": None}, or leave the camera out (`cameras`).'
ALONE = "If its Parquet files are LeRobot's, copy meta/, too, which is beside data/."
MESSAGES = "language_persistent"  # column of messages that hold from their time on
TIME_ROUNDING_S = 1e-4  # seconds that a stored time may be off
FILES_LOOKED_INTO = 64  # for rows of unknown episodes
SPLIT = re.compile(r"([0-9]{1,12}):([0-9]{1,12})")  # of `splits` in meta/info.json
TOTALS = ("total_episodes", "total_frames")  # in meta/info.json
MAX_UNWANTED = 4  # of a file with more times as many episodes as are wanted, those are read by themselves


def sample_dataset_path() -> Path:
    """Folder of the small dataset that comes with the package: 10 Meta-World tasks x 5 episodes, two cameras."""
    return Path(str(resources.files("lattok") / "assets" / "metaworld_sample"))


class LeRobotV3(TableDataset):
    """A LeRobot v3 dataset; see `lattok.data.RobotDataset` for what it offers."""

    kind = "lerobot"
    text = "LeRobot v3 (meta/info.json)"
    marked = columns_apart = videos_at_rate = True
    opens_with = ("meta/*",)

    def __init__(self, root: Path, name: str | None = None, files: LocalFiles | None = None):
        self.root, self.files = root, files or LocalFiles()
        self.name = name or root.resolve().name
        self.info = self._read_info()
        self.fps = float(self.info["fps"])
        self.robot = self.info.get("robot_type")
        every = read_features(root, self.info)
        self.depth = {key: feature for key, feature in every.items() if is_depth(key, self.info["features"][key])}
        self.left_out = dict.fromkeys(self.depth, DEPTH)
        self.features = {key: feature for key, feature in every.items() if key not in self.depth}
        self.cameras = tuple(key for key, feature in self.features.items() if feature.dtype in IMAGE_DTYPES)
        self.videos = tuple(key for key in self.cameras if self.features[key].dtype == "video")
        if self.videos and not self.info.get("video_path"):
            raise LattokError(f"{root / 'meta' / 'info.json'}: missing video_path. Copy the dataset again.")
        self.tasks = self._read_tasks()
        self.episodes = self._table = self._read_episodes(self.videos)
        self.damaged, self.findings = self._table.missing, self._table.findings
        self._split()
        self._files: dict[tuple[str | int, ...], Path] = {}  # by field and place, once they are known to be inside
        self._folders: set[str] = set()  # that are known to be inside
        self._shared: dict[str, dict[int, int]] = {}  # by camera, see `shared_spans`
        self._counts: dict[Path, int] = {}  # frames of films whose rows have other times
        self._clocks: dict[Path, np.ndarray | None] = {}  # of films, see `clock`
        self._check_files()
        self._reader = ColumnReader(self.files)

    def _split(self) -> None:
        """Hold out what `splits` of info.json says, and say which there are, if any but one of all episodes."""
        given = self.info.get("splits")
        spans = {name: SPLIT.fullmatch(str(span)) for name, span in (given if isinstance(given, dict) else {}).items()}
        splits = {readable(name): range(int(span[1]), int(span[2])) for name, span in spans.items() if span}
        if len(splits) < 2:
            self.held_out = self._exported_split()
            return
        judge = next((name for name in JUDGES if name in splits), "")
        inside = [episode.index for episode in self.episodes if episode.index in splits.get(judge, ())]
        self.held_out = tuple(inside) if len(inside) < len(self.episodes) else ()
        counts = {name: sum(episode.index in span for episode in self.episodes) for name, span in splits.items()}
        first, *_ = splits.values()
        way_out = f"`episodes` {first.start}:{first.stop}."
        self.findings += (problems.own_splits("meta/info.json", counts, judge if self.held_out else "", way_out),)

    def _exported_split(self) -> tuple[int, ...]:
        """Return what the dataset held out that this one is an export of; its splits may be no ranges."""
        path = self.root / EXPORTED
        said = read_json(path).get("held_out") if path.is_file() else None
        inside = {each for each in said if checks.is_int(each)} if isinstance(said, list) else set()
        return tuple(episode.index for episode in self.episodes if episode.index in inside)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        others = version_of(folder).startswith("v2.") or lance_tables(folder)
        return [folder] if (folder / INFO).is_file() and not others else ()

    @classmethod
    def hint(cls, folder: Path) -> str:
        if folder.name == "meta" and (folder / "info.json").is_file():
            return "Give the folder that holds `meta`."
        named = any((folder / "meta" / name).exists() for name in ("tasks.parquet", "episodes", "stats.json"))
        if not named and holds(folder, (".parquet",), FAR_BELOW):
            return ALONE
        return "LeRobot's meta/info.json is missing: copy the dataset again." if named else ""

    # what other versions keep otherwise

    place_fields: ClassVar[tuple[str, str]] = PLACE  # of paths: what they call the number of a folder, and of a file

    def _read_info(self) -> dict[str, Any]:
        return read_info(self.root, ("v3.",), self.place_fields)

    def _read_tasks(self) -> tuple[str, ...]:
        return read_tasks(self.root)

    def _read_episodes(self, videos: Sequence[str]) -> EpisodeTable:
        return EpisodeTable(self.root, self.info, videos, self.tasks)

    @cached_property
    def subtask_texts(self) -> tuple[str, ...]:
        """Texts of sub-tasks by `subtask_index`; none where meta/ has no list of them."""
        listed = "subtask_index" in self.features and (self.root / "meta" / "subtasks.parquet").is_file()
        return read_tasks(self.root, "subtask") if listed else ()

    def subtasks(self, episode_index: int) -> list[str] | None:
        """Read them from `subtask_index`, else from messages of style "subtask", each of which holds until the next."""
        if texts := self.subtask_texts:
            numbers = self.columns(episode_index, ["subtask_index"])["subtask_index"]
            if numbers.max(initial=-1) >= len(texts):
                where = f"{self.data_file(episode_index)}: `subtask_index` of episode {episode_index}"
                refuse(where, f"at most {len(texts) - 1}", numbers.max(), "Copy the file again.")
            return [texts[number] if number >= 0 else "" for number in numbers.tolist()]
        if MESSAGES not in self.features:
            return None
        cells = self.columns(episode_index, [MESSAGES])[MESSAGES]
        return [_spoken(cell, time) for cell, time in zip(cells, self._times(episode_index).tolist(), strict=True)]

    def shared_spans(self, camera: str) -> Mapping[int, int]:
        if camera not in self._shared:
            self._shared[camera] = self._table.shared_spans(camera, self.fps) if camera in self.videos else {}
        return self._shared[camera]

    def data_file(self, episode_index: int) -> Path:
        """Return the Parquet file that holds the rows of an episode."""
        row = self._episode_row(episode_index)
        return self._file("data_path", *(self._table.value(row, f"data/{name}") for name in PLACE))

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return (self.data_file(episode_index), *(self.video_span(episode_index, key)[0] for key in self.videos))

    def outlines(self) -> dict[int, bytes]:
        return read_outlines(self.root, [key for key in self.features if key.split(".")[0] == "action"])

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        return self._span(self._table, episode_index, camera)

    def depth_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        return self._span(self._depth_table, episode_index, camera)

    @cached_property
    def _depth_table(self) -> EpisodeTable:
        videos = [key for key, feature in self.depth.items() if feature.dtype == "video"]
        return self._read_episodes(videos)

    def _span(self, table: EpisodeTable, episode_index: int, camera: str) -> tuple[Path, float, float]:
        row = self._episode_row(episode_index)  # the same in all tables
        chunk, file, start, _ = (table.value(row, f"videos/{camera}/{name}") for name in PLACE + SPAN)
        return self._file("video_path", chunk, file, camera), start, float(table.stops(camera, self.fps)[row])

    def _file(self, field: str, chunk: int, file: int, camera: str | None = None) -> Path:
        known = (field, chunk, file, camera or "")
        if known not in self._files:
            key = {} if camera is None else {"video_key": camera}
            numbers = dict(zip(self.place_fields, (chunk, file), strict=True))
            self._files[known] = file_of(self.root, self.info, field, self._folders, **key, **numbers)
        return self._files[known]

    def _check_files(self) -> None:
        """Check that every data file has a path of its own, and room for the frames that meta/episodes lists in it."""
        lengths, info = self._table.lengths, self.root / "meta" / "info.json"
        places = pa.table({name: self._table.columns[f"data/{name}"] for name in PLACE} | {"frames": lengths})
        known: dict[Path, int] = {}  # frames
        for place in places.group_by([*PLACE], use_threads=False).aggregate([("frames", "sum")]).to_pylist():
            path = self._file("data_path", place["chunk_index"], place["file_index"])
            if path in known:
                raise LattokError(f"{info}: `data_path`: expected a path for each file, got {path.name} for several.")
            known[path] = place["frames_sum"]
        few = 0 if lengths.sum() > MANY_FRAMES else FEW_ROWS
        for path, size in self.files.sizes(path for path, count in known.items() if count > few).items():
            check_rows(path, known[path], size, few)
        if len({self._file("video_path", 0, 0, key) for key in self.videos}) < len(self.videos):
            raise LattokError(f"{info}: `video_path`: expected a path for each camera, got one for several.")

    def episode_rows(self, path: Path) -> dict[int, tuple[int, int]]:
        """Rows [first, last) of every episode in a data file, in the file's order."""
        return self._reader.rows(path)

    def by_data_file(self, indices: Sequence[int] | None = None) -> dict[Path, list[int]]:
        """Episodes (all by default) of every data file, by index; files in the order of their first episode."""
        table = self._table
        chosen = None if indices is None else [self._episode_row(i) for i in sorted(indices)]
        rows = np.arange(len(table)) if chosen is None else np.array(chosen, dtype=np.int64)  # of none, too
        chunks, files = (table.columns[f"data/{name}"][rows].tolist() for name in PLACE)
        found: dict[tuple[int, int], list[int]] = {}
        for chunk, file, index in zip(chunks, files, table.indices[rows].tolist(), strict=True):
            found.setdefault((chunk, file), []).append(index)
        return {self._file("data_path", chunk, file): found[chunk, file] for chunk, file in found}

    def columns_of(self, episodes: Sequence[Episode], keys: Sequence[str], checked: bool = True) -> ManyColumns:
        """A file with few other episodes is read whole, in a tenth of the time; a damaged one episode by episode."""
        left = {episode.index: episode for episode in episodes}
        for path, members in self.by_data_file(list(left)).items():
            try:
                places = self.episode_rows(path)
                if MAX_UNWANTED * len(members) < len(places):
                    continue
                file = self._file_with(path, keys)
                file.check_types({key: self.features[key] for key in keys})
                table = file.whole(keys)
                stored = {key: column_to_numpy(table[key], self.features[key], f"{path}: `{key}`") for key in keys}
            except LattokError:
                continue
            for index in members:
                first, last = places.get(index, (0, 0))
                if last - first == left[index].length and index not in self._reader.disordered(path):
                    del left[index]
                    yield index, {key: values[first:last] for key, values in stored.items()}
        yield from super().columns_of(list(left.values()), keys)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        checks.names("keys", keys)
        path, first, last = self._rows(episode_index)
        listed = self._table[self._episode_row(episode_index)].tasks  # of an only one rows may say nothing
        lacks = TASK in keys and TASK not in self._reader.file(path).names and len(listed) == 1
        own = [key for key in keys if key != TASK or not lacks]
        self._file_with(path, own).check_types({key: self.features[key] for key in own})
        read = {
            key: column_to_numpy(self._reader.read(path, key, first, last), self.features[key], f"{path}: `{key}`")
            for key in own
        }
        return read | ({TASK: np.full(last - first, self.tasks.index(listed[0]))} if lacks else {})

    def stored(self, episode_index: int, keys: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Columns of one episode as Arrow holds them, whether they are declared or not."""
        path, first, last = self._rows(episode_index)
        self.check_columns(keys, self._reader.file(path).names, f"Looked in {path}.")
        return {key: self._reader.read(path, key, first, last) for key in keys}

    def _file_with(self, path: Path, keys: Sequence[str]) -> DataFile:
        file = self._reader.file(path)
        self.check_columns(keys, [name for name in file.names if name in self.features], f"Looked in {path}.")
        return file

    def schemas(self, indices: Sequence[int]) -> dict[Path, pa.Schema]:
        """Schemas of the data files that hold these episodes, as far as they can be read."""
        found = {}
        for path in self.by_data_file(indices):
            with suppress(LattokError):  # said where its rows are read
                found[path] = self._reader.file(path).schema
        return found

    def _rows(self, episode_index: int) -> tuple[Path, int, int]:
        """Find the data file of an episode and its rows [first, last) in it: as many as meta/episodes says."""
        path, length = self.data_file(episode_index), self._table.value(self._episode_row(episode_index), "length")
        first, last = self._reader.rows(path).get(episode_index, (0, 0))
        if episode_index in self._reader.disordered(path):
            found = DISORDERED.finding([episode_index], file=path, episode=episode_index)
            raise LattokError(str(found))
        if last - first != length:
            hint = "The file is not the one that meta/episodes describes: copy the dataset again."
            if (other := self._also_in(episode_index, path)) is not None:
                hint = f"Others are in {other}: write all rows of an episode into one file."
            refuse(path, f"{counted(length, 'row')} of episode {episode_index}", last - first, hint)
        return path, first, last

    def _also_in(self, episode_index: int, path: Path) -> Path | None:
        """Find another data file with rows of an episode, of those that are next to its own."""
        files = self.data_files()
        place = files.index(path)
        for other in (*files[place + 1 : place + 2], *files[max(place - 1, 0) : place]):
            with suppress(LattokError):
                if episode_index in self._reader.rows(other):
                    return other
        return None

    def data_files(self) -> list[Path]:
        return list(self.by_data_file())

    def label_layout(self) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
        """Yield data files with the rows of their episodes, which must agree with meta/episodes."""
        lengths = {episode.index: episode.length for episode in self.episodes}
        files = {path: {index: lengths[index] for index in indices} for path, indices in self.by_data_file().items()}
        if orphans := self._orphans():
            way_out = "Remove it, or copy the dataset again."
            raise LattokError(f"{orphans[0]} belongs to no episode of meta/episodes. {way_out}")
        for file, expected in files.items():
            rows = self.episode_rows(file)
            if {index: last - first for index, (first, last) in rows.items()} != expected:
                odd = min(i for i in {*rows, *expected} if i not in rows or np.diff(rows[i]) != expected.get(i))
                raise LattokError(f"{file} and meta/episodes disagree on episode {odd}. Copy the dataset again.")
            yield file.relative_to(self.root).as_posix(), [(index, *span) for index, span in rows.items()]

    def _orphans(self) -> list[Path]:
        return sorted(set((self.root / "data").rglob("*.parquet")) - set(self.by_data_file()))

    def file_findings(self) -> Iterator[Finding]:
        """Find data files, and rows in them, that meta/episodes does not list."""
        yield from (UNKNOWN_FILE.finding(file=path) for path in self._orphans())
        for number, (path, episodes) in enumerate(islice(self.by_data_file().items(), FILES_LOOKED_INTO)):
            with suppress(LattokError):  # a file that cannot be read is reported with its values
                if number == 0 and not self._is_timed(path):
                    yield NO_TIMES.finding(file=path, fps=self.fps)
                if unknown := sorted(set(self.episode_rows(path)) - set(episodes)):
                    yield UNKNOWN_ROWS.finding(file=path, episode=unknown[0])

    def provenance(self) -> tuple[dict[str, Any], Path]:
        """Read meta/lattok.json, or its copy beside the columns in meta/info.json: LeRobot's tools drop the file."""
        if (self.root / PROVENANCE).is_file():
            return super().provenance()
        info = read_json(inside(self.root, INFO, str(self.root)))
        return restored_provenance(info, self.name), self.root / INFO

    def all_statistics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if (stored := self.statistics()) is not None:
            yield STATS, stored

    def statistics(self) -> dict[str, Any] | None:
        path = self.root / STATS
        return read_json(safe_path(self.root, path, str(path)), nan=True) if path.exists() else None

    def episode_statistics(self, keys: Sequence[str]) -> dict[int, dict[str, Stats]]:
        return read_episode_statistics(self.root, keys)

    def check_copy(self, filled: bool) -> None:
        if (self.root / PROVENANCE).exists():
            read_json(inside(self.root, PROVENANCE, str(self.root)))
        self.statistics()
        for path in (self.root / "meta" / "episodes").rglob("*.parquet") if filled else ():
            read_table(path)

    def declare(self, made: Path, new: NewColumns) -> set[str]:
        info = read_json(inside(self.root, INFO, str(self.root)))
        for key, feature in new.features.items():
            names = feature.names and list(feature.names)
            info["features"].setdefault(key, {"dtype": feature.dtype, "shape": list(feature.shape), "names": names})
        for key, facts in new.notes.items():
            info["features"][key][NOTE] = facts
        write_json(made / INFO, info, indent=4)
        stored = self.statistics()
        if stored is None:
            return {INFO}
        right, averaged = right_statistics(self, stored)
        note_renewed(STATS, {key: "" for key in right if key not in new.statistics})
        if kept := [f"`{key}`" for key in averaged if key not in new.statistics]:
            note(f"{STATS}: quantiles of {listed(kept)} were averages of those of episodes: the output has right ones")
        # NaN stays NaN, as LeRobot wrote it
        write_text(made / STATS, json.dumps({**stored, **right, **averaged, **new.statistics}, indent=4))
        return {INFO, STATS}

    def finish(self, made: Path, new: NewColumns) -> None:
        written = [key for key in new.features if key not in new.changed]
        wrong = renew_episodes(LeRobotV3(made), written, new.changed)
        note_renewed(
            "meta/episodes", {key: f" in {counted(count, 'episode')}" for key, count in wrong.items() if count}
        )

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        if camera in self.videos:
            return None
        return [data for data, _ in self._stored_images(episode_index, camera, np.arange(self.length(episode_index)))]

    def _stored_images(self, episode_index: int, key: str, indices: np.ndarray) -> Iterator[tuple[bytes, str]]:
        """Yield encoded images of one camera, bytes or files of the dataset, each with its place for errors."""
        path, first, _ = self._rows(episode_index)
        for index in indices.tolist():
            where = f"{path}: `{key}` of episode {episode_index}, frame {index}"
            column = self._reader.read(path, key, first + index, first + index + 1)
            with damaged_values(where):
                (cell,) = column.to_pylist()
            yield self._image(cell, where), where

    def _image(self, cell: Any, where: str) -> bytes:
        data, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
        if isinstance(data, bytes) and data:
            return data
        if isinstance(cell, list):
            raise LattokError(f"{where}: expected an image as PNG or JPEG, got numbers. {AS_BYTES}")
        if not isinstance(name, str):
            raise LattokError(f"{where}: expected an image, got something else. Copy the file again.")
        file = inside(self.root, name, where)
        try:
            with self.files.at_hand(file) as file:
                if file.stat().st_size > MAX_IMAGE_BYTES:
                    raise LattokError(f"{where}: expected an image, got {file} of {file.stat().st_size:,} bytes.")
                return file.read_bytes()
        except OSError as error:
            raise LattokError(f"{where}: cannot read {file} ({error.strerror}). Copy the dataset again.") from None

    def length(self, episode_index: int) -> int:
        _, first, last = self._rows(episode_index)
        return last - first

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        if self.features[camera].dtype == "image":
            for i in range(0, len(indices), BLOCK):
                stored = self._stored_images(episode_index, camera, indices[i : i + BLOCK])
                images = (decode_image(data, where) for data, where in stored)
                yield from (np.stack(list(same)) for _, same in groupby(images, key=np.shape))
            return
        path, start, times = self._shown(episode_index, camera)
        with self.files.at_hand(path) as place:
            yield from decode_at(place, start + times[indices], self.fps)

    def _shown(self, episode_index: int, camera: str) -> tuple[Path, float, np.ndarray]:
        """Return the film of an episode, where in it the episode begins, and when its frames are shown from there [T],
        in seconds."""
        path, start, stop = self.video_span(episode_index, camera)
        if (other := self.shared_spans(camera).get(episode_index)) is not None:
            shared = SHARED_SPAN.finding(episode=episode_index, other=other, camera=camera, file=path)
            raise LattokError(str(shared))
        times = by_number(self._times(episode_index).astype(np.float64), self.fps)
        even = np.arange(len(times)) / self.fps
        if not abs(times[-1] - even[-1]) < STRAYED / self.fps and start == 0 and self._has_frames(path, len(times)):
            return path, start, even
        if (shown := self.clock(episode_index, camera)) is not None:
            return path, start, shown
        if not (np.diff(times) > 0).all() or not 0 <= times[0] <= times[-1] < 1e9:
            what = f"`timestamp` of episode {episode_index}: {NOT_INCREASING}"
            raise LattokError(f"{self.data_file(episode_index)}: {what}. Write it again, or see `lattok repair`.")
        # what follows in the file are frames of the next episode
        if problem := short_video(episode_index, camera, times[-1], stop - start, self.fps):
            raise LattokError(str(problem))
        return path, start, times

    def clock(self, episode_index: int, camera: str) -> np.ndarray | None:
        """Return when the frames of an episode are shown [T], from where it begins in its film, if that has a frame for
        each row of all its episodes and goes apart from their times, as 29.97 frames a second do from 30."""
        path, start, _ = self.video_span(episode_index, camera)
        before, count = self._table.frames_in_video(camera, self._episode_row(episode_index))
        if path not in self._clocks:
            with self.files.at_hand(path) as place:
                apart = abs(probe(place).fps / self.fps - 1)
                times = read_times(place).times if TOLERANCE / count < apart <= RATE_TOLERANCE else np.empty(0)
            late = np.ptp(times) * self.fps - (count - 1) if len(times) == count else 0.0  # frames, at the end
            self._clocks[path] = times if abs(late) > TOLERANCE else None
        times = self._clocks[path]
        return None if times is None else times[before : before + self.length(episode_index)] - start

    def _has_frames(self, path: Path, count: int) -> bool:
        """Return whether a film of one episode has a frame for each of its rows, whose clock is another one then."""
        if path not in self._counts:
            with self.files.at_hand(path) as place:
                self._counts[path] = len(read_times(place).times)
        if self._counts[path] == count:
            note(f"{self.name}: rows have other times than their films, which show a frame for each: taken by number")
        return self._counts[path] == count

    def _times(self, episode_index: int) -> np.ndarray:
        """Read when an episode's frames are shown [T]; of all in the file, as opening it takes longer than a clip."""
        path, first, last = self._rows(episode_index)
        if not self._is_timed(path):
            return index_column("timestamp", last - first, episode_index, 0, self.fps)
        if (column := self._reader.column(path, "timestamp")) is None:
            return self.columns(episode_index, ["timestamp"])["timestamp"]
        feature = self.features.get("timestamp", LEROBOT_INDEX["timestamp"])
        return column_to_numpy(column.slice(first, last - first), feature, f"{path}: `timestamp`")

    def _is_timed(self, path: Path) -> bool:
        """Return whether a file says when frames are shown; scripts leave `timestamp` out of rows and info.json."""
        return "timestamp" in self.features or "timestamp" in self._reader.file(path).schema.names

    def _episode_row(self, episode_index: int) -> int:
        row = self._table.row(episode_index)
        return self.no_episode(episode_index) if row is None else row


def by_number(times: np.ndarray, fps: float) -> np.ndarray:
    """Return frame / fps for times [T] of a clock that strays by less than a frame, and so goes back: others as they
    are."""
    even = np.arange(len(times)) / fps
    astray = bool((np.diff(times) <= 0).any()) and bool((np.abs(times - even) < STRAYED / fps).all())
    return even if astray else times


def tolerant(kind: type[LeRobotV3]) -> type[LeRobotV3]:
    """Return a reader of LeRobot datasets that neither compares the totals of meta/info.json nor needs a list of
    instructions: episodes have theirs."""

    class Tolerant(kind):
        def _read_info(self) -> dict[str, Any]:
            return {key: value for key, value in super()._read_info().items() if key not in TOTALS}

        def _read_tasks(self) -> tuple[str, ...]:
            try:
                return super()._read_tasks()
            except LattokError:
                return ()

    return Tolerant


def note_renewed(place: str, wrong: Mapping[str, str]) -> None:
    if wrong:
        named = listed(f"`{key}`{where}" for key, where in wrong.items())
        note(f"{place}: statistics of {named} were those of other rows: the output has those of its own")


def _spoken(cell: Any, time: float) -> str:
    """Return the sub-task that the messages of a frame name last before `time`."""
    found = (0.0, "")
    for message in cell if isinstance(cell, list) else []:
        if isinstance(message, dict) and message.get("style") == "subtask" and is_number(message.get("timestamp")):
            when, text = message["timestamp"], message.get("content")
            if found[0] <= when <= time + TIME_ROUNDING_S and isinstance(text, str):
                found = (when, text)
    return found[1]
