"""Speed of labelling video with the image latent action model, against the straightforward way, pair by pair.

python -m benchmarks.speed.annotate --out benchmarks/results/annotate_speed.json               # < 15 minutes

Parts: `full`, the published size (DINOv2 ViT-B/14 with registers, 12 blocks, two streams) with random weights, one
thread, CPU time, least of interleaved rounds; `small`, models trained on the packaged sample, with the agreement of
their codes with float32 and the float64 margins where they differ. Decoding is not in it; on a GPU see gpu.py.
"""

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case, environment, gemm_rate, interleaved, ratios, write_results
from benchmarks.reference.univla import StraightforwardLAM
from lattok.data import camera_keys, open_dataset, sample_dataset_path
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.inference import PRECISIONS, for_inference
from lattok.types import LatentActions

FRAMES = 8  # of the timed video
BASE, AUTOCAST = "straightforward", "straightforward in autocast"
WAYS = {f"torch {precision}": precision for precision in PRECISIONS}  # name: precision
WANTED = {"torch float32": 1.33, "torch bfloat16": 5.0}
WANTED_OVER_AUTOCAST = 1.5
KNOWN_MINIMUM = 157.5e9  # operations per frame, the least known before; the floor that shares refer to


def full_size() -> ImageLAM:
    """The published size with random weights."""
    torch.manual_seed(0)
    features = "timm:vit_base_patch14_reg4_dinov2"
    lam = ImageLAM(ImageLAMConfig.of(cameras=("front",), features=features, streams="control+env", decoder_depth=1))
    lam.features.load(pretrained=False)  # random weights do for timing
    return lam.eval()


def operations(config: ImageLAMConfig, dim: int, patches: int, prefix: int, depth: int) -> dict[str, float]:
    """Multiplications and additions per frame in matrix products: straightforward pairs, and what labelling does.

    dim, patches, prefix, depth: of the vision transformer; both widths are taken to be equal.
    """
    tokens = patches + (2 if config.streams != "control" else 1) * config.tokens
    queries = tokens - patches

    def attention(asking: int, all_of: int) -> float:
        return 4.0 * asking * all_of * dim

    def linear(count: int, matrices: float) -> float:
        return 2.0 * count * matrices * dim**2

    seen = patches + prefix
    vit = depth * (linear(seen, 12) + attention(seen, seen)) + 2.0 * patches * dim * 3 * 14**2
    stem, space = linear(tokens, 1), linear(tokens, 4) + attention(tokens, tokens)
    block = 2 * space + linear(tokens, 8 + 16) + 2 * attention(tokens, 2)
    inner = 2 * space + linear(tokens, 5 + 16)
    last = 2 * (linear(tokens, 2) + linear(queries, 2) + attention(queries, tokens)) + linear(queries, 5 + 8)
    layers = config.encoder.depth
    return {
        BASE: 2 * (vit + stem) + layers * block,
        "labelling": vit + stem + space + linear(tokens, 5 + 16) + (layers - 2) * inner + last,
    }


def measure_full(rounds: int) -> dict[str, Any]:
    """Seconds per frame of every way, and what the machine could do."""
    lam = full_size()
    plain = StraightforwardLAM(lam)
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 1, 224, 224, 3), dtype=np.uint8)
    later = np.minimum(np.arange(FRAMES) + 4, FRAMES - 1)
    pairs = torch.from_numpy(np.stack([video, video[later]], 1))
    ways = {name: for_inference(lam, how) for name, how in WAYS.items()}

    def autocast(pairs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain.codes(pairs)

    cases = {BASE: Case(plain.codes, pairs[:1]), AUTOCAST: Case(autocast, pairs)}
    cases |= {name: Case(lambda v, way=way: way.label_video(v, 4), video) for name, way in ways.items()}
    counts = {name: 1 if name == BASE else FRAMES for name in cases}
    timings = {
        name: type(t)(*(value / counts[name] for value in t)) for name, t in interleaved(cases, rounds, 1e-3).items()
    }
    work = operations(lam.config, 768, lam.features.count, 5, 12)
    float32, bfloat16 = gemm_rate() * 1e9, bfloat16_rate()
    rows = {}
    for name, (ratio, middle) in ratios(timings, BASE).items():
        seconds = timings[name].cpu
        floor = KNOWN_MINIMUM / (bfloat16 if "autocast" in name or "bfloat16" in name else float32)
        rows[name] = {"s_per_frame": seconds, "ratio": ratio, "ratio_median": middle, "share_of_floor": floor / seconds}
        rows[name]["over_autocast"] = timings[AUTOCAST].cpu / seconds
    return {
        "rows": rows,
        "gflop_per_frame": {name: count / 1e9 for name, count in work.items()},
        "gemm_gflops": {"float32": float32 / 1e9, "bfloat16": bfloat16 / 1e9},
        "held_MB_per_frame": 4 * lam.config.width * (lam.features.count + 2 * lam.config.tokens) / 1e6,
        "codes_equal": {name: _equal(plain.codes(pairs), way.label_video([video], 4)) for name, way in ways.items()},
    }


def _equal(codes: Tensor, labels: LatentActions) -> str:
    found = torch.cat([labels.codes, labels.env.codes], 1) if labels.env is not None else labels.codes
    return f"{int((codes == found).sum())}/{codes.numel()}"


def bfloat16_rate() -> float:
    """Operations per second of torch's bfloat16 product at the size of a feed-forward layer."""
    x, weight = torch.randn(2112, 768).bfloat16(), torch.randn(3072, 768).bfloat16()
    timing = interleaved({"product": Case(lambda a: F.linear(a, weight), x)}, 15)["product"]
    return 2 * 2112 * 768 * 3072 / timing.cpu


def trained_models(folder: Path, steps: int) -> Iterator[tuple[str, ImageLAM]]:
    """Small models trained on the packaged sample: `tiny+p2t` and `tiny+robust` on pixels, and six blocks on a ViT."""
    from lattok.recipes import train
    from lattok.recipes.image_lam import ImageLAMRecipe

    alive = {"codebook_update": "ema", "codebook_start": "kmeans", "codebook_continuous_steps": steps // 5}
    alive |= {"codebook_restart_every": 0, "features": "pixels"}
    deep = {"features": random_vit(folder / "vit"), "width": 128, "encoder_depth": 6}
    os.environ["LATTOK_DATA"] = str(folder)  # where loading may read what a model names
    kinds = {
        "tiny+p2t": ("tiny+p2t", alive),
        "tiny+robust": ("tiny+robust", {"codebook_continuous_steps": steps // 5, "features": "pixels"}),
        "ViT, 6 blocks": ("tiny+p2t", alive | deep),
    }
    for number, (name, (preset, options)) in enumerate(kinds.items()):
        out = folder / f"model{number}"
        if not (out / "config.json").exists():
            train(ImageLAMRecipe.from_preset(sample_dataset_path(), out, preset, steps=steps, **options))
        yield name, ImageLAM.from_pretrained(out)


def random_vit(folder: Path) -> str:
    """A small vision transformer with registers and random weights, as timm reads it from a folder."""
    import safetensors.torch
    import timm

    sizes = {"embed_dim": 96, "depth": 6, "num_heads": 3, "reg_tokens": 4, "no_embed_class": True, "init_values": 0.5}
    torch.manual_seed(3)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, **sizes)
    draw = torch.Generator().manual_seed(3)
    weights = dict(network.state_dict())
    for name, tensor in weights.items():
        if tensor.ndim in (2, 4):  # matrices that keep the size of what they multiply; timm's are near zero
            weights[name] = torch.randn(tensor.shape, generator=draw) * tensor[0].numel() ** -0.5
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": sizes, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{folder}"


def measure_small(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Codes and labels per second of every way on trained models."""
    dataset, results = open_dataset(sample_dataset_path()), {}
    for name, lam in trained_models(folder, steps):
        stride = lam.stride_frames(dataset.fps)
        keys = camera_keys(dataset, lam.cameras)
        videos = [dataset.frames(episode.index, keys, transform=lam.resize) for episode in dataset.episodes]
        ways = {way: for_inference(lam, how) for way, how in WAYS.items()}
        exact, margins = float64_codes(lam, videos, stride)
        labels = {way: _codes(labeller, videos, stride) for way, labeller in ways.items()}
        codes = {way: agreement(found, labels["torch float32"], exact, margins) for way, found in labels.items()}
        longest = max(videos, key=len)
        cases = {
            way: Case(lambda v, one=one, stride=stride: one.label_video(v, stride), longest)
            for way, one in ways.items()
        }
        timings = interleaved(cases, rounds)
        speed = {way: len(longest) / timing.cpu for way, timing in timings.items()}
        results[name] = {"codes": codes, "labels_per_s": speed}
    return results


def _codes(labeller: Any, videos: list[np.ndarray], stride: int) -> Tensor:
    return torch.cat([labeller.label_video([video], stride).codes for video in videos])


@torch.no_grad()
def float64_codes(lam: ImageLAM, videos: list[np.ndarray], stride: int) -> tuple[Tensor, Tensor]:
    """Codes [N, P] by the plain modules in float64, and margins (d2 - d1) / d2 of the squared distances."""
    model, codes, margins = copy.deepcopy(lam).double(), [], []
    books = model.control.quantizer.codebook_vectors
    for video in videos:
        features = model.frame_features(torch.from_numpy(video))
        later = features[(torch.arange(len(video)) + stride).clamp_max(len(video) - 1)]
        tokens = model.encoder(torch.stack([features, later], 1))[:, : lam.config.tokens]
        left, found = model.control.latents(tokens), []
        for book in books:
            near = torch.cdist(left, book).square().topk(2, largest=False)
            found.append((near.indices[..., 0], 1 - near.values[..., 0] / near.values[..., 1]))
            left = left - book[near.indices[..., 0]]
        for total, parts in zip((codes, margins), zip(*found, strict=True), strict=True):
            total.append(torch.cat(parts, 1))
    return torch.cat(codes), torch.cat(margins)


def agreement(codes: Tensor, base: Tensor, exact: Tensor, margins: Tensor) -> dict[str, Any]:
    """How often codes differ from float32's, and the float64 margins where they do; of a row only its first change.

    Levels of a residual quantizer after a changed one are about something else.
    """
    other = codes != base
    first = other & (other.cumsum(1) == 1)
    at = margins[first]
    return {
        "codes": codes.numel(),
        "equal": float((~other).double().mean()),
        "rows_equal": float((~other).all(1).double().mean()),
        "differ": int(other.sum()),
        "margin_where_different": {f"{q:g}": float(at.quantile(q)) for q in (0.5, 0.9, 1)} if len(at) else {},
        "median_margin": float(margins.median()),
        "wrong_by_float64": int((codes != exact).sum()),
    }


def show_full(results: dict[str, Any]) -> None:
    """Print the table of the published size and what was wanted."""
    rates, work = results["gemm_gflops"], results["gflop_per_frame"]
    print(f"\nfull size, one thread, {rates['float32']:.0f} GFLOP/s float32, {rates['bfloat16']:.0f} bfloat16")
    held = f"{results['held_MB_per_frame']:.2f} MB held per frame of the stride"
    print(f"  {work[BASE]:.1f} GFLOP per frame straightforward, {work['labelling']:.1f} here; {held}")
    for name, row in results["rows"].items():
        goal = WANTED.get(name)
        verdict = "" if goal is None else f"  wanted ×{goal:g}: {'reached' if row['ratio'] >= goal else 'MISSED'}"
        print(
            f"  {name:28s} {row['s_per_frame']:6.3f} s/frame  ×{row['ratio']:.2f} (×{row['ratio_median']:.2f})"
            f"  ×{row['over_autocast']:.2f} over autocast  {row['share_of_floor']:4.0%} of the floor{verdict}"
        )
    least = results["rows"]["torch bfloat16"]["over_autocast"]
    reached = "reached" if least >= WANTED_OVER_AUTOCAST else "MISSED"
    print(f"  bfloat16 over autocast wanted ×{WANTED_OVER_AUTOCAST}: {reached}; codes equal {results['codes_equal']}")


def show_small(results: dict[str, Any]) -> None:
    """Print agreement and throughput of the trained models."""
    for name, figures in results.items():
        print(f"\n{name}, trained on the sample")
        for way, codes in figures["codes"].items():
            margins = codes["margin_where_different"]
            where = (
                f", margins there up to {margins['1']:.2g} (median of all {codes['median_margin']:.2g})"
                if margins
                else ""
            )
            print(f"  {way:22s} {figures['labels_per_s'][way]:7.0f} labels/s  codes equal {codes['equal']:.3%}{where}")


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results file; parts that are not measured stay as they are in it")
    parser.add_argument("--only", nargs="+", choices=["full", "small"], default=["full", "small"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="training steps of the small models")
    parser.add_argument("--models", type=Path, help="folder that keeps the trained models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    if "full" in args.only:
        results["full"] = {"environment": environment(), **measure_full(args.rounds)}
        show_full(results["full"])
    if "small" in args.only:
        with tempfile.TemporaryDirectory() as scratch:
            results["small"] = measure_small(args.models or Path(scratch), args.steps, args.rounds)
        show_small(results["small"])
    if args.out is not None:
        write_results(args.out, results)


if __name__ == "__main__":
    main()
