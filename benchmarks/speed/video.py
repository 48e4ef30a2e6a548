"""Speed of decoding video: every frame once in order, as annotation does, against random access to pairs of frames.

python -m benchmarks.speed.video --out benchmarks/results/video_decode.json     # about 2 minutes

A loader that draws pairs (t, t + 32) at random pays for two frames and for what lies between them and their key frames;
LeRobot keeps decoders of torchcodec open, or decodes with PyAV from the key frame before the first frame to the last.
Ratio: CPU time per pair over CPU time per frame in order, one thread, least of interleaved rounds (medians in
brackets). The videos are made here, 256 x 256 with moving content and noise, with key frames 2 or 30 frames apart;
beside them the packaged sample. torchcodec has no FFmpeg of its own: where none is installed it gets that of PyAV, so
that both decode with the same library. Whether frames are equal bit for bit is counted over all frames.

Needs torchcodec.
"""

import argparse
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from benchmarks.common import Case, environment, interleaved, write_results
from lattok.data import open_dataset, sample_dataset_path
from lattok.data.video import ONE_THREAD, decode_at

FRAMES, SIZE, DELTA, PAIRS = 240, 256, 32, 24
MADE = {"AV1, key frames 2 apart": ("libsvtav1", 2), "H.264, 2 apart": ("h264", 2), "H.264, 30 apart": ("h264", 30)}
CACHED, SEEKING, OURS = "torchcodec, open decoder, pair", "PyAV from the key frame, pair", "lattok, in order, frame"
TORCHCODEC, BORROWED = "torchcodec, in order, frame", "LATTOK_BORROWED_FFMPEG"


class Video(NamedTuple):
    """The first `FRAMES` frames of a file."""

    path: Path
    fps: float


def moving_picture(seed: int = 0) -> np.ndarray:
    """Coloured tiles and a square that move, under noise as of a camera, uint8 [FRAMES, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (SIZE // 8 + 8, SIZE // 8 + 8, 3)).repeat(8, 0).repeat(8, 1)
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for t in range(FRAMES):
        image = tiles[t % 64 : t % 64 + SIZE, t // 2 % 64 : t // 2 % 64 + SIZE].astype(np.float64)
        row, column = 3 * t % (SIZE - 40), 5 * t % (SIZE - 40)
        image[row : row + 40, column : column + 40] = 200
        frames[t] = np.clip(image + rng.normal(0, 6, image.shape), 0, 255)
    return frames


def write_video(path: Path, frames: np.ndarray, codec: str, distance: int) -> Video:
    """Encode with the options that LeRobot sets, and key frames `distance` apart."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    options = {"g": str(distance), "crf": "30"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, Fraction(30), options=options)
        stream.pix_fmt, stream.height, stream.width = "yuv420p", SIZE, SIZE
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return Video(path, 30.0)


def in_order(video: Video) -> np.ndarray:
    """lattok: all frames, uint8 [FRAMES, H, W, 3]."""
    blocks = decode_at(video.path, np.arange(FRAMES) / video.fps, video.fps)
    store, done = np.empty(0, dtype=np.uint8), 0
    for block in blocks:
        store = store if done else np.empty((FRAMES, *block.shape[1:]), dtype=np.uint8)
        store[done : done + len(block)] = block
        done += len(block)
    return store


def threaded(video: Video, threads: int) -> None:
    """The same loop with threads inside the decoder."""
    with av.open(str(video.path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        container.streams.video[0].codec_context.thread_count = threads
        to_rgb = VideoReformatter()
        for i, frame in enumerate(container.decode(video=0)):
            to_rgb.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray()
            if i + 1 == FRAMES:
                return


def from_key_frame(video: Video, pairs: np.ndarray) -> list[np.ndarray]:
    """As LeRobot's PyAV loader: open, seek to the key frame before t, decode to t + DELTA."""
    found, to_rgb = [], VideoReformatter()
    for first, last in pairs.tolist():
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(int(first / video.fps / (stream.time_base or 1)), stream=stream)
            frames = {}
            for frame in container.decode(stream):
                index = round((frame.time or 0) * video.fps)
                frames[index] = to_rgb.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray()
                if index >= last:
                    break
            found += [frames[first], frames[last]]
    return found


def measure(video: Video, rounds: int) -> dict[str, Any]:
    """Milliseconds per pair and per frame, ratios, and how many frames are equal."""
    decoders = importlib.import_module("torchcodec.decoders")
    rng = np.random.default_rng(1)
    first = rng.permutation(FRAMES - DELTA)[:PAIRS]
    pairs = np.stack([first, first + DELTA], 1)
    kept = decoders.VideoDecoder(str(video.path), seek_mode="approximate", num_ffmpeg_threads=1)

    def random_access(pairs: np.ndarray) -> list[torch.Tensor]:
        return [kept.get_frames_at(pair).data for pair in pairs.tolist()]

    def torchcodec_in_order(video: Video) -> torch.Tensor:
        decoder = decoders.VideoDecoder(str(video.path), dimension_order="NHWC", num_ffmpeg_threads=1)
        return decoder.get_frames_in_range(0, FRAMES).data

    functions: dict[str, tuple[Callable[..., Any], Any, int]] = {
        CACHED: (random_access, pairs, PAIRS),
        SEEKING: (lambda p: from_key_frame(video, p), pairs, PAIRS),
        TORCHCODEC: (torchcodec_in_order, video, FRAMES),
        OURS: (in_order, video, FRAMES),
        **{f"PyAV, {n} decoder threads, frame": (lambda v, n=n: threaded(v, n), video, FRAMES) for n in (2, 4)},
    }
    timings = interleaved({name: Case(f, a) for name, (f, a, _) in functions.items()}, rounds, seconds=0.001)
    ours, there = in_order(video), torchcodec_in_order(video).numpy()
    random = torch.cat(random_access(pairs)).movedim(1, -1).numpy()
    out: dict[str, Any] = {
        "equal_frames": {
            "torchcodec in order": int((ours == there).all((1, 2, 3)).sum()),
            "frames": FRAMES,
            "torchcodec pairs": bool((ours[pairs.reshape(-1)] == random).all()),
            "PyAV pairs": bool((ours[pairs.reshape(-1)] == np.stack(from_key_frame(video, pairs))).all()),
        }
    }
    for name, (_, _, count) in functions.items():
        timing = timings[name]
        per = {k: round(getattr(timing, k) / count * 1e3, 4) for k in ("cpu", "cpu_median", "wall", "wall_median")}
        ratio = timing.cpu / count / (timings[OURS].cpu / FRAMES)
        middle = timing.cpu_median / count / (timings[OURS].cpu_median / FRAMES)
        out[name] = {**per, "over_lattok": round(ratio, 2), "over_lattok_of_medians": round(middle, 2)}
    return out


def borrow_ffmpeg() -> None:
    """Start again with PyAV's FFmpeg under the names that torchcodec looks for, if it finds none by itself."""
    sample = open_dataset(sample_dataset_path())
    try:
        importlib.import_module("torchcodec.decoders").VideoDecoder(str(sample.video_span(0, sample.cameras[0])[0]))
    except ImportError:
        sys.exit("this benchmark needs torchcodec: pip install torchcodec")
    except (RuntimeError, OSError):
        libraries = Path(av.__file__).parents[1] / "av.libs"
        if BORROWED in os.environ or not libraries.is_dir():
            raise
        folder = tempfile.mkdtemp()
        for path in libraries.glob("lib[as][vw]*"):
            name = re.fullmatch(r"(lib\w+)-\w+\.so\.(\d+)\..*", path.name)
            if name:
                (Path(folder) / f"{name[1]}.so.{name[2]}").symlink_to(path)
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "LD_LIBRARY_PATH": folder, BORROWED: folder})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    borrow_ffmpeg()
    torch.set_num_threads(1)
    torchcodec = importlib.import_module("torchcodec")
    results: dict[str, Any] = {"environment": environment() | {"torchcodec": torchcodec.__version__}}
    results["environment"]["ffmpeg"] = f"PyAV's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    results["torchcodec_ffmpeg"] = "that of PyAV" if BORROWED in os.environ else "its own"
    print(results["environment"], flush=True)
    results |= {"frames": FRAMES, "size": SIZE, "delta": DELTA, "unit": "ms per pair or per frame", "videos": {}}
    with tempfile.TemporaryDirectory() as scratch:
        picture = moving_picture()
        videos = {
            name: write_video(Path(scratch) / f"{i}.mp4", picture, *settings)
            for i, (name, settings) in enumerate(MADE.items())
        }
        sample = open_dataset(sample_dataset_path())
        videos["sample, AV1, 2 apart, 128 x 128"] = Video(sample.video_span(0, sample.cameras[0])[0], sample.fps)
        for name, video in videos.items():
            results["videos"][name] = measure(video, arguments.rounds)
            print(name, results["videos"][name]["equal_frames"])
            for case in (CACHED, SEEKING, TORCHCODEC, OURS):
                row = results["videos"][name][case]
                ratio = f"x{row['over_lattok']:.2f} ({row['over_lattok_of_medians']:.2f})"
                print(f"    {case:32} {row['cpu']:8.3f} ms  {ratio}", flush=True)
    if arguments.out:
        write_results(arguments.out, results)


if __name__ == "__main__":
    main()
