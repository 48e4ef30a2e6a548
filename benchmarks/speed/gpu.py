"""Labelling and training on a GPU at published sizes: frames per second, and the share of what the chip could multiply.

python -m benchmarks.speed.gpu --only labelling --out benchmarks/results/gpu.json    # image latent actions, minutes
python -m benchmarks.speed.gpu --only la_cond --out benchmarks/results/gpu.json      # a policy's training, minutes
python -m benchmarks.speed.gpu --out benchmarks/results/gpu.json                     # all: ten minutes, 8 GB

`labelling`: DINOv2 ViT-B/14 with registers, 12 blocks and two streams, random weights, a video in main memory.
`la_cond`: the training loop with LA-Cond over Qwen3-VL-2B, all 28 text layers and the image tower, random bfloat16
weights, LoRA of rank 64, two cameras of 224 pixels; batches come out of memory, so that `data_wait` is the loop's own.
`families`: training of the action tokenizer and of an image model at published size, in the loop, in bfloat16.
`codes`: the share of the CPU's codes that the device gives, of both.
`memory`: what a step of some presets takes at most, and what `benchmarks.speed.memory` counted for it.
The last line sums it up.
`share_of_peak` (MFU) is what the multiplications and additions of matrix products and attention take of the dense
bfloat16 peak that the maker names (`--peak-tflops` for other chips), `share_of_product` of a large product's rate
here. Those of labelling are counted by hand, those of a training step by torch's counter, without what is recomputed.

`--quick` only shows, also on a CPU, that everything runs: its figures mean nothing.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import environment, finish, name_of, write_results
from benchmarks.speed.annotate import full_size, operations
from lattok.action_vq import P2TActionVQ
from lattok.cli.doctor import COUNTED
from lattok.data import camera_keys, open_dataset, sample_dataset_path
from lattok.image_lam import ImageLAM, ImageLAMConfig, PairLearner
from lattok.inference import PRECISIONS, for_inference
from lattok.nn.rounding import Rounding
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, recipe_of
from lattok.training import RUN, LoopOptions, fit
from lattok.training.runlog import METRICS, read_metrics
from lattok.types import ActionBatch, PairBatch, PolicyBatch
from lattok.utils.devices import device_called, module_of

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
PARTS = ("labelling", "la_cond", "families", "codes", "memory")
PRESETS = {  # whose memory is measured -> samples of a step, at most
    "action-vq/p2t": 128,
    "idm/small": 64,
    "moto-lam/small": 64,
    "image-lam/small+robust+flow": 64,
    "image-lam/full+robust+flow": 64,
    "vla/scratch": 32,
    "vla/libero --backbone-dtype bfloat16": 32,
}


def seconds(function: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Least wall time of a call, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        finish(device)
        begun = time.perf_counter()
        function()
        finish(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def rates(device: torch.device, peak: float | None, quick: bool) -> dict[str, float | None]:
    """TFLOP/s: the dense bfloat16 peak of the chip, where it is known, and of a large product here."""
    size = 512 if quick else 8192
    x, weight = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    known = next((float(tflops) for part, tflops in PEAKS.items() if part in name_of(device)), None)
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
    for precision in PRECISIONS:
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
    plain = sdpa_kernel(SDPBackend.MATH)  # what the counter knows of attention with fewer keys than queries
    with plain, FlopCounterMode(display=False) as counter, torch.autocast(device.type, torch.bfloat16):
        terms = policy(batch)
        sum(weight * terms[name] for name, weight in weights.items()).backward()  # type: ignore[union-attr]
    policy.zero_grad(set_to_none=True)
    work = counter.get_total_flops()
    options = LoopOptions(
        steps=steps,
        batch_size=count,
        optimizer="adamw",
        precision="bf16",
        device=str(device),
        log_every=max(1, steps // 5),
        save_every=10 * steps,
    )

    def batches(step: int, process: int, processes: int) -> PolicyBatch:
        return policy.prepared(batch)  # in a thread ahead of the steps, as the recipe does

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


def families(device: torch.device, quick: bool, steps: int, folder: Path) -> dict[str, Any]:
    """Samples per second, waiting and memory of the training of each family."""
    found: dict[str, Any] = {}
    for kind, (module, batch, weights) in learners(quick).items():
        count = len(batch[0])
        options = LoopOptions(
            steps=steps,
            batch_size=count,
            precision="bf16",
            device=str(device),
            log_every=max(1, steps // 5),
            save_every=10 * steps,
        )
        fit(module, lambda *_, batch=batch: batch, options, folder / kind, loss_weights=weights)
        logged = read_metrics(folder / kind / RUN / METRICS)[1:]
        found[kind] = {
            "batch": count,
            "samples_per_s": max(entry["samples_per_second"] for entry in logged),
            "data_wait": max(entry["data_wait"] for entry in logged),
            "memory_gb": logged[-1].get("memory_gb"),
        }
    return found


def learners(quick: bool) -> dict[str, tuple[Any, Any, Any]]:
    """Module, batch and weights of the losses of each family, at the size of its paper; random weights."""
    torch.manual_seed(0)
    tokenizer: Any = ActionVQRecipe.from_preset("data", "out", "quick" if quick else "p2t")
    tokenizer = P2TActionVQ(tokenizer.config(action_dim=7))
    chunks = torch.randn(4 if quick else 128, tokenizer.horizon, 7)
    lam: Any = ImageLAMRecipe.from_preset("data", "out", "tiny" if quick else "small", features=features_of(quick))
    lam = ImageLAM(lam.config(cameras=("front",)))
    lam.features.load(pretrained=False)
    learner, side = PairLearner(lam), lam.config.image_size
    learner.attach_action_head(torch.randn(9, 7))
    count = 4 if quick else 16
    frames = torch.randint(0, 256, (count, 2, 1, side, side, 3), dtype=torch.uint8)
    pairs = PairBatch(frames, torch.randn(count, 7), torch.ones(count, dtype=torch.bool))
    valid = torch.ones(chunks.shape[:2], dtype=torch.bool)
    return {
        "action-vq": (tokenizer, ActionBatch(chunks, valid), tokenizer.config.loss_weights),
        "image-lam": (learner, pairs, lam.config.loss_weights),
    }


def features_of(quick: bool) -> str:
    """Frozen features that need no download."""
    return "pixels" if quick else "timm:vit_small_patch14_reg4_dinov2"


def codes(device: torch.device, quick: bool) -> dict[str, float]:
    """The share of the codes of the CPU that the device gives, of samples and frames of the packaged dataset."""
    from lattok import load
    from lattok.samples import ActionWindows

    dataset = open_dataset(sample_dataset_path())
    tokenizer: Any = load("sample/tokenizer")
    lam: Any = load("sample/lam")
    windows = ActionWindows(dataset, tokenizer.horizon)
    chunks, valid = windows.batch(torch.arange(64 if quick else len(windows)))
    video = dataset.frames(0, camera_keys(dataset, lam.cameras), transform=lam.resize)[: 24 if quick else None]
    stride, given = min(lam.stride_frames(dataset.fps), len(video) - 1), {"action-vq": tokenizer, "image-lam": lam}
    ask = {
        "action-vq": lambda model: model.encode(chunks, valid),
        "image-lam": lambda model: model.label_video([video], stride).codes,
    }
    expected = {kind: ask[kind](model) for kind, model in given.items()}
    found = {kind: ask[kind](model.to(device)) for kind, model in given.items()}
    return {
        kind: float((torch.as_tensor(codes).cpu() == expected[kind]).float().mean()) for kind, codes in found.items()
    }


def memory(device: torch.device, quick: bool, folder: Path) -> dict[str, Any]:
    """Bytes of a step of each preset in bfloat16: at most allocated, reserved of the device, counted without one."""
    from benchmarks.speed.memory import FAMILIES, GIVEN, over_base, placed, step, there
    from benchmarks.speed.memory_bases import opener
    from benchmarks.speed.vla_models import DEPTH, TOWER

    found, opened, module, table = dict[str, Any](), opener(folder), module_of(device), json.loads(COUNTED.read_text())
    for name in ("idm/tiny", "vla/scratch") if quick else PRESETS:
        kind, _, preset = name.partition("/")
        if kind in FAMILIES:
            recipe: Any = recipe_of(kind)
            made = FAMILIES[kind][0](recipe.from_preset("data", "out", preset, **GIVEN.get(name, {})))
        else:
            made = over_base(name, opened, DEPTH, TOWER["depth"])
        module.empty_cache()
        (model, optimizer), samples = placed(made[0], str(device)), 4 if quick else PRESETS[name]
        batch, rounding = there(made[1](samples), str(device)), Rounding(model)
        for _ in range(3):  # the first makes the state of the optimiser
            module.reset_peak_memory_stats(device)
            step(model, batch, made[2], optimizer, "bf16", device.type, rounding)
        entry, reserved = table[name]["bf16"], getattr(module, "max_memory_reserved", module.max_memory_allocated)
        counted, measured = entry["fixed"] + samples * entry["sample"], module.max_memory_allocated(device)
        found[name] = {"samples": samples, "counted_gb": counted / 1e9, "allocated_gb": measured / 1e9}
        found[name] |= {"reserved_gb": reserved(device) / 1e9, "allocated_of_counted": measured / counted}
        del model, optimizer, batch, made
        gc.collect()
    return found


def sentence(results: dict[str, Any]) -> str:
    """What was measured, in a sentence."""
    rate = results["labelling"]["bfloat16"]["frames_per_s"]
    step, share = results["la_cond"]["seconds_per_step"], results["la_cond"].get("share_of_peak")
    reached = "" if not share else f", {share:.0%} of its bfloat16 peak"
    device = results["la_cond"]["device"]
    return (
        f"On {device} lattok labels {rate:,.0f} frames a second and takes {step:.2f} s for a step of LA-Cond{reached}."
    )


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="results file; the part that is not measured stays as it is in it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the chip")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    args = parser.parse_args()
    device = device_called(args.device)
    if device.type == "cpu" and not args.quick:
        parser.error("needs an accelerator; --quick shows on a CPU that it runs")
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    of = rates(device, args.peak_tflops, args.quick)
    for part in args.only:
        with tempfile.TemporaryDirectory() as folder:
            steps, place = 5 if args.quick else args.steps, Path(folder)
            measure: dict[str, Callable[[], dict[str, Any]]] = {
                "labelling": lambda: labelling(device, of, args.quick),
                "la_cond": lambda steps=steps, place=place: la_cond(device, of, args.quick, steps, place),
                "families": lambda steps=steps, place=place: families(device, args.quick, steps, place),
                "codes": lambda: codes(device, args.quick),
                "memory": lambda place=place: memory(device, args.quick, place),
            }
            found = measure[part]()
            gc.collect()  # what a part took is not counted for the next
        results[part] = {"environment": environment(), "device": name_of(device), "bfloat16_tflops": of, **found}
        print(json.dumps({part: results[part]}, indent=1), flush=True)
        if args.out is not None:
            write_results(args.out, results)
    if {"labelling", "la_cond"} <= results.keys():
        print(sentence(results))


if __name__ == "__main__":
    main()
