"""What `torch.compile` gives on this machine, and what it costs: `compile` of training and of `lattok.for_inference`.

python -m benchmarks.speed.compiled --out benchmarks/results/compiled.json    # on two cores half an hour: it compiles

CPU seconds of a step (forward, backward) and of labelling a video at published sizes, as they are and compiled, one
after the other; seconds of the first compiled call; graphs, and graph breaks, of which there should be none.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from benchmarks.common import environment, write_results
from benchmarks.speed.gpu import learners
from lattok.inference import for_inference
from lattok.training.loop import compiled

ROUNDS, FRAMES, STRIDE = 7, 64, 8
PARTS = ("action-vq", "image-lam", "float32", "bfloat16")


def compared(plain: Callable[[], Any], fast: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of both, in turn, after the first calls."""
    counters.clear()
    torch.compiler.reset()
    begun = time.perf_counter()
    fast()
    first, times = time.perf_counter() - begun, dict[str, list[float]](plain=[], compiled=[])
    plain()
    for _ in range(ROUNDS):
        for name, function in (("plain", plain), ("compiled", fast)):
            begun = time.process_time()
            function()
            times[name].append(time.process_time() - begun)
    found = {f"{name}_s": median(values) for name, values in times.items()}
    graphs = {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}
    return {**found, "times_as_fast": found["plain_s"] / found["compiled_s"], "first_call_s": first, **graphs}


def training(kind: str, quick: bool) -> dict[str, float]:
    """A step of a family."""
    module, batch, weights = learners(quick)[kind]

    def step(model: Any) -> None:
        terms = model(batch)
        torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum().backward()
        model.zero_grad(set_to_none=True)

    module, other = module.train(), copy.deepcopy(module).train()
    with compiled(other):
        return compared(lambda: step(module), lambda: step(other))


def labelling(precision: str, quick: bool) -> dict[str, float]:
    """A video by the small image model."""
    lam = learners(quick)["image-lam"][0].lam.eval()
    side = lam.config.image_size
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 1, side, side, 3), dtype=np.uint8)
    plain, fast = (for_inference(lam, precision, compile=compiled) for compiled in (False, True))
    return compared(lambda: plain.label_video(video, STRIDE), lambda: fast.label_video(video, STRIDE))


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="results file; parts that are not measured stay as they are in it")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    for part in args.only:
        measure = training if part in ("action-vq", "image-lam") else labelling
        results[part] = {"environment": environment(), **measure(part, args.quick)}
        print(json.dumps({part: results[part]}), flush=True)
        if args.out is not None:
            write_results(args.out, results)


if __name__ == "__main__":
    main()
