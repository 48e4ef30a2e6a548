"""A generated LeRobot v3 dataset of any size: random state and action, one 32 x 32 camera. Ten seconds for 10^6.

python -m benchmarks.speed.large_dataset DIR --frames 1000000

Episodes of 60 to 140 frames, a row group per episode as LeRobot writes them, data files of 25 MB, video files of 25,000
frames (all the same content: the video is encoded once) with a key frame every 50.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.data.tables import RollingTables, to_arrow

FPS = 30
CAMERA = "observation.images.front"
SIZE, ACTION, STATE = 32, 7, 14
VIDEO_FRAMES, KEY_EVERY = 25_000, 50
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASKS = tuple(f"move the {colour} block to the {side}" for colour in ("red", "blue") for side in ("left", "right"))
STATS = ("min", "max", "mean", "std")


def generate(root: Path, frames: int, seed: int = 0, data_mb: float = 25) -> Path:
    """Write the dataset to the new folder `root`; it appears when it is whole."""
    if root.exists():
        return root
    folder = root.with_name(f".{root.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    lengths = list(episode_lengths(frames, seed))
    data, meta = (RollingTables(folder, path, 1000, data_mb) for path in (DATA_PATH, EPISODES_PATH))
    rng, rows, videos, done, shown = np.random.default_rng(seed), [], [0], 0, 0
    for index, length in enumerate(lengths):
        if shown + length > VIDEO_FRAMES:
            videos.append(0)
            shown = 0
        columns = _columns(rng, index, length, done)
        chunk, file = data.write(pa.table({key: to_arrow(values) for key, values in columns.items()}))
        video = {"chunk_index": (len(videos) - 1) // 1000, "file_index": (len(videos) - 1) % 1000}
        video |= {"from_timestamp": shown / FPS, "to_timestamp": (shown + length) / FPS}
        rows.append(_episode_row(index, length, done, (chunk, file), video, columns))
        done, shown = done + length, shown + length
        if len(rows) == 100 or index + 1 == len(lengths):
            meta.write(pa.Table.from_pylist(rows))
            rows = []
    data.close()
    meta.close()
    _write_videos(folder, len(videos), min(VIDEO_FRAMES, done))
    _write_meta(folder, len(lengths), done)
    folder.rename(root)
    return root


def episode_lengths(frames: int, seed: int) -> Iterator[int]:
    """60 to 140 frames each, `frames` in all."""
    rng, left = np.random.default_rng(seed), frames
    while left:
        length = int(rng.integers(60, 141))
        length = left if left - length < 60 else length
        yield length
        left -= length


def _columns(rng: np.random.Generator, index: int, length: int, done: int) -> dict[str, np.ndarray]:
    number = np.arange(length)
    path = np.cumsum(rng.standard_normal((length, STATE), dtype=np.float32), axis=0)
    return {
        "action": rng.standard_normal((length, ACTION), dtype=np.float32),
        "observation.state": path,
        "timestamp": (number / FPS).astype(np.float32),
        "frame_index": number,
        "episode_index": np.full(length, index),
        "index": done + number,
        "task_index": np.full(length, index % len(TASKS)),
    }


def _episode_row(
    index: int, length: int, done: int, place: tuple[int, int], video: dict[str, Any], columns: dict[str, np.ndarray]
) -> dict[str, Any]:
    row = {
        "episode_index": index,
        "tasks": [TASKS[index % len(TASKS)]],
        "length": length,
        "data/chunk_index": place[0],
        "data/file_index": place[1],
        "dataset_from_index": done,
        "dataset_to_index": done + length,
        **{f"videos/{CAMERA}/{name}": value for name, value in video.items()},
    }
    for key in ("action", "observation.state"):
        row |= {f"stats/{key}/{name}": getattr(columns[key], name)(axis=0).tolist() for name in STATS}
    return row


def _write_videos(folder: Path, files: int, frames: int) -> None:
    """One video of a moving square, copied to all places."""
    paths = [
        folder / VIDEO_PATH.format(video_key=CAMERA, chunk_index=i // 1000, file_index=i % 1000) for i in range(files)
    ]
    paths[0].parent.mkdir(parents=True)
    with av.open(str(paths[0]), "w") as container:
        stream = container.add_stream("h264", Fraction(FPS), options={"g": str(KEY_EVERY), "preset": "ultrafast"})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", SIZE, SIZE
        for t in range(frames):
            image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
            image[(3 * t) % 22 : (3 * t) % 22 + 10, (5 * t) % 22 : (5 * t) % 22 + 10] = 100 + (37 * t) % 150
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    for path in paths[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths[0], path)


def _write_meta(folder: Path, episodes: int, frames: int) -> None:
    def entry(dtype: str, *shape: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": None}

    index = {key: entry("int64", 1) for key in ("frame_index", "episode_index", "index", "task_index")}
    vectors = {"action": entry("float32", ACTION), "observation.state": entry("float32", STATE)}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "generated",
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {**vectors, "timestamp": entry("float32", 1), **index, CAMERA: entry("video", SIZE, SIZE, 3)},
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    tasks = pa.table({"task_index": list(range(len(TASKS))), "task": list(TASKS)})
    pq.write_table(tasks, folder / "meta" / "tasks.parquet")


def main() -> None:
    """Generate one dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--frames", type=int, default=1_000_000)
    args = parser.parse_args()
    generate(args.root, args.frames)


if __name__ == "__main__":
    main()
