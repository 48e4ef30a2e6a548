"""What a training step of every recipe and strategy and a block of labels dispatch, at published shapes, without a GPU.

python -m benchmarks.speed.launches --out benchmarks/results/launches.json    # minutes; prints the stored counts beside

Operations, casts, bytes that all but products move, multiplications and additions, and what the host waits for, each
of one step of the loop or of 32 frames: see counts.py. They are counted on the stand-in of tests/accelerator.py, in
mixed precision. What has a base model is counted at few layers of its own width, and what a layer adds is linear, which
`--full` checks. `small` are toys, which a test counts anew; `before` was counted in the same way at another commit.
`predicted` is what an H100 would need, before anything is measured on one: the longer of what launches take there and
what products and bytes do. Beside it is the same for `before`, and what `gpu.json` measured then.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.common import environment, write_results
from benchmarks.speed.annotate import full_size
from benchmarks.speed.counts import FIGURES, counted
from benchmarks.speed.gpu import learners
from benchmarks.speed.memory import FAMILIES, FEW, GIVEN, SOME, placed
from benchmarks.speed.memory_bases import BASE, Made, opener, over_base
from benchmarks.speed.vla_models import DEPTH, NARROW, TOWER, WIDE, make_backbone, make_batch, make_policy
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.base.labelling import MAX_BLOCK, block_size, query_tokens
from lattok.inference import PRECISIONS, for_inference
from lattok.recipes import recipe_of
from lattok.training import LoopOptions, loop
from lattok.training.distributed import restored_accelerate_state
from lattok.training.loop import Trainer
from lattok.vla import STRATEGIES
from tests.accelerator import DEVICE, NAME, standin

STORED = Path(__file__).parents[1] / "results" / "launches.json"
PRESETS = ("action-vq/p2t", "image-lam/small+robust+flow", "image-lam/full+robust+flow", "moto-lam/small", "idm/small")
BASES = tuple(name for name in BASE if "checkpointing" not in name and name != "vla/libero")
SAMPLES, STRIDE = 4, 8
LAUNCH = 38e-6  # seconds of the host an operation: an H100's .56 s a step of LA-Cond, by its operations then
BANDWIDTH = 2.7e12  # bytes a second of an H100's memory, .8 of what the maker names
MEASURED = {  # what gpu.json has of what is counted here -> its part and figure, a second; samples or frames at once
    "labelling bfloat16": ("labelling", "bfloat16", "frames_per_s", MAX_BLOCK),
    "vla/la_cond": ("la_cond", "", "samples_per_s", 32),
    "image-lam/small+robust+flow": ("families", "image-lam", "samples_per_s", 16),
    "action-vq/p2t": ("families", "action-vq", "samples_per_s", 128),
}
Figures = dict[str, int]


@restored_accelerate_state()
def step(made: Made, samples: int = SAMPLES) -> Figures:
    """A step of the loop, of a model that has learned for two."""
    model, batches, weights = made
    model, _ = placed(model, NAME)
    options = LoopOptions(steps=9, batch_size=samples, optimizer="adamw", precision="bf16", device=NAME)
    fused = patch.object(loop, "FUSED", (*loop.FUSED, NAME))  # as on a GPU, one call for all parameters
    with tempfile.TemporaryDirectory() as folder, fused:
        trainer, batch = Trainer(model, {}, options, weights, Path(folder)), batches(samples)
        moved = lambda *_: _there(batch)  # noqa: E731
        for number in range(2):
            trainer.step(number, moved)
        given = moved()
        begun = len(DEVICE.waits)
        found = counted(lambda: trainer.step(2, lambda *_: given)).figures()
    return found | {"waits": len(DEVICE.waits) - begun}


def _there(batch: Any) -> Any:
    from lattok.nn.blocks import onto

    return onto(batch, torch.device(NAME))


def preset(name: str) -> Figures:
    """A family of models without a base model."""
    kind, _, own = name.partition("/")
    recipe: Any = recipe_of(kind)
    with standin(values=False):
        return step(FAMILIES[kind][0](recipe.from_preset("data", "out", own, **GIVEN.get(name, {}))))


def over_layers(made: Callable[[int, int], Made], full: bool) -> Figures:
    """A model over a base model, from three with few layers of text and image tower, or as it is."""

    def at(layers: int, depth: int) -> Figures:
        with standin(values=False):
            return step(made(layers, depth))

    if full:
        return at(DEPTH, TOWER["depth"])
    base, text, image = at(FEW, FEW), at(SOME, FEW), at(FEW, SOME)
    more = {"text": (DEPTH - FEW) / (SOME - FEW), "image": (TOWER["depth"] - FEW) / (SOME - FEW)}
    wider = lambda key: more["text"] * (text[key] - base[key]) + more["image"] * (image[key] - base[key])  # noqa: E731
    return {key: round(base[key] + wider(key)) for key in FIGURES}


def strategy(name: str, folder: Path, dims: Mapping[str, Any], tower: Mapping[str, Any]) -> Callable[[int, int], Made]:
    """A policy over a Qwen3-VL in bfloat16 that learns by a strategy."""
    from tests.backbones.tiny import tiny_backbone

    def made(layers: int, depth: int) -> Made:
        cpu, sizes = torch.device("cpu"), {**tower, "depth": depth, "deepstack_visual_indexes": [0, 1, 2]}
        tiny = tiny_backbone("qwen3_vl", folder / f"{name}-{layers}-{depth}")
        policy = make_policy(name, make_backbone(tiny, layers, dims, torch.bfloat16, cpu, tower=sizes), cpu)
        return policy, lambda n: policy.prepared(make_batch(policy, cpu, n)), policy.config.loss_weights

    return made


def labelling(lam: ImageLAM, precision: str) -> Figures:
    """What 32 further frames of a long video take: a share of a block."""
    labeller = for_inference(lam, precision)
    side, size = lam.config.image_size, block_size(lam.numbers_per_frame, lam.device)

    def blocks(count: int) -> Figures:
        video = torch.zeros(count * size, 1, side, side, 3, dtype=torch.uint8)
        begun = len(DEVICE.waits)

        def label() -> None:
            with lam.inference(), torch.no_grad():
                for tokens in query_tokens(labeller._encoder, video, lam.cameras, (0, STRIDE), size):
                    labeller._lam.from_tokens(tokens)

        return counted(label).figures() | {"waits": len(DEVICE.waits) - begun}

    few, more = blocks(2), blocks(3)
    return {key: round((more[key] - few[key]) * MAX_BLOCK / size) for key in FIGURES}


def tiny_lam() -> ImageLAM:
    """Of the shape of the published one, but small."""
    config = ImageLAMConfig.of(("front",), width=32, heads=2, encoder_depth=3, decoder_depth=1, features="pixels")
    return ImageLAM(config).eval()


def small() -> dict[str, Figures]:
    """Toys: what a test counts anew."""
    torch.manual_seed(0)
    found = dict[str, Figures]()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("la_cond", "la_align", "la_tok_c"):
            with standin():
                found[f"vla/{name}"] = step(strategy(name, Path(folder), NARROW, {})(2, 2), 2)
        for kind, (module, batch, weights) in learners(quick=True).items():
            with standin():
                found[kind] = step((module, lambda _, batch=batch: batch, weights), len(batch[0]))
        for precision in PRECISIONS:
            with standin():
                found[f"labelling {precision}"] = labelling(tiny_lam().to(NAME), precision)
    return found


def published(only: str, full: bool) -> dict[str, Figures]:
    """All whose name has `only` in it."""
    found = dict[str, Figures]()

    def count(name: str, function: Callable[[], Figures]) -> None:
        if only in name:
            found[name] = function()
            print(name, found[name], flush=True)

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for precision in PRECISIONS:

            def labels(precision: str = precision) -> Figures:
                with standin(values=False):
                    return labelling(full_size().to(NAME), precision)

            count(f"labelling {precision}", labels)
        for name in PRESETS:
            count(name, lambda name=name: preset(name))
        for name in STRATEGIES:
            count(f"vla/{name}", lambda name=name: over_layers(strategy(name, folder, WIDE, TOWER), full))
        opened = opener(folder)
        for name in BASES:
            count(name, lambda name=name: over_layers(lambda *sizes: over_base(name, opened, *sizes), full))
    return found


def predicted(
    published: Mapping[str, Figures], before: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Samples or frames a second that an H100 would reach, by these counts and those of before, and what it did."""
    product = 1e12 * measured["la_cond"]["bfloat16_tflops"]["product"]
    found = dict[str, Any]()
    for name, (part, own, figure, count) in MEASURED.items():
        times = 1 if name.startswith("labelling") else count / SAMPLES

        def rate(row: Figures, count: int = count, times: float = times) -> dict[str, Any]:
            host, device = row["operations"] * LAUNCH, times * (row["flop"] / product + row["bytes"] / BANDWIDTH)
            return {"a_second": count / max(host, device), "host_s": host, "device_s": device}

        if name in published:
            then = measured[part][own] if own else measured[part]
            found[name] = {"now": rate(published[name]), "measured_before": then[figure]}
            found[name] |= {"before": rate(before[name])} if name in before else {}
    return found


def shown(found: Mapping[str, Figures], before: Mapping[str, Figures]) -> str:
    """Counts, and as a share of the stored ones."""
    rows = ["| | " + " | ".join(FIGURES) + " |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, figures in found.items():
        old = before.get(name, {})
        cells = [f"{figures[key]:,}" + (f" ({figures[key] / old[key]:.2f})" if old.get(key) else "") for key in FIGURES]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Count, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a part of the names of what is counted")
    parser.add_argument(
        "--full", action="store_true", help="with all layers of base models: 20 GB, and no figure is new"
    )
    parser.add_argument("--small", action="store_true", help="the toys alone")
    parser.add_argument("--out", type=Path, help="results file; what is not counted stays as it is in it")
    args = parser.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"published": {}, "small": {}}
    counts = {} if args.small else published(args.only, args.full)
    toys = small()
    print(shown(counts, stored["published"]))
    print(shown(toys, stored["small"]))
    if args.out is not None:
        rows = {"published": stored["published"] | counts, "small": toys, "before": stored.get("before", {})}
        measured = json.loads((STORED.parent / "gpu.json").read_text())
        rows["predicted"] = predicted(rows["published"], rows["before"], measured)
        write_results(args.out, {"environment": environment() | _versions(), **rows})


def _versions() -> dict[str, str]:
    import transformers

    return {"transformers": transformers.__version__}


if __name__ == "__main__":
    main()
