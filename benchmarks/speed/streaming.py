"""Training data that do not fit into memory: time to the first step, samples per second, and how long steps wait.

python -m benchmarks.speed.streaming start --data DIR --frames 1000 10000 100000 1000000 \
    --out benchmarks/results/streaming_start.json
python -m benchmarks.speed.streaming rate --data DIR --out benchmarks/results/streaming_rate.json  # lerobot, torchcodec
python -m benchmarks.speed.streaming wait --data DIR --out benchmarks/results/streaming_wait.json

Datasets come from `benchmarks.speed.large_dataset` (224 x 224, H.264), in DIR, one camera.

`start`: each size in a process of its own: seconds from the call of `lattok.train`, after the imports, to the end of
the first step of a small model, the greatest resident memory, and the bytes in the run folder.
`rate`: pairs (t, t + 32) and policy windows (one image, eight actions), batches of 64, shuffled, by the same number of
workers: lattok streamed, LeRobotDataset in torch's DataLoader, StreamingLeRobotDataset. CPU time is that of all threads
and workers together; wall time means something on an idle machine only.
`wait`: what part of its time a consumer waits that sleeps 50 ms for each batch of 64, with batches made ahead and
without; and without sleep, the rate.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lattok
from benchmarks.common import environment, write_results
from benchmarks.speed.large_dataset import CAMERAS, FPS, generate
from benchmarks.speed.video import borrow_ffmpeg
from lattok.data import open_dataset
from lattok.samples import FramePairs, PolicyWindows, WindowOptions
from lattok.samples.batches import BatchOptions, PairBatches, PolicyBatches
from lattok.training.feed import DEPTH, BatchSource, Feed
from lattok.training.runlog import peak_memory
from lattok.types import PolicyBatch
from lattok.utils.checks import first_line

SIZE, DELTA, HORIZON, BATCH, WORKERS = 224, 32, 8, 64, 2
STEP_S, STEPS = 0.05, 600
LATER, WARM = 400, 200  # steps: windows have their size, and have changed once before anything is counted
POOL_GB = 3.0  # of frames in a shuffle window, and in memory


def dataset(folder: Path, frames: int, g: int) -> Path:
    """Return a generated dataset of this size."""
    return generate(folder / f"g{g}-{frames}", frames, size=SIZE, g=g)


def room(samples: FramePairs | PolicyWindows) -> dict[str, Any]:
    """Return the shuffle window in frames, and the memory for it."""
    return {"window": int(POOL_GB * 1e9 // samples.reader.frame_bytes), "memory": POOL_GB * 1e9}


class Windows(PolicyBatches):
    """Policy windows, streamed, as they are stored."""

    def __init__(self, root: Path):
        samples = PolicyWindows(open_dataset(root), WindowOptions(HORIZON, size=SIZE, state_key="observation.state"))
        super().__init__(samples, BatchOptions(BATCH, 0, **room(samples)))

    def change(self, batch: PolicyBatch, step: int, share: int, shares: int) -> PolicyBatch:
        """Return the batch as it is: the others change no images either."""
        return batch


def pairs(root: Path) -> PairBatches:
    """Return frame pairs, streamed."""
    samples = FramePairs(open_dataset(root), DELTA)
    return PairBatches(samples, BATCH, 0, 0, **room(samples))


def first_step(root: Path, memory_gb: float) -> dict[str, float]:
    """Train one step and tell how long it took until it was over."""
    importlib.import_module("torchvision")  # as resizing does when it is needed
    from lattok.image_lam import PairLearner

    forward, ends = PairLearner.forward, []

    def timed(self: Any, batch: Any) -> Any:
        terms = forward(self, batch)
        ends.append(time.monotonic())
        return terms

    PairLearner.forward = timed  # type: ignore[method-assign]
    window = int(memory_gb * 1e9 // (3 * 64**2))
    options: dict[str, Any] = {"features": "pixels", "steps": 1, "memory_gb": memory_gb, "device": "cpu"}
    options["shuffle_window"] = window
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        recipe = lattok.ImageLAMRecipe.from_preset(root, Path(scratch) / "run", "tiny+robust", **options)
        begun, cpu = time.monotonic(), time.process_time()
        lattok.train(recipe)
        disk = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
    return {
        "first_step_s": ends[0] - begun,
        "cpu_s": time.process_time() - cpu,
        "memory_mb": (peak_memory(torch.device("cpu")) or 0.0) / 2**20,
        "disk_mb": disk / 1e6,
    }


def start(folder: Path, sizes: list[int], memory_gb: float) -> dict[str, Any]:
    """Measure each size in a process of its own."""
    found = {}
    for frames in sizes:
        root = dataset(folder, frames, 2)
        command = [sys.executable, "-m", "benchmarks.speed.streaming", "one", "--data", str(root)]
        done = subprocess.run([*command, "--memory-gb", str(memory_gb)], capture_output=True, text=True, check=True)
        found[frames] = json.loads(done.stdout.splitlines()[-1])
        print(frames, found[frames], flush=True)
    return {"memory_gb": memory_gb, "frames": found}


def measured(batches: Iterator[Any], count: int, warm: int = 3) -> dict[str, float]:
    """Take `count` batches after the first `warm` ones, and tell what a sample costs."""
    for _ in range(warm):
        next(batches)
    begun, used = time.monotonic(), _cpu()
    samples = 0
    for _ in range(count):
        batch = next(batches)
        samples += len(batch[0] if isinstance(batch, tuple) else batch["index"])
    wall = time.monotonic() - begun
    close = getattr(batches, "close", None)
    if close is not None:
        close()  # so that workers end, and their time counts
    return {"samples": samples, "wall_s": wall, "cpu_s": _cpu() - used}


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def fed(source: BatchSource, steps: int, first: int = 0) -> Iterator[Any]:
    """Yield batches that are made ahead."""
    with Feed(source, first, first + steps, [0], 1, torch.device("cpu")).started() as feed:
        for step in range(first, first + steps):
            yield feed(step, 0)


def lerobot(root: Path, wanted: str, streaming: bool) -> Iterator[Any]:
    """Yield batches of LeRobot's own datasets."""
    LeRobotDataset = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    StreamingLeRobotDataset = importlib.import_module("lerobot.datasets.streaming_dataset").StreamingLeRobotDataset
    gaps = [0.0, DELTA / FPS] if wanted == "pairs" else [0.0]
    chunk = {} if wanted == "pairs" else {"action": [i / FPS for i in range(HORIZON)]}
    given: dict[str, Any] = {"root": root, "delta_timestamps": {CAMERAS[0]: gaps, **chunk}}
    if streaming:
        data: Any = StreamingLeRobotDataset("local/data", **given)
        loader = torch.utils.data.DataLoader(data, BATCH, num_workers=WORKERS)
    else:
        data = LeRobotDataset("local/data", **given)
        loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS)
    yield from itertools.chain.from_iterable(itertools.repeat(loader))


def rate(folder: Path, frames: int, count: int) -> dict[str, Any]:
    """Measure samples per second of all of them, one after the other."""
    found: dict[str, Any] = {}
    for g, wanted in itertools.product((2, 30), ("pairs", "windows")):
        root = dataset(folder, frames, g)
        ours: BatchSource = pairs(root) if wanted == "pairs" else Windows(root)
        # far from the small windows at the start of a run, and after the first windows have been filled
        rows: dict[str, Any] = {"lattok": lambda ours=ours: fed(ours, count + WARM + DEPTH, LATER)}
        rows |= {
            name: lambda root=root, wanted=wanted, streaming=streaming: lerobot(root, wanted, streaming)
            for name, streaming in {"LeRobotDataset": False, "StreamingLeRobotDataset": True}.items()
        }
        for name, make in rows.items():
            torch.manual_seed(0)
            try:
                few = (count, WARM) if name == "lattok" else (max(8, count // 6),)
                told = measured(make(), *few)
            except Exception as error:  # what one of them cannot do is a result too
                told = {"error": f"{type(error).__name__}: {first_line(error)}"}  # no traceback: it holds paths
            found.setdefault(f"{wanted}, key frames {g} apart", {})[name] = told
            print(g, wanted, name, told, flush=True)
    for each in found.values():
        for clock in ("wall_s", "cpu_s"):
            cost = {name: told[clock] / told["samples"] for name, told in each.items() if clock in told}
            each[f"ratio_{clock}"] = {name: value / cost["lattok"] for name, value in cost.items()}
    return found


def wait(folder: Path, frames: int) -> dict[str, Any]:
    """Let a consumer take batches at a fixed pace."""
    found: dict[str, Any] = {}
    for name, step_s in {"50 ms a step": STEP_S, "as fast as it can": 0.0}.items():
        for ahead in (True, False):
            source = Windows(dataset(folder, frames, 2))
            steps = range(LATER, LATER + WARM + STEPS)
            # not made ahead, batches are decoded in the step too
            batches = fed(source, len(steps), LATER) if ahead else (source(step, 0, 1) for step in steps)
            waited, begun = 0.0, 0.0
            for step in range(len(steps)):
                if step == WARM:  # the first windows are there by then
                    waited, begun = 0.0, time.monotonic()
                asked = time.monotonic()
                next(batches)
                waited += time.monotonic() - asked
                time.sleep(step_s)
            total = time.monotonic() - begun
            told = {"waited": waited / total, "samples_per_second": BATCH * STEPS / total}
            found[f"{name}, {'ahead' if ahead else 'in the step'}"] = told
            print(name, ahead, told, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["start", "rate", "wait", "one"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, nargs="+", default=[100_000])
    parser.add_argument("--memory-gb", type=float, default=0.2)
    parser.add_argument("--batches", type=int, default=STEPS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "one":
        print(json.dumps(first_step(args.data, args.memory_gb)))
        return
    if args.what == "start":
        found = start(args.data, args.frames, args.memory_gb)
    elif args.what == "rate":
        borrow_ffmpeg()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        found = rate(args.data, args.frames[0], args.batches)
    else:
        found = wait(args.data, args.frames[0])
    if args.out is not None:
        write_results(args.out, {"environment": environment(), args.what: found})


if __name__ == "__main__":
    main()
