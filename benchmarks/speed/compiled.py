"""What `torch.compile` gives on this machine, and what it costs: `compile` of training, and compiled labelling.

python -m benchmarks.speed.compiled --out benchmarks/results/compiled.json    # on two cores half an hour: it compiles
python -m benchmarks.speed.compiled --device cuda --out benchmarks/results/compiled_gpu.json    # minutes

Seconds of a step (forward, backward) and of labelling a video at published sizes, as they are and compiled, one after
the other; of the CPU there, of the clock on an accelerator, where steps are in bfloat16. Seconds of the first compiled
call; graphs, and graph breaks, of which there should be none. `launches`: operations of a step of the loop in mixed
precision, of compiled parts the generated kernels and library calls, counted on the CPU. `lattok.for_inference` had the
option to compile; it went because of these results.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.utils._pytree import tree_map_only

from benchmarks.common import environment, finish, name_of, write_results
from benchmarks.speed.counts import launched
from benchmarks.speed.gpu import learners
from benchmarks.speed.launches import SAMPLES
from benchmarks.speed.memory import FAMILIES, placed
from lattok.image_lam.base.labelling import VideoEncoder
from lattok.inference import for_inference
from lattok.recipes import recipe_of
from lattok.training import LoopOptions, loop
from lattok.training.loop import Trainer, compiled
from lattok.utils.devices import device_called

ROUNDS, FRAMES, STRIDE = 7, 64, 8
PRESET = "small+robust+flow"  # as launches.json has it
PARTS = ("action-vq", "image-lam", "float32", "bfloat16", "launches")


def compared(plain: Callable[[], Any], fast: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds of both, in turn, after the first calls."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    counters.clear()
    torch.compiler.reset()
    begun = time.perf_counter()
    fast()
    finish(device)
    first, times = time.perf_counter() - begun, dict[str, list[float]](plain=[], compiled=[])
    plain()
    finish(device)
    for _ in range(ROUNDS):
        for name, function in (("plain", plain), ("compiled", fast)):
            begun = clock()
            function()
            finish(device)
            times[name].append(clock() - begun)
    found = {f"{name}_s": median(values) for name, values in times.items()}
    graphs = {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}
    return {**found, "times_as_fast": found["plain_s"] / found["compiled_s"], "first_call_s": first, **graphs}


def training(kind: str, quick: bool, device: torch.device) -> dict[str, float]:
    """A step of a family."""
    module, batch, weights = learners(quick)[kind]
    module, batch = module.to(device), tree_map_only(torch.Tensor, lambda x: x.to(device), batch)

    def step(model: Any) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            terms = model(batch)
        torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum().backward()
        model.zero_grad(set_to_none=True)

    module, other = module.train(), copy.deepcopy(module).train()
    with compiled(other):
        return compared(lambda: step(module), lambda: step(other), device)


def launches(quick: bool) -> dict[str, int]:
    """Operations of a step of the loop of the small image model, with its optimiser, as it is and compiled."""
    if quick:
        module, given, weights = learners(quick)["image-lam"]
        samples = len(given[0])
    else:
        recipe: Any = recipe_of("image-lam")
        module, batches, weights = FAMILIES["image-lam"][0](recipe.from_preset("data", "out", PRESET))
        given, samples = batches(SAMPLES), SAMPLES
    found = dict[str, int]()
    for name, compiling in (("plain", False), ("compiled", True)):
        model, _ = placed(copy.deepcopy(module), "cpu")
        options = LoopOptions(
            steps=9, batch_size=samples, optimizer="adamw", precision="bf16", device="cpu", compile=compiling
        )
        fused = patch.object(loop, "FUSED", (*loop.FUSED, "cpu"))  # as on a GPU, one call for all parameters
        seen = inductor.patch({"cpp.enable_kernel_profile": True})
        with tempfile.TemporaryDirectory() as folder, fused, seen:
            trainer = Trainer(model, {}, options, weights, Path(folder))
            with compiled(trainer.module) if compiling else nullcontext():
                for number in range(3):
                    trainer.step(number, lambda *_: given)
                found[name] = launched(partial(trainer.step, 3, lambda *_: given))
    return found


def labelling(precision: str, quick: bool, device: torch.device) -> dict[str, float]:
    """A video by the small image model; graphs are for blocks of any length."""
    lam = learners(quick)["image-lam"][0].lam.eval().to(device)
    side = lam.config.image_size
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 1, side, side, 3), dtype=np.uint8)
    plain, fast = for_inference(lam, precision), for_inference(lam, precision)
    fast._encoder = VideoEncoder(*(torch.compile(part, dynamic=True) for part in fast._encoder))
    return compared(lambda: plain.label_video(video, STRIDE), lambda: fast.label_video(video, STRIDE), device)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="results file; parts that are not measured stay as they are in it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = device_called(args.device)
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    for part in args.only:
        if part == "launches":
            found: dict[str, Any] = launches(args.quick)
        else:
            measure = training if part in ("action-vq", "image-lam") else labelling
            found = measure(part, args.quick, device)
        results[part] = {"environment": environment(), "device": name_of(device), **found}
        print(json.dumps({part: results[part]}), flush=True)
        if args.out is not None:
            write_results(args.out, results)


if __name__ == "__main__":
    main()
