"""Training windows per second, by where they come from, against what a model consumes.

python -m benchmarks.speed.windows --out benchmarks/results/windows_speed.json     # about 3 minutes

A pair is two frames one stride apart, resized to what the model sees. Random access decodes the two frames of every
pair when it is drawn; lattok decodes every frame once, in order, and a batch is one gather from memory or from a file.
Decoding is paid once per run, so its cost and the cost of a batch stand apart. Loaders with workers are those of torch.
Rates are wall time of the fastest round: workers are other processes. Pairs are of the packaged sample (AV1, key frames
2 apart, 128 x 128) and of a video made here (H.264, key frames 30 apart, 256 x 256).

Needs torchcodec.
"""

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import Case, environment, interleaved, write_results
from benchmarks.speed.video import FRAMES, Video, borrow_ffmpeg, from_key_frame, moving_picture, write_video
from lattok.data import open_dataset, sample_dataset_path
from lattok.data.video import decode_at
from lattok.image_lam import ImageLAM, PairLearner
from lattok.image_lam.base.feature_cache import FeatureFile, FeatureReader, open_features
from lattok.image_lam.base.features import FrozenFeatures
from lattok.recipes import ImageLAMRecipe
from lattok.samples import ActionWindows, FramePairs
from lattok.samples import frames as frame_store
from lattok.samples.batches import PairBatches
from lattok.types import Episode

STRIDE, BATCH, SIZE = 16, 32, 64
RANDOM_PAIRS = 480  # per round of a loader
IN_ORDER = "lattok: frames decoded in order, 1 thread (once per run)"
LARGE = 224  # side of the frames of the full preset
FULL_GFLOP = 2 * 47.1 + 3 * (125.3 + 48.0)  # of a pair: frozen features, and forward and backward of the rest
GPU_TFLOPS, GPU_SHARE = 989, 0.4  # H200 in bfloat16, and what we suppose a training step reaches of it


def small(block: np.ndarray) -> np.ndarray:
    """Frames as the preset tiny sees them."""
    return FrozenFeatures("pixels", SIZE, interpolation="bilinear").resize(torch.from_numpy(block)).numpy()


class RandomPairs(Dataset):
    """Pairs decoded when they are drawn, uint8 [2, SIZE, SIZE, 3]; every worker keeps a decoder open."""

    def __init__(self, path: Path, first: np.ndarray, fps: float, decoder: str):
        self.path, self.first, self.fps, self.decoder = path, first, fps, decoder
        self.resize = FrozenFeatures("pixels", SIZE, interpolation="bilinear").resize
        self.kept: Any = None

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> torch.Tensor:
        pair = [int(self.first[i]), int(self.first[i]) + STRIDE]
        if self.decoder == "PyAV":
            frames = from_key_frame(Video(self.path, self.fps), np.array([pair]))
            return self.resize(torch.from_numpy(np.stack(frames)))
        if self.kept is None:
            decoders = importlib.import_module("torchcodec.decoders")
            self.kept = decoders.VideoDecoder(
                str(self.path), dimension_order="NHWC", seek_mode="approximate", num_ffmpeg_threads=1
            )
        return self.resize(self.kept.get_frames_at(pair).data)


def loader_rates(path: Path, frames: int, fps: float, rounds: int) -> dict[str, float]:
    """Pairs per second of random access, by decoder and workers."""
    first = np.random.default_rng(0).permutation(np.arange(RANDOM_PAIRS) % (frames - STRIDE))
    rates: dict[str, float] = {}
    cases = [("torchcodec, open decoder", n) for n in (0, 1, 2, 4)] + [("PyAV", n) for n in (0, 2)]
    loaders = {
        f"{name}, {workers} workers": DataLoader(
            RandomPairs(path, first[: RANDOM_PAIRS // (4 if name == "PyAV" else 1)], fps, name),
            BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for name, workers in cases
    }
    for loader in loaders.values():
        next(iter(loader))  # start the workers
    for _ in range(rounds):
        for name, loader in loaders.items():
            begun, pairs = time.perf_counter(), 0
            for batch in loader:
                pairs += len(batch)
            rates[name] = max(rates.get(name, 0.0), pairs / (time.perf_counter() - begun))
    return rates


def in_order_rate(path: Path, frames: int, fps: float, rounds: int) -> float:
    """Frames per second decoded in order and resized, one thread."""
    resize = FrozenFeatures("pixels", SIZE, interpolation="bilinear").resize

    def decode(_: None) -> None:
        for block in decode_at(path, np.arange(frames) / fps, fps):
            resize(torch.from_numpy(block))

    return frames / interleaved({"": Case(decode, None)}, rounds, seconds=0.001)[""].wall


def whole_dataset(dataset: Any, rounds: int) -> dict[str, float]:
    """Frames per second of `FramePairs` over the sample, by decoding threads."""
    own, found = frame_store.DECODERS, {}
    for _ in range(rounds):
        for name, decoders in {"1 thread": 1, "as many threads as cores": own}.items():
            frame_store.DECODERS = decoders
            begun = time.perf_counter()
            pairs = FramePairs(dataset, STRIDE, ["corner2"], transform=small)
            found[name] = max(found.get(name, 0.0), len(pairs.frames) / (time.perf_counter() - begun))
    return found


def rates(cases: dict[str, Callable[[torch.Tensor], Any]], samples: int, rounds: int) -> dict[str, float]:
    """Samples per second of functions of the indices of a batch."""
    draws = torch.randint(samples, (64, BATCH), generator=torch.Generator().manual_seed(0))

    def drawn(function: Callable[[torch.Tensor], Any]) -> Callable[[list[int]], None]:
        def call(counter: list[int]) -> None:
            counter[0] += 1
            function(draws[counter[0] % len(draws)])

        return call

    timings = interleaved({name: Case(drawn(f), [0]) for name, f in cases.items()}, rounds, seconds=0.05)
    return {name: BATCH / timing.wall for name, timing in timings.items()}


def gathers(dataset: Any, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Batches from memory, from a file and from cached features: small as for `tiny`, and large as for `full`."""
    frozen = FrozenFeatures("pixels", SIZE, interpolation="bilinear")
    memory = FramePairs(dataset, STRIDE, ["corner2"], transform=small)
    cached = FramePairs(dataset, STRIDE, ["corner2"])
    cached.frames = np.empty((len(cached.reader), 0), dtype=np.uint8)
    cached.features = reader = open_features(folder / "cache", frozen, cached.frame_reader)
    reader.compute()
    windows = ActionWindows(dataset, 8)
    out = {
        "actions, chunks of 8": rates({"memory": windows.batch}, len(windows), rounds),
        f"pairs at {SIZE} x {SIZE}": rates(
            {
                "frames in memory": memory.batch,
                "frames in a file": _in_a_file(memory, folder).batch,
                "features in the cache (pixels, float32)": cached.batch,
                "features computed (pixels)": lambda rows: frozen(memory.batch(rows).frames.flatten(0, 2)),
            },
            len(memory),
            rounds,
        ),
    }
    big = FramePairs(dataset, STRIDE, ["corner2"], episodes="0:8")
    count = len(big.reader)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, LARGE, LARGE, 3), dtype=np.uint8)
    cases: dict[str, Callable[[torch.Tensor], Any]] = {}
    for name, stored in {"frames in memory": pixels, "frames in a file": _mapped(pixels, folder)}.items():
        pairs = FramePairs(dataset, STRIDE, ["corner2"], episodes="0:8")
        pairs.frames = stored
        cases[name] = pairs.batch
    for dtype in ("float32", "float16"):
        pairs = FramePairs(dataset, STRIDE, ["corner2"], episodes="0:8")
        values = np.random.default_rng(0).standard_normal((count, 256, 768), dtype=np.float32).astype(dtype)
        file = FeatureFile(folder / f"{dtype}.npy", values.shape, dtype)
        file.write([values])
        one = SimpleNamespace(dataset=None, episodes=[Episode(0, count, ())], cameras=pairs.cameras)  # all in a file
        sizes = SimpleNamespace(count=values.shape[1], dim=values.shape[2])
        pairs.features = FeatureReader(sizes, one, {(0, pairs.cameras[0]): file})
        pairs.frames = np.empty((count, 0), dtype=np.uint8)
        cases[f"features in the cache (256 x 768, {dtype})"] = pairs.batch
    out[f"pairs at {LARGE} x {LARGE}"] = rates(cases, len(big), rounds)
    return out


def _mapped(values: np.ndarray, folder: Path) -> np.ndarray:
    """The same numbers in a file that is in the page cache."""
    with tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, values.dtype, "w+", shape=values.shape)
        mapped[:] = values
        return np.asarray(mapped)


def _in_a_file(pairs: FramePairs, folder: Path) -> FramePairs:
    other = object.__new__(FramePairs)
    other.__dict__.update(pairs.__dict__)
    other.frames = _mapped(pairs.frames, folder)
    return other


def filling(dataset: Any, folder: Path) -> dict[str, Any]:
    """The cache cold and warm against computing, for a network with random weights: frames per second, and room."""
    name, out = "timm:vit_small_patch14_dinov2.lvd142m", {}
    torch.manual_seed(0)
    frozen = FrozenFeatures(name, LARGE)
    frozen.load(pretrained=False)  # random weights are as fast
    pairs = FramePairs(dataset, STRIDE, ["corner2"], episodes="3:4")
    frames = len(pairs.reader)
    for state in ("cold", "warm, opening included"):
        begun = time.perf_counter()
        known = open_features(folder / "filled", frozen, pairs.frame_reader)
        known.compute()
        known(np.arange(frames))
        out[state] = frames / (time.perf_counter() - begun)
    pixels = torch.from_numpy(np.concatenate([dataset.frames(e.index, ["corner2"])[:, 0] for e in pairs.episodes]))
    begun = time.perf_counter()
    for block in pixels.split(2 * BATCH):
        frozen(block)
    out["computed at every step"] = frames / (time.perf_counter() - begun)
    sizes = {}
    for dtype in ("float32", "float16"):
        first = frame_store.FrameReader(dataset, pairs.episodes[:1], pairs.cameras)
        open_features(folder / dtype, frozen, first, dtype).compute()
        files = list((folder / dtype).rglob("*.npy"))
        sizes[dtype] = sum(path.stat().st_size for path in files) / pairs.episodes[0].length
    return {"network": name, "frames": frames, "frames_per_second": out, "bytes_per_frame": sizes}


def consumption(dataset: Any, rounds: int) -> dict[str, float]:
    """Steps per second of the preset tiny+robust+flow, with batches that are there, and the time a batch takes."""
    recipe = ImageLAMRecipe.from_preset("", "", "tiny+robust+flow", features="pixels")
    torch.manual_seed(0)
    model = ImageLAM(recipe.config(cameras=("observation.images.corner2",)))
    pairs = FramePairs(dataset, STRIDE, ["corner2"], transform=model.resize)
    learner = PairLearner(model)
    learner.attach_action_head(torch.from_numpy(pairs.actions[pairs.labelled]))
    batches = PairBatches(pairs, recipe.loop.batch_size, recipe.data.labelled_per_batch, 0)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=recipe.loop.lr)
    batch, weights = batches(0, 0, 1), model.config.loss_weights

    def step(_: None) -> None:
        terms = learner.train()(batch)
        torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    cases = {"step": Case(step, None), "batch": Case(partial(batches, share=0, shares=1), 7)}
    timings = interleaved(cases, rounds, seconds=0.05)
    pair_count = len(batch.frames)
    return {
        "pairs_per_step": pair_count,
        "steps_per_second": 1 / timings["step"].wall,
        "pairs_per_second": pair_count / timings["step"].wall,
        "batch_share_of_step": timings["batch"].wall / timings["step"].wall,
    }


def markdown(results: dict[str, Any]) -> str:
    """The figures as tables, with the machine at the top."""
    machine = results["environment"]
    lines = ["# Training windows per second", ""]
    lines += [f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, PyAV {machine['av']}, "]
    lines[-1] += f"{machine['threads']} thread of torch, commit {machine['commit']}. Wall time, fastest round."
    for title, rows in results["tables"].items():
        lines += ["", f"## {title}", "", "| source | per second |", "|---|---:|"]
        lines += [f"| {name} | {value:,.{0 if value >= 10 else 2}f} |" for name, value in rows.items()]
    return "\n".join([*lines, "", *results["notes"], ""])


def tables(dataset: Any, folder: Path, rounds: int) -> dict[str, Any]:
    """All figures."""
    made = write_video(folder / "made.mp4", moving_picture(), "h264", 30)
    path = dataset.video_span(0, "observation.images.corner2")[0]
    videos = {
        "sample, AV1, key frames 2 apart": (path, sum(e.length for e in dataset.episodes[:10]), dataset.fps),
        "H.264, key frames 30 apart, 256 x 256": (made.path, FRAMES, made.fps),
    }
    out: dict[str, Any] = {"tables": {}}
    for name, (file, frames, fps) in videos.items():
        rows = loader_rates(file, frames, fps, rounds)
        rows[IN_ORDER] = in_order_rate(file, frames, fps, rounds)
        out["tables"][f"Pairs by random access: {name}"] = rows
    decoded = whole_dataset(dataset, rounds)
    out["tables"]["Frames of the whole sample, decoded once by FramePairs"] = decoded
    for name, rows in gathers(dataset, folder, rounds).items():
        out["tables"][f"Batches of {BATCH}: {name}"] = rows
    out["filling"] = filling(dataset, folder)
    out["tables"][f"Feature cache, frames of {out['filling']['network']}"] = out["filling"]["frames_per_second"]
    out["model"] = consumption(dataset, rounds)
    return out


def notes(out: dict[str, Any]) -> Sequence[str]:
    """What the rates mean for a model here and on a GPU."""
    model, sizes = out["model"], out["filling"]["bytes_per_frame"]
    gpu = GPU_TFLOPS * 1e3 * GPU_SHARE / FULL_GFLOP
    cached = GPU_TFLOPS * 1e3 * GPU_SHARE / (FULL_GFLOP - 2 * 47.1)
    large = out["tables"][f"Batches of {BATCH}: pairs at {LARGE} x {LARGE}"]
    random = next(rows for name, rows in out["tables"].items() if name.startswith("Pairs by random access: sample"))
    in_order = random[IN_ORDER]
    best = max(rate for name, rate in random.items() if name != IN_ORDER)
    texts = (
        [
            "Decoding a frame of the sample in order, once per run, takes as long as drawing",
            f"{best / in_order:.2f} pairs at random, at every step, with the best loader.",
        ],
        [
            f"The preset tiny+robust+flow consumes {model['pairs_per_second']:,.0f} pairs/s here",
            f"({model['steps_per_second']:.1f} steps/s of {model['pairs_per_step']}); making a batch is",
            f"{model['batch_share_of_step']:.1%} of a step.",
        ],
        [
            f"Arithmetic, not measured: the preset full needs {FULL_GFLOP:.0f} GFLOP per pair,",
            f"{FULL_GFLOP - 94.2:.0f} with cached features. At {GPU_SHARE:.0%} of an H200's {GPU_TFLOPS} TFLOP/s",
            f"that is {gpu:,.0f} pairs/s, {cached:,.0f} cached. One core here gathers",
            f"{large['frames in memory']:,.0f} pairs/s of frames and",
            f"{large['features in the cache (256 x 768, float32)']:,.0f} of features.",
        ],
        [
            f"Room in the cache, {out['filling']['network']} at {LARGE}:",
            f"{sizes['float32'] / 1e3:,.0f} kB per frame in float32, {sizes['float16'] / 1e3:,.0f} kB in float16.",
        ],
    )
    return [f"- {' '.join(text)}" for text in texts]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    borrow_ffmpeg()
    torch.set_num_threads(1)
    dataset = open_dataset(sample_dataset_path())
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "environment": environment() | {"torchcodec": version("torchcodec")},
            **tables(dataset, Path(folder), arguments.rounds),
        }
    results["notes"] = notes(results)
    print(markdown(results))
    if arguments.out:
        write_results(arguments.out, results)
        arguments.out.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
