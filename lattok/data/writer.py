"""Writes LeRobot v3 datasets without the `lerobot` package; LeRobot 0.4 and later open them unchanged.

Everything goes to a temporary folder beside the target, which takes its name when the dataset is finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import INDEX_KEYS, Feature
from lattok.data.stats import Stats, column_stats, image_stats, merge_stats
from lattok.data.tables import MEGABYTE, RollingTables, next_place, to_arrow
from lattok.data.video import CODECS, VideoEncoder
from lattok.files import sync_folder, write_json

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DTYPES = ("video", "string", "bool", "float32", "float64", "int32", "int64")
EPISODES_PER_WRITE = 100
STATS_PER_MERGE = 256


class _Settings(NamedTuple):
    """Options of `LeRobotWriter.create`."""

    robot_type: str | None
    video_codec: str
    chunk_files: int
    data_file_mb: float
    video_file_mb: float
    encoder_threads: int | None


class LeRobotWriter:
    """Writes one dataset: `create`, `add_episode` for each episode, `finalize`. In a `with`, an error removes it."""

    def __init__(self, root: Path, fps: int, features: dict[str, Feature], settings: _Settings):
        """Use `create`, which checks its arguments."""
        self.root = root
        self._fps = fps
        self._settings = settings
        self._videos = [key for key, feature in features.items() if feature.dtype == "video"]
        index = {key: Feature("float32" if key == "timestamp" else "int64", (1,), None) for key in INDEX_KEYS}
        self._features = features | index
        self._columns = [key for key in self._features if key not in self._videos]
        self._folder = root.with_name(f".{root.name}.writing")
        self._tasks: dict[str, int] = {}
        self._frames = self._episodes = 0
        self._stats: dict[str, list[Stats]] = {}
        self._data = RollingTables(self._folder, DATA_PATH, settings.chunk_files, settings.data_file_mb)
        self._meta = RollingTables(self._folder, EPISODES_PATH, settings.chunk_files, settings.data_file_mb)
        self._rows: list[dict[str, Any]] = []
        self._encoders: dict[str, tuple[VideoEncoder, tuple[int, int]]] = {}

    @classmethod
    def create(
        cls,
        root: str | Path,
        fps: int,
        features: Mapping[str, Feature],
        robot_type: str | None = None,
        video_codec: str = "libsvtav1",
        chunk_files: int = 1000,
        data_file_mb: float = 100,
        video_file_mb: float = 200,
        encoder_threads: int | None = None,
    ) -> LeRobotWriter:
        """Start a dataset at `root`, which must not exist.

        `features` are the recorded ones; LeRobot's index columns are added. Cameras have dtype "video" and shape
        (H, W, 3) with even H and W. A file is closed once it is larger than its limit; `chunk_files` files per folder.
        """
        root = Path(root)
        checks.positive(fps=fps, chunk_files=chunk_files, data_file_mb=data_file_mb, video_file_mb=video_file_mb)
        checks.one_of("video_codec", video_codec, CODECS)
        if root.exists():
            checks.fail("root", "a folder that does not exist yet", str(root))
        for key, feature in features.items():
            _check_feature(key, feature)
        settings = _Settings(robot_type, video_codec, chunk_files, data_file_mb, video_file_mb, encoder_threads)
        writer = cls(root, fps, dict(features), settings)
        shutil.rmtree(writer._folder, ignore_errors=True)
        writer._folder.mkdir(parents=True)
        return writer

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finalize()
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add_episode(self, columns: Mapping[str, np.ndarray], frames: Mapping[str, np.ndarray], task: str) -> None:
        """Append an episode of T frames: columns [T, *shape] ([T] for shape (1,)), frames uint8 [T, H, W, 3]."""
        length = self._check_episode(columns, frames, task)
        index = self._tasks.setdefault(task, len(self._tasks))
        values = self._values(columns, length, index)
        table = pa.table({key: to_arrow(values[key]) for key in self._columns})
        chunk, file = self._data.write(table)
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [task],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        for key in self._videos:
            row |= self._add_video(key, frames[key])
        stats = {key: image_stats(frames[key]) for key in self._videos}
        stats |= {key: column_stats(values[key]) for key in self._columns if self._features[key].dtype != "string"}
        for key, part in stats.items():
            row |= {f"stats/{key}/{name}": value.tolist() for name, value in part.items()}
            kept = [*self._stats.get(key, []), part]
            self._stats[key] = kept if len(kept) < STATS_PER_MERGE else [merge_stats(kept)]
        self._rows.append(row)
        self._episodes += 1
        self._frames += length
        if len(self._rows) >= EPISODES_PER_WRITE:
            self._write_rows()

    def finalize(self) -> Path:
        """Close all files and give the folder its name. Returns `root`."""
        if not self._episodes:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise LattokError("nothing to write: call `add_episode` before `finalize`.")
        self._write_rows()
        for tables in (self._data, self._meta):
            tables.close()
        for encoder, _ in self._encoders.values():
            encoder.close()
        self._write_tasks()
        write_json(self._folder / "meta" / "info.json", self._info(), indent=4)
        merged = {key: merge_stats(parts) for key, parts in self._stats.items()}
        stats = {key: {name: value.tolist() for name, value in part.items()} for key, part in merged.items()}
        write_json(self._folder / "meta" / "stats.json", stats, indent=4)
        if self.root.exists():
            checks.fail("root", "a folder that does not exist yet", str(self.root))
        os.rename(self._folder, self.root)
        sync_folder(self.root.parent)
        return self.root

    def _check_episode(self, columns: Mapping[str, np.ndarray], frames: Mapping[str, np.ndarray], task: str) -> int:
        """Everything given, nothing else, of one length and the declared shapes. Returns the length."""
        if not isinstance(task, str) or not task:
            checks.fail("task", "an instruction", repr(task))
        expected = [key for key in self._columns if key not in INDEX_KEYS]
        if set(columns) != set(expected):
            checks.fail("columns", ", ".join(expected) or "none", ", ".join(columns) or "none")
        if set(frames) != set(self._videos):
            checks.fail("frames", ", ".join(self._videos) or "none", ", ".join(frames) or "none")
        lengths = {len(value) for value in (*columns.values(), *frames.values())}
        if len(lengths) != 1 or 0 in lengths:
            checks.fail("columns", "arrays and frames of one length of at least 1", f"lengths {sorted(lengths)}")
        (length,) = lengths
        for key, value in {**columns, **frames}.items():
            shape = self._features[key].shape
            allowed = [(length,), (length, 1)] if shape == (1,) else [(length, *shape)]
            if np.shape(value) not in allowed:
                checks.fail(key, f"shape {list(allowed[0])}", f"{list(np.shape(value))}")
        for key, value in frames.items():
            if value.dtype != np.uint8:
                checks.fail(key, "uint8 frames", str(value.dtype))
        return length

    def _values(self, columns: Mapping[str, np.ndarray], length: int, task_index: int) -> dict[str, np.ndarray]:
        """The given columns in their declared types, and LeRobot's index columns."""
        number = np.arange(length)
        values = {
            "timestamp": (number / self._fps).astype(np.float32),
            "frame_index": number,
            "episode_index": np.full(length, self._episodes),
            "index": self._frames + number,
            "task_index": np.full(length, task_index),
        }
        for key, given in columns.items():
            dtype = self._features[key].dtype
            values[key] = np.asarray(given, dtype=object if dtype == "string" else dtype)
        return values

    def _add_video(self, key: str, frames: np.ndarray) -> dict[str, Any]:
        """Encode frames at the end of the camera's file; a full file is closed and the next one begun."""
        encoder, place = self._encoders.get(key, (None, (0, 0)))
        if encoder is not None and encoder.bytes >= self._settings.video_file_mb * MEGABYTE:
            encoder.close()
            encoder, place = None, next_place(place, self._settings.chunk_files)
        if encoder is None:
            path = VIDEO_PATH.format(video_key=key, chunk_index=place[0], file_index=place[1])
            size = (frames.shape[1], frames.shape[2])
            encoder = VideoEncoder(
                self._folder / path, self._fps, size, self._settings.video_codec, self._settings.encoder_threads
            )
            self._encoders[key] = (encoder, place)
        start = encoder.frames / self._fps
        encoder.add(frames)
        values = (*place, start, encoder.frames / self._fps)
        names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        return {f"videos/{key}/{name}": value for name, value in zip(names, values, strict=True)}

    def _write_rows(self) -> None:
        if self._rows:
            chunk, file = self._meta.next_place()
            where = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
            self._meta.write(pa.Table.from_pylist([row | where for row in self._rows]))
            self._rows = []

    def _write_tasks(self) -> None:
        """The instruction is the index of a pandas table, as LeRobot expects; the metadata says so."""
        index = "__index_level_0__"
        columns = [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
        ]
        pandas = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [column | {"metadata": None} for column in columns],
            "pandas_version": "2.2.0",
        }
        table = pa.table({"task_index": list(self._tasks.values()), index: list(self._tasks)})
        pq.write_table(
            table.replace_schema_metadata({"pandas": json.dumps(pandas)}), self._folder / "meta/tasks.parquet"
        )

    def _info(self) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, feature in self._features.items():
            names = (
                ["height", "width", "channels"] if feature.dtype == "video" else feature.names and list(feature.names)
            )
            entries[key] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
        for key in self._videos:
            height, width, _ = self._features[key].shape
            entries[key]["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": "av1" if self._settings.video_codec == "libsvtav1" else "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": self._fps,
                "video.channels": 3,
                "has_audio": False,
            }
        return {
            "codebase_version": "v3.0",
            "robot_type": self._settings.robot_type,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": self._settings.chunk_files,
            "data_files_size_in_mb": self._settings.data_file_mb,
            "video_files_size_in_mb": self._settings.video_file_mb,
            "fps": self._fps,
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": entries,
        }


def _check_feature(key: str, feature: Feature) -> None:
    if "/" in key or not key or key in INDEX_KEYS:
        checks.fail("features", f"keys without '/' and other than LeRobot's own ({', '.join(INDEX_KEYS)})", repr(key))
    if feature.dtype == "video" and (len(feature.shape) != 3 or feature.shape[2] != 3):
        checks.fail(f"features[{key!r}]", "shape (H, W, 3) of a video", repr(feature.shape))
    if feature.dtype != "video" and len(feature.shape) != 1:
        checks.fail(f"features[{key!r}]", "the shape of a vector, e.g. (4,)", repr(feature.shape))
    checks.one_of(f"features[{key!r}].dtype", feature.dtype, DTYPES)
