"""Writes LeRobot v3 datasets without the `lerobot` package; LeRobot 0.4 and later open them unchanged.

.<name>.writing/lock       held by the writer at work, and the mark that the folder is its own
.<name>.writing/dataset/   takes the target's place when it is finished
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.data.image_writer import (
    IMAGE_TYPE,
    VIDEO_PATH,
    EpisodeFrames,
    Frames,
    RollingVideos,
    VideoCopies,
    VideoSpan,
)
from lattok.data.schema import (
    IMAGE_DTYPES,
    INDEX_FEATURES,
    INDEX_KEYS,
    LEROBOT_INDEX,
    NONE,
    NOTE,
    Feature,
    index_column,
)
from lattok.data.summaries import RowSample, Stats, column_stats, merge_stats
from lattok.data.tables import RollingTables, of_type, to_arrow
from lattok.data.video import CODEC_OF, CODECS, check_codec
from lattok.data.writers import DatasetWriter, Extra
from lattok.utils import checks
from lattok.utils.files import sync_files, write_json
from lattok.utils.output import Output
from lattok.utils.untrusted import is_file_name

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
NUMBERS = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float32", "float64")
DTYPES = (*IMAGE_DTYPES, "string", *NUMBERS)
Column = np.ndarray | pa.ChunkedArray
SIZES = ("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb")  # in info.json
EPISODES_PER_WRITE = 100
STATS_PER_MERGE = 256


class LeRobotWriter(DatasetWriter):
    """Writes one dataset: `create`, `add_episode` for each episode, `finalize`. In a `with`, an error removes it."""

    kind = "lerobot"
    text = "LeRobot v3"
    stores = ("video", "image")
    carries = True

    def __init__(
        self,
        root: Path,
        features: dict[str, Feature],
        info: dict[str, Any],
        encoder: tuple[str, int | None],
        kept: dict[str, pa.DataType],
    ):
        """Use `create`, which checks its arguments."""
        self.root, self._info, self._kept = root, info, kept
        self._fps, self._codec = info["fps"], encoder[0]
        seen = (key for key, feature in features.items() if feature.dtype in IMAGE_DTYPES)
        self._cameras = [key for key in seen if key not in kept]
        self._features = features | LEROBOT_INDEX
        self._columns = [key for key in self._features if key not in self._cameras]
        self._output = Output(root, "root", "writing")
        self._folder = self._output.made
        self._tasks: dict[str, int] = {}
        self._frames = self._episodes = 0
        self._stats: dict[str, list[Stats]] = {}
        self._samples: dict[str, RowSample] = {}
        chunk_files, data_mb, video_mb = (info[name] for name in SIZES)
        self._data = RollingTables(self._folder, DATA_PATH, chunk_files, data_mb)
        self._meta = RollingTables(self._folder, EPISODES_PATH, chunk_files, data_mb)
        self._rows: list[dict[str, Any]] = []
        self.notes: Mapping[str, Mapping[str, Any]] = {}  # facts about columns, for info.json
        self.told: Mapping[str, Mapping[str, Any]] = {}  # further parts of their entries there, also of copied videos
        self.told_of_all: Mapping[str, Any] = {}  # further entries of info.json itself
        self._copies: dict[str, VideoCopies] = {}
        encoded, options = (key for key in self._cameras if features[key].dtype == "video"), (chunk_files, video_mb)
        self._videos = {key: RollingVideos(self._folder, key, self._fps, *encoder, *options) for key in encoded}

    @classmethod
    def create(
        cls,
        root: str | Path,
        fps: float,
        features: Mapping[str, Feature],
        robot_type: str | None = None,
        video_codec: str = "libsvtav1",
        chunk_files: int = 1000,
        data_file_mb: float = 100,
        video_file_mb: float = 200,
        encoder_threads: int | None = None,
        kept: Mapping[str, pa.DataType] | None = None,
    ) -> "LeRobotWriter":
        """Start a dataset at `root`, which must not exist.

        `features` are the recorded ones; LeRobot's index columns are added. Cameras have shape (H, W, 3) and dtype
        "video", with even H and W, or "image": every frame is then kept without loss in the data files. A file is
        closed once it is larger than its limit; `chunk_files` files per folder. `kept` has the Arrow types of columns
        that are stored unchanged (`pyarrow.ChunkedArray`): neither numbers nor text, such as "language".
        """
        root = Path(root).expanduser()
        checks.frame_rate(fps=fps)
        checks.positive(chunk_files=chunk_files, data_file_mb=data_file_mb, video_file_mb=video_file_mb)
        checks.one_of("video_codec", video_codec, CODECS)
        Output(root, "root").check_absent()
        for key, feature in features.items():
            _check_feature(key, feature, key in (kept or {}))
        folders: dict[str, str] = {}  # of cameras; some systems do not tell upper case from lower
        for key in (key for key, feature in features.items() if feature.dtype == "video"):
            check_codec(video_codec, features[key].shape[:2])
            if (other := folders.setdefault(key.casefold(), key)) != key:
                checks.fail("features", "cameras with different names", f"{other!r} and {key!r}")
        info = dict(zip(SIZES, (chunk_files, data_file_mb, video_file_mb), strict=True)) | {"robot_type": robot_type}
        info["fps"] = int(fps) if float(fps).is_integer() else fps  # LeRobot keeps a whole number where it can
        writer = cls(root, dict(features), info, (video_codec, encoder_threads), dict(kept or {}))
        writer._output.hold()
        shutil.rmtree(writer._folder, ignore_errors=True)  # what a killed one left
        writer._folder.mkdir()
        return writer

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finalize()
        else:
            self._end()

    def add_episode(
        self,
        columns: Mapping[str, np.ndarray | pa.ChunkedArray],
        frames: Mapping[str, Frames],
        task: str | Sequence[str],
        length: int | None = None,
        videos: Mapping[str, VideoSpan] = NONE,
        stats: Mapping[str, Stats] = NONE,
    ) -> None:
        """Append an episode of T frames: columns [T, *shape] ([T] for shape (1,)), frames uint8 [T, H, W, 3].

        Frames may also be an iterator of blocks uint8 [n, H, W, 3], so that a long video is never in memory as a whole;
        or, for a camera of dtype "image", T encoded JPEG or PNG images (bytes), stored as they are; or a `Clip`, which
        is not encoded again. `length` is T, where nothing else shows it. `task` is one instruction, or one per frame.
        `videos` are of cameras whose files are copied whole, `stats` of what is not measured here.
        """
        length = self._check_episode(columns, frames, length)
        columns = {key: self._declared(key, given) for key, given in columns.items()}
        tasks = [task] * length if isinstance(task, str) else list(task or ())
        if not all(isinstance(text, str) for text in tasks) or not tasks:
            checks.fail("task", 'an instruction, "" where there is none', repr(task))
        checks.size("task", "instructions, one per frame", len(tasks), length)
        seen = {key: EpisodeFrames(key, self._features[key].shape, frames[key], length) for key in self._cameras}
        stored = {key: seen[key].images() for key in self._cameras if key not in self._videos}
        images = {key: pa.array([{"bytes": each} for each in stored[key]], IMAGE_TYPE) for key in stored}
        places = [video.write(seen[key]) for key, video in self._videos.items()]
        # from here on nothing that was given can be wrong
        values = self._values(columns, length, [self._tasks.setdefault(text, len(self._tasks)) for text in tasks])
        kept = {key: of_type(key, columns[key], kind) for key, kind in self._kept.items()}  # type: ignore[arg-type]
        for key, span in videos.items():
            copies = self._copies.setdefault(key, VideoCopies(self._folder, key, self._info["chunks_size"]))
            places.append(copies.write(span))
        chunk, file = self._data.write(self._table(values, images, kept))
        row = {"episode_index": self._episodes, "tasks": list(dict.fromkeys(tasks)), "length": length}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": self._frames, "dataset_to_index": self._frames + length}
        for place in places:
            row |= place
        stats = {**stats, **{key: camera.stats() for key, camera in seen.items()}}
        measured = [key for key in self._columns if key in values and self._features[key].dtype != "string"]
        stats |= {key: column_stats(values[key]) for key in measured}
        for key in measured:
            self._samples.setdefault(key, RowSample()).add(values[key])
        for key, part in stats.items():
            row |= {f"stats/{key}/{name}": value.tolist() for name, value in part.items()}
            kept = [*self._stats.get(key, []), part]
            self._stats[key] = kept if len(kept) < STATS_PER_MERGE else [merge_stats(kept)]
        self._rows.append(row)
        self._episodes += 1
        self._frames += length
        if len(self._rows) >= EPISODES_PER_WRITE:
            self._write_rows()

    def add_whole_episode(
        self,
        columns: Mapping[str, Any],
        frames: Mapping[str, Frames],
        task: str | Sequence[str],
        length: int,
        extra: Extra,
    ) -> None:
        self.add_episode(columns, frames, task, length, *extra)

    def carry(
        self, notes: Mapping[str, Any], told: Mapping[str, Mapping[str, Any]], told_of_all: Mapping[str, Any]
    ) -> None:
        self.notes, self.told, self.told_of_all = notes, told, told_of_all

    def write_meta(self, name: str, value: Mapping[str, Any]) -> None:
        """Put a JSON file of your own next to info.json, e.g. `write_meta("source.json", {...})`."""
        write_json(self._folder / "meta" / name, value, indent=4)

    def number_tasks(self, texts: Sequence[str]) -> None:
        self._tasks = {text: number for number, text in enumerate(texts)}

    def write_subtasks(self, texts: Sequence[str]) -> None:
        """List the texts that the numbers of a column `subtask_index` stand for."""
        write_tasks(self._folder, texts, "subtask")

    def finalize(self) -> Path:
        """Close all files and give the folder its name; on any failure nothing is left. Returns `root`."""
        try:
            if not self._episodes:
                raise checks.LattokError("nothing to write: call `add_episode` before `finalize`.")
            self._write_rows()
            for files in (self._data, self._meta, *self._videos.values()):
                files.close()
            write_tasks(self._folder, list(self._tasks))
            self.write_meta("info.json", self._facts())
            merged = {key: merge_stats(parts) for key, parts in self._stats.items()}
            for key, sample in self._samples.items():  # of rows, not of episodes
                merged[key] |= sample.quantiles()
            stats = {key: {name: value.tolist() for name, value in part.items()} for key, part in merged.items()}
            self.write_meta("stats.json", stats)
            self._output.check_absent()
            sync_files(self._folder)
            self._output.publish()
        finally:
            self._end()
        return self.root

    def _end(self) -> None:
        """Remove what is not published, and let others write here."""
        if self._output.held:  # otherwise what is there is another writer's
            self._output.remove()
            self._output.release()

    def _check_episode(self, columns: Mapping[str, Column], frames: Mapping[str, Frames], length: int | None) -> int:
        """Check that all is given, of one length and the declared shapes, and nothing else. Return the length."""
        expected = [key for key in self._columns if key not in INDEX_KEYS]
        if set(columns) != set(expected):
            checks.fail("columns", ", ".join(expected) or "none", ", ".join(columns) or "none")
        if set(frames) != set(self._cameras):
            checks.fail("frames", ", ".join(self._cameras) or "none", ", ".join(frames) or "none")
        for key, value in frames.items():
            if not isinstance(value, Iterator) and not hasattr(value, "__len__"):
                checks.fail(key, "an array, a list of encoded images, a clip or blocks", type(value).__name__)
        lengths = {len(value) for value in (*columns.values(), *frames.values()) if not isinstance(value, Iterator)}
        lengths |= set() if length is None else {length}
        if len(lengths) != 1 or 0 in lengths:
            checks.fail("columns", "arrays and frames of one length of at least 1", f"lengths {sorted(lengths)}")
        (length,) = lengths
        for key, value in {**columns, **frames}.items():
            shape = self._features[key].shape
            allowed = [(length,), (length, 1)] if shape == (1,) else [(length, *shape)]
            if key in self._kept:
                if not isinstance(value, pa.ChunkedArray):
                    checks.fail(key, "a pyarrow.ChunkedArray", type(value).__name__)
            elif (key in columns or isinstance(value, np.ndarray)) and np.shape(value) not in allowed:
                checks.fail(key, f"shape {list(allowed[0])}", f"{list(np.shape(value))}")
        return length

    def _declared(self, key: str, given: Column) -> Any:
        """Return a column in its declared type; refuse what that cannot hold. Fractions may be rounded."""
        dtype = self._features[key].dtype
        if key in self._kept:
            return given
        if dtype == "string":
            values = np.asarray(given, dtype=object)
            if not all(each is None or isinstance(each, str) for each in values.flat):
                checks.fail(key, "texts, or None", "something else")
            return values
        try:
            values = np.asarray(given)
            with np.errstate(all="ignore"):
                made = values.astype(dtype)
                kept = np.isfinite(made) == np.isfinite(values) if made.dtype.kind == "f" else made == values
        except (TypeError, ValueError, OverflowError):
            checks.fail(key, f"numbers that are {dtype}", f"{np.asarray(given, dtype=object).flat[0]!r:.40}")
        if not np.all(kept):
            odd = values[~np.broadcast_to(kept, values.shape)].flat[0]
            checks.fail(key, f"numbers that {dtype} can hold", f"{odd}", "Declare the column with another dtype.")
        return made

    def _values(self, columns: Mapping[str, Column], length: int, tasks: list[int]) -> dict[str, np.ndarray]:
        """Return the columns of numbers and texts, and LeRobot's index columns."""
        values = {key: index_column(key, length, self._episodes, 0, self._fps) for key in INDEX_FEATURES}
        values |= {"index": self._frames + np.arange(length), "task_index": np.array(tasks)}
        return values | {key: cast(np.ndarray, given) for key, given in columns.items() if key not in self._kept}

    def _table(
        self, values: Mapping[str, np.ndarray], images: Mapping[str, pa.Array], kept: Mapping[str, pa.ChunkedArray]
    ) -> pa.Table:
        """Make rows of the data table; where there are images, its schema says so to `datasets`."""
        columns = {key: _to_nested(of, self._features[key].shape) for key, of in values.items()} | dict(kept)
        fields = [_field(key, columns[key].type, self._features[key], key in kept) for key in self._columns]
        fields += [pa.field(key, IMAGE_TYPE) for key in images]
        table = pa.table(columns | dict(images), pa.schema(fields))
        stored = [*images, *(key for key in kept if self._features[key].dtype == "image")]
        if not stored:
            return table
        described = {"info": {"features": {key: {"_type": "Image"} for key in stored}}}
        return table.replace_schema_metadata({"huggingface": json.dumps(described)})

    def _write_rows(self) -> None:
        if self._rows:
            chunk, file = self._meta.next_place()
            where = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
            self._meta.write(pa.Table.from_pylist([row | where for row in self._rows]))
            self._rows = []

    def _facts(self) -> dict[str, Any]:
        """Return info.json."""
        entries: dict[str, Any] = {}
        for key, feature in self._features.items():
            names = ["height", "width", "channels"] if key in self._cameras else feature.names and list(feature.names)
            written = {"dtype": feature.dtype, "shape": list(feature.shape)}
            entries[key] = {**written, "names": names, **self.told.get(key, {})}
            if key in self.notes:
                entries[key][NOTE] = _facts_in(entries[key]) | dict(self.notes[key])
        for key in self._videos:
            height, width, _ = self._features[key].shape
            about = {"video.height": height, "video.width": width, "video.codec": CODEC_OF[self._codec]}
            about |= {"video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": self._fps}
            entries[key][NOTE] = _facts_in(entries[key]) | about | {"video.channels": 3, "has_audio": False}
        entries |= {key: self.told[key] for key in self._copies}
        facts = {**self.told_of_all, "codebase_version": "v3.0", "robot_type": self._info["robot_type"]}
        facts |= {"total_episodes": self._episodes, "total_frames": self._frames, "total_tasks": len(self._tasks)}
        facts |= {name: self._info[name] for name in SIZES}
        facts |= {"fps": self._fps, "data_path": DATA_PATH}
        facts.setdefault("splits", {"train": f"0:{self._episodes}"})
        return facts | {"video_path": VIDEO_PATH if self._videos or self._copies else None, "features": entries}


def _facts_in(entry: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entry[NOTE]) if isinstance(entry.get(NOTE), Mapping) else {}


def write_tasks(root: Path, tasks: Sequence[str], kind: str = "task") -> None:
    """Write instructions, or sub-tasks, as the index of a pandas table, which LeRobot expects; the metadata says so."""
    index = "__index_level_0__"
    number = {"name": f"{kind}_index", "field_name": f"{kind}_index", "pandas_type": "int64", "numpy_type": "int64"}
    text = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"}
    columns = [column | {"metadata": None} for column in (number, text)]
    pandas = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    table = pa.table({f"{kind}_index": list(range(len(tasks))), index: list(tasks)})
    table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    pq.write_table(table, root / f"meta/{kind}s.parquet", write_page_checksum=True)


def _to_nested(values: np.ndarray, shape: tuple[int, ...]) -> pa.Array:
    """Make a column of rows of `shape`; those of several dimensions are lists of lists, as LeRobot reads them."""
    if len(shape) == 1:
        return to_arrow(values)
    nested = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(shape):
        nested = pa.ListArray.from_arrays(pa.array(np.arange(0, len(nested) + 1, size, dtype=np.int32)), nested)
    return nested


def _field(key: str, kind: pa.DataType, feature: Feature, kept: bool) -> pa.Field:
    """Declare a column: rows of several dimensions as `datasets` does, which LeRobot writes with."""
    if kept or len(feature.shape) == 1:
        return pa.field(key, kind)
    name = f"datasets.features.features.Array{len(feature.shape)}DExtensionType"
    about = {"ARROW:extension:name": name, "ARROW:extension:metadata": json.dumps([feature.shape, feature.dtype])}
    return pa.field(key, kind, metadata=about)


def _check_feature(key: str, feature: Feature, kept: bool = False) -> None:
    if "/" in key or not key or key in INDEX_KEYS:
        checks.fail("features", f"keys without '/' and other than LeRobot's own ({', '.join(INDEX_KEYS)})", repr(key))
    if kept:
        return
    checks.one_of(f"features[{key!r}].dtype", feature.dtype, DTYPES)
    if feature.dtype == "video" and not is_file_name(key):
        checks.fail("features", "names of cameras that a folder can have", repr(key))
    if feature.dtype in IMAGE_DTYPES and (len(feature.shape) != 3 or feature.shape[2] != 3):
        checks.fail(f"features[{key!r}]", f"shape (H, W, 3) of a camera ({feature.dtype})", repr(feature.shape))
    if feature.dtype not in IMAGE_DTYPES and not 1 <= len(feature.shape) <= 5:
        checks.fail(f"features[{key!r}]", "a shape of one to five dimensions, e.g. (4,)", repr(feature.shape))
