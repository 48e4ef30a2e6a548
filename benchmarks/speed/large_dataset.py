"""A generated LeRobot v3 dataset of any size with encoded video: random state and action, cameras that see things move.

python -m benchmarks.speed.large_dataset DIR --frames 1000000                                      # 32 x 32, 10 seconds
python -m benchmarks.speed.large_dataset DIR --frames 1000000 --size 224 --cameras 2 --g 2         # 20 seconds
python -m benchmarks.speed.large_dataset DIR --frames 1000000 --size 224 --g 30 --codec libsvtav1

Episodes of 100 to 300 frames, a row group for each as LeRobot writes them, data files of 25 MB, video files of 1,000
frames. Twelve different videos are encoded, once for each size, codec and distance of key frames; they lie next to DIR
and are linked into it (copied where the disk has no links), another one for each camera of an episode. So 10^6 frames
take the space of 12,000, and a disk that is slow to read does not show.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from lattok.data.formats.lerobot_writer import DATA_PATH, EPISODES_PATH, VIDEO_PATH, write_tasks
from lattok.data.summaries import Stats, column_stats, merge_stats
from lattok.data.tables import RollingTables, to_arrow
from lattok.data.video import CODEC_OF, CODECS

FPS = 30
CAMERAS = ("observation.images.front", "observation.images.wrist")
ACTION, STATE = 7, 8
VIDEO_FRAMES, VIDEOS = 1000, 12
CHUNK_FILES = 1000
TASKS = tuple(f"move the {colour} block to the {side}" for colour in ("red", "blue") for side in ("left", "right"))


def generate(
    root: Path,
    frames: int,
    seed: int = 0,
    data_mb: float = 25,
    size: int = 32,
    cameras: int = 1,
    g: int = 2,
    codec: str = "h264",
) -> Path:
    """Write the dataset to the new folder `root`; it appears when it is whole. One that is there is left as it is."""
    if root.exists():
        return root
    folder = root.with_name(f".{root.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    data, meta = (RollingTables(folder, path, CHUNK_FILES, data_mb) for path in (DATA_PATH, EPISODES_PATH))
    rng, rows, done, stats = np.random.default_rng(seed), [], 0, []
    for index, (video, first, length) in enumerate(episodes(frames, seed)):
        columns = _columns(rng, index, length, done)
        place = data.write(pa.table({key: to_arrow(values) for key, values in columns.items()}))
        stats.append({key: column_stats(columns[key]) for key in ("action", "observation.state")})
        rows.append(_episode_row(index, length, done, place, stats[-1]))
        for camera in CAMERAS[:cameras]:
            span = {"from_timestamp": first / FPS, "to_timestamp": (first + length) / FPS}
            span |= dict(zip(("chunk_index", "file_index"), divmod(video, CHUNK_FILES), strict=True))
            rows[-1] |= {f"videos/{camera}/{name}": value for name, value in span.items()}
        done += length
        if len(rows) == 100 or done == frames:
            meta.write(pa.Table.from_pylist(rows))
            rows = []
    data.close()
    meta.close()
    _link_videos(folder, root.parent / f"videos-{size}-{codec}-{g}", video + 1, CAMERAS[:cameras], size, g, codec)
    _write_meta(folder, frames, (CAMERAS[:cameras], size, codec), stats)
    folder.rename(root)
    return root


def episodes(frames: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """Yield video file, first frame in it and length of each episode; `frames` in all, 100 to 300 each if they can."""
    rng = np.random.default_rng(seed)
    for video in range(-(-frames // VIDEO_FRAMES)):
        first, end = 0, min(VIDEO_FRAMES, frames - video * VIDEO_FRAMES)
        while first < end:
            length = min(int(rng.integers(100, 301)), end - first)
            length = end - first if end - first - length < 100 else length
            yield video, first, length
            first += length


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


def _episode_row(index: int, length: int, done: int, place: tuple[int, int], stats: dict[str, Stats]) -> dict[str, Any]:
    row = {
        "episode_index": index,
        "tasks": [TASKS[index % len(TASKS)]],
        "length": length,
        "data/chunk_index": place[0],
        "data/file_index": place[1],
        "dataset_from_index": done,
        "dataset_to_index": done + length,
    }
    return row | {f"stats/{key}/{name}": v.tolist() for key, part in stats.items() for name, v in part.items()}


def _link_videos(folder: Path, made: Path, files: int, cameras: tuple[str, ...], size: int, g: int, codec: str) -> None:
    """Put a video in each place, encoding those that are not there yet."""
    for number in range(files):
        for shift, camera in enumerate(cameras):
            which = (number + 5 * shift) % VIDEOS
            source = made / f"{which}.mp4"
            if not source.exists():
                made.mkdir(parents=True, exist_ok=True)
                _encode(source, which, size, g, codec)
            chunk, file = divmod(number, CHUNK_FILES)
            path = folder / VIDEO_PATH.format(video_key=camera, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:
                shutil.copyfile(source, path)


def _encode(path: Path, seed: int, size: int, g: int, codec: str) -> None:
    """Encode a video with a key frame every `g`; it appears when it is whole."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream(codec, Fraction(FPS), options={**CODECS[codec], "g": str(g)})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", size, size
        for image in moving_picture(seed, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)


def moving_picture(seed: int, size: int) -> Iterator[np.ndarray]:
    """Yield coloured tiles and a square that move, under noise as of a camera: uint8 [size, size, 3]."""
    rng, side = np.random.default_rng(seed), max(size // 6, 2)
    tiles = rng.integers(20, 236, (size // 8 + 9, size // 8 + 9, 3), dtype=np.int16).repeat(8, 0).repeat(8, 1)
    noise = rng.normal(0, 4, (2 * size, 2 * size, 3)).round().clip(-20, 19).astype(np.int16)
    speed = rng.integers(1, 6, 2)
    for t in range(VIDEO_FRAMES):
        down, right = (64 - abs(place % 128 - 64) for place in (t, t // 2))  # there and back: no cut in the scene
        image = tiles[down : down + size, right : right + size].copy()
        row, column = speed * t % (size - side)
        image[row : row + side, column : column + side] = 200
        y, x = rng.integers(0, size, 2)
        yield (image + noise[y : y + size, x : x + size]).astype(np.uint8)


def _write_meta(
    folder: Path, frames: int, pictures: tuple[tuple[str, ...], int, str], stats: list[dict[str, Stats]]
) -> None:
    def entry(dtype: str, *shape: int, names: list[str] | None = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    index = {key: entry("int64", 1) for key in ("frame_index", "episode_index", "index", "task_index")}
    vectors = {"action": entry("float32", ACTION), "observation.state": entry("float32", STATE)}
    cameras, size, codec = pictures
    video = entry("video", size, size, 3, names=["height", "width", "channels"])
    video["info"] = {"video.height": size, "video.width": size, "video.channels": 3, "video.fps": FPS}
    video["info"] |= {"video.codec": CODEC_OF[codec], "video.pix_fmt": "yuv420p"}
    video["info"] |= {"video.is_depth_map": False, "has_audio": False}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "generated",
        "total_episodes": len(stats),
        "total_frames": frames,
        "total_tasks": len(TASKS),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{len(stats)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {**vectors, "timestamp": entry("float32", 1), **index, **dict.fromkeys(cameras, video)},
    }
    merged = {key: merge_stats([part[key] for part in stats]) for key in vectors}
    shown = {key: {name: value.tolist() for name, value in part.items()} for key, part in merged.items()}
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    (folder / "meta" / "stats.json").write_text(json.dumps(shown, indent=4))
    write_tasks(folder, TASKS)


def main() -> None:
    """Generate one dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=32, help="height and width of the pictures")
    parser.add_argument("--cameras", type=int, default=1, choices=(1, 2))
    parser.add_argument("--g", type=int, default=2, help="key frames are so many frames apart")
    parser.add_argument("--codec", choices=tuple(CODECS), default="h264")
    args = parser.parse_args()
    generate(args.root, args.frames, size=args.size, cameras=args.cameras, g=args.g, codec=args.codec)


if __name__ == "__main__":
    main()
