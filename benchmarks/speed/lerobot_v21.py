"""LeRobot v2.1: pairs of frames by lattok and by LeRobotDataset in one run, and how long 100,000 episodes take to open.

python -m benchmarks.speed.lerobot_v21 rate --data DIR --out benchmarks/results/lerobot_v21_rate.json   # lerobot==0.3.3
python -m benchmarks.speed.lerobot_v21 open --data DIR --out benchmarks/results/lerobot_v21_open.json

`rate`: a dataset that LeRobot 0.3.3 writes (224 x 224, its own AV1), pairs (t, t + 2), batches of 64, shuffled, two
workers of torch's DataLoader. lattok as `train` reads what fits into memory, with the time in which it decodes every
frame once; and streamed, with room for an eighth of the frames. CPU time is that of all threads and workers.
`open`: files of 20 rows each, one film linked 1,000 times a folder: seconds and memory of `open_dataset`, in a process
of its own, and from the call of `lattok.train`, after the imports, to the end of the first step.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import environment, write_results
from benchmarks.speed.streaming import BATCH, SIZE, WARM, WORKERS, fed, first_step, measured
from benchmarks.speed.video import borrow_ffmpeg
from lattok.data import open_dataset
from lattok.data.video import VideoWriter
from lattok.samples import FramePairs
from lattok.samples.batches import PairBatches
from lattok.training.feed import DEPTH

FPS, GAP, EPISODES, LENGTH = 30, 2, 20, 200
CAMERA = "observation.images.front"
MANY_LENGTH, MANY_SIDE = 20, 64  # frames of an episode, and their sides, of many
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
FILMS = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def film(length: int, seed: int, side: int) -> np.ndarray:
    """Squares that move over soft noise, uint8 [length, side, side, 3]."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(40, 120, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = np.repeat(ground[None], length, 0)
    for colour in range(3):
        path = (0.5 + 0.4 * np.sin(0.05 * np.arange(length)[:, None] + rng.uniform(0, 6, 2))) * (side * 3 // 4)
        for t, (row, column) in enumerate(path.astype(int)):
            frames[t, row : row + side // 5, column : column + side // 5, colour] = 230
    return frames


def written_by_lerobot(root: Path) -> Path:
    """Write a dataset with LeRobot 0.3.3, which encodes its videos."""
    if root.exists():
        return root
    LeRobotDataset = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    features = {
        "action": {"dtype": "float32", "shape": (7,), "names": [f"joint_{i}" for i in range(7)]},
        CAMERA: {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channel"]},
    }
    made = LeRobotDataset.create("local/data", FPS, features, root=root, use_videos=True)
    for episode in range(EPISODES):
        for t, image in enumerate(film(LENGTH, episode, SIZE)):
            made.add_frame({"action": np.full(7, t, np.float32), CAMERA: image}, task="push")
        made.save_episode()
    return root


def lerobot(root: Path) -> Iterator[Any]:
    """Yield batches of LeRobot's own dataset, without end."""
    LeRobotDataset = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    data = LeRobotDataset("local/data", root=root, delta_timestamps={CAMERA: [0.0, GAP / FPS]})
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS)
    yield from itertools.chain.from_iterable(itertools.repeat(loader))


def ours(root: Path, streamed: bool, batches: int) -> Iterator[Any]:
    samples = FramePairs(open_dataset(root), GAP)
    window = EPISODES * LENGTH // 8
    room = {"window": window, "memory": 2.0 * window * samples.reader.frame_bytes} if streamed else {}
    return fed(PairBatches(samples, BATCH, 0, 0, **room), batches + DEPTH)


def rate(folder: Path, epochs: int) -> dict[str, Any]:
    """Measure samples per second of all, in turn, twice."""
    root, found = written_by_lerobot(folder / "by-lerobot"), dict[str, list[dict[str, float]]]()
    few, more = EPISODES * LENGTH // BATCH, epochs * EPISODES * LENGTH // BATCH
    for _ in range(2):
        rows = {
            "lattok": (ours(root, False, more), more, 0),
            "lattok, streamed": (ours(root, True, WARM + few), few, WARM),
            "LeRobotDataset": (lerobot(root), few, 8),
        }
        for name, row in rows.items():
            torch.manual_seed(0)
            told = measured(*row)
            found.setdefault(name, []).append(told)
            print(name, told, round(told["samples"] / told["wall_s"], 1), "samples/s", flush=True)
    best = {name: max(told["samples"] / told["wall_s"] for told in each) for name, each in found.items()}
    ratio = {name: value / best["LeRobotDataset"] for name, value in best.items()}
    return {"epochs": epochs, "runs": found, "samples_per_s": best, "ratio": ratio}


def many(root: Path, episodes: int) -> Path:
    """Write many small episodes; their films are links to one."""
    if root.exists():
        return root
    folder = root.with_name(f".{root.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "meta").mkdir(parents=True)
    features: dict[str, Any] = {"action": {"dtype": "float32", "shape": [3], "names": None}}
    features |= {CAMERA: {"dtype": "video", "shape": [MANY_SIDE, MANY_SIDE, 3], "names": None}}
    whole = ("frame_index", "episode_index", "index", "task_index")
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in whole}
    features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    rng, steps = np.random.default_rng(0), np.arange(MANY_LENGTH)
    with (folder / "meta/episodes.jsonl").open("w") as listed, (folder / "meta/episodes_stats.jsonl").open("w") as told:
        for index in range(episodes):
            place = {"episode_chunk": index // 1000, "episode_index": index}
            data, video = folder / DATA.format(**place), folder / FILMS.format(**place, video_key=CAMERA)
            if index % 1000 == 0:
                data.parent.mkdir(parents=True)
                video.parent.mkdir(parents=True)
                writer = VideoWriter(video, FPS, (MANY_SIDE, MANY_SIDE), "h264", 1)
                writer.add(film(MANY_LENGTH, index, MANY_SIDE))
                writer.close()
                first = video
            else:
                video.hardlink_to(first)
            numbers = dict(zip(whole, (steps, steps * 0 + index, steps + index * MANY_LENGTH, steps * 0), strict=True))
            actions = rng.standard_normal((MANY_LENGTH, 3), np.float32)
            times = (steps / FPS).astype(np.float32)
            pq.write_table(pa.table({"action": [*actions], **numbers, "timestamp": times}), data)
            listed.write(json.dumps({"episode_index": index, "tasks": ["push"], "length": MANY_LENGTH}) + "\n")
            stats = {name: getattr(actions, name)(0).tolist() for name in ("min", "max", "mean", "std")}
            told.write(json.dumps({"episode_index": index, "stats": {"action": {**stats, "count": [20]}}}) + "\n")
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n')
    info = {"codebase_version": "v2.1", "robot_type": None, "fps": FPS, "features": features, "chunks_size": 1000}
    info |= {"total_episodes": episodes, "total_frames": episodes * MANY_LENGTH, "data_path": DATA, "video_path": FILMS}
    (folder / "meta/info.json").write_text(json.dumps(info))
    folder.rename(root)
    return root


def opened(root: Path) -> dict[str, float]:
    """Open a dataset and tell how long it took, and the greatest memory of this process in MB."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = open_dataset(root)
    seconds = time.monotonic() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "episodes": len(dataset),
        "seconds": seconds,
        "memory_mb": memory / 1024,
        "more_mb": (memory - before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["rate", "open", "opened", "first"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what in ("opened", "first"):
        print(json.dumps(opened(args.data) if args.what == "opened" else first_step(args.data, 0.2)))
        return
    if args.what == "rate":
        borrow_ffmpeg()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        found = rate(args.data, args.epochs)
    else:
        root, found = many(args.data / f"v21-{args.episodes}", args.episodes), {}
        for what in ("opened", "first"):
            command = [sys.executable, "-m", "benchmarks.speed.lerobot_v21", what, "--data", str(root)]
            found[what] = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            print(what, found[what], flush=True)
    if args.out is not None:
        write_results(args.out, {"environment": environment(), args.what: found})


if __name__ == "__main__":
    main()
