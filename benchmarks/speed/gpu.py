"""Labelling and training on a GPU at published sizes: frames per second, and the share of what the chip could multiply.

python -m benchmarks.speed.gpu --only labelling --out benchmarks/results/gpu.json    # image latent actions, minutes
python -m benchmarks.speed.gpu --only la_cond --out benchmarks/results/gpu.json      # a policy's training, minutes

`labelling`: DINOv2 ViT-B/14 with registers, 12 blocks and two streams, random weights, a video in main memory.
`la_cond`: the training loop with LA-Cond over Qwen3-VL-2B, all 28 text layers and the image tower, random bfloat16
weights, LoRA of rank 64, two cameras of 224 pixels; batches come out of memory, so that `data_wait` is the loop's own.
`share_of_peak` (MFU) is what the multiplications and additions of matrix products and attention take of the dense
bfloat16 peak that the maker names (`--peak-tflops` for other chips), `share_of_product` of a large product's rate
here. Those of labelling are counted by hand, those of a training step by torch's counter, without what is recomputed.

`--quick` only shows, also on a CPU, that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import environment, write_results
from benchmarks.speed.annotate import full_size, operations
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.inference import for_inference
from lattok.training import RUN, LoopOptions, fit
from lattok.training.runlog import METRICS, read_metrics
from lattok.types import PolicyBatch

PEAKS = {  # dense bfloat16 TFLOP/s by a part of the device's name; the first that fits counts
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
}
STRIDE = 32  # frames between those of a pair
BATCH = 32  # samples of a training step


def seconds(function: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Least wall time of a call, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        _finish(device)
        begun = time.perf_counter()
        function()
        _finish(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(device: torch.device, peak: float | None, quick: bool) -> dict[str, float | None]:
    """TFLOP/s: the dense bfloat16 peak of the chip, where it is known, and of a large product here."""
    size = 512 if quick else 8192
    x, weight = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((float(tflops) for part, tflops in PEAKS.items() if part in name), None)
    return {"peak": peak or known, "product": 2 * size**3 / seconds(lambda: x @ weight, device) / 1e12}


def shares(tflops: float, of: dict[str, float | None]) -> dict[str, float | None]:
    """What was reached, and as shares of what could be."""
    return {"tflops": tflops} | {f"share_of_{name}": rate and tflops / rate for name, rate in of.items()}


def labelling(device: torch.device, of: dict[str, float | None], quick: bool) -> dict[str, Any]:
    """Frames per second of `label_video` in each precision."""
    if quick:
        config = ImageLAMConfig.of(("front",), width=32, heads=2, encoder_depth=3, decoder_depth=1, features="pixels")
        lam, work = ImageLAM(config).eval(), 0.0  # the count by hand is for two networks of one width
    else:
        lam = full_size()
        work = operations(lam.config, 768, lam.features.count, 5, 12)["labelling"]
    lam, frames = lam.to(device), 8 if quick else 1024
    video = np.random.default_rng(0).integers(0, 256, (frames, 1, 224, 224, 3), dtype=np.uint8)
    found: dict[str, Any] = {"frames": frames, "gflop_per_frame": work / 1e9}
    for precision in ("float32", "bfloat16"):
        labeller = for_inference(lam, precision=precision)
        rate = frames / seconds(lambda one=labeller: one.label_video(video, STRIDE), device)
        found[precision] = {"frames_per_s": rate, **shares(rate * work / 1e12, of)}
    return found


def la_cond(device: torch.device, of: dict[str, float | None], quick: bool, steps: int, folder: Path) -> dict[str, Any]:
    """Steps of the training loop: samples and frames per second, waiting for data, and the work of a step."""
    from benchmarks.speed.vla_models import DEPTH, NARROW, TOWER, WIDE, make_backbone, make_batch, make_policy
    from tests.backbones.tiny import tiny_backbone

    tiny, count = tiny_backbone("qwen3_vl", folder / "tiny"), 2 if quick else BATCH
    dims, layers, tower = (NARROW, 2, None) if quick else (WIDE, DEPTH, TOWER)
    policy = make_policy("la_cond", make_backbone(tiny, layers, dims, torch.bfloat16, device, tower=tower), device)
    batch = make_batch(policy, torch.device("cpu"), count)
    weights = policy.config.loss_weights
    with FlopCounterMode(display=False) as counter, torch.autocast(device.type, torch.bfloat16):
        terms = policy(batch)
        sum(weight * terms[name] for name, weight in weights.items()).backward()  # type: ignore[union-attr]
    policy.zero_grad(set_to_none=True)
    work = counter.get_total_flops()
    options = LoopOptions(
        steps=steps,
        batch_size=count,
        optimizer="adamw",
        precision="bf16",
        device=device.type,
        log_every=max(1, steps // 5),
        save_every=10 * steps,
    )

    def batches(step: int, process: int, processes: int) -> PolicyBatch:
        return batch

    fit(policy, batches, options, folder, loss_weights=weights)
    logged = read_metrics(folder / RUN / METRICS)[1:]  # the first steps warm up
    rate = max(entry["samples_per_second"] for entry in logged)
    return {
        "batch": count,
        "tflop_per_step": work / 1e12,
        "seconds_per_step": count / rate,
        "samples_per_s": rate,
        "frames_per_s": rate * batch.images.shape[1],
        "data_wait": max(entry["data_wait"] for entry in logged),
        "memory_gb": logged[-1].get("memory_gb"),
        **shares(work * rate / count / 1e12, of),
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["labelling", "la_cond"], default=["labelling", "la_cond"])
    parser.add_argument("--out", type=Path, help="results file; the part that is not measured stays as it is in it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the chip")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type != "cuda" and not args.quick:
        parser.error("needs a CUDA device; --quick shows on a CPU that it runs")
    if args.quick and args.out:
        parser.error("--quick measures nothing worth a file")
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    of = rates(device, args.peak_tflops, args.quick)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    for part in args.only:
        with tempfile.TemporaryDirectory() as folder:
            found = (
                labelling(device, of, args.quick)
                if part == "labelling"
                else la_cond(device, of, args.quick, 5 if args.quick else args.steps, Path(folder))
            )
        results[part] = {"environment": environment(), "device": name, "bfloat16_tflops": of, **found}
        print(json.dumps({part: results[part]}, indent=1))
    if args.out is not None:
        write_results(args.out, results)


if __name__ == "__main__":
    main()
