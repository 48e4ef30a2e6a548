"""Speed of labelling video with published latent action models, against the straightforward way, pair by pair.

python -m benchmarks.speed.zoo --out benchmarks/results/zoo_speed.json               # < 15 CPU-minutes
    --only SYSTEM, --sizes small: those alone, the others stay as they are in the file

Every system of `lattok convert` but UniVLA's, which annotate.py has. `full`: the published size but for the decoder,
of which one block is left since labels need none; `small`: some hundred thousand weights. They are random. One thread,
CPU time, least of interleaved rounds in one process. *pair by pair* is `encode` of each pair alone, *eight pairs* of
eight at once, which shows what of the ratio is batches and what is that `label_video` computes every frame once.
Decoding is not in it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.common import Case, Timing, environment, interleaved, ratios, write_results
from lattok.image_lam import MotoLAM, MotoLAMConfig
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.published import (
    AdaWorldConfig,
    AdaWorldLAM,
    LapaConfig,
    LapaLAQ,
    LaryConfig,
    LaryLAQ,
    LawamConfig,
    LawamLAM,
    VillaXConfig,
    VillaXLAM,
)
from lattok.types import LatentActions
from lattok.utils.options import replaced

FRAMES = {"small": 32, "full": 3}  # of the timed video
ROUNDS = {"small": 5, "full": 2}
PAIRS = 8
ALONE, TOGETHER, VIDEO = "pair by pair", "eight pairs", "label_video"


class System(NamedTuple):
    """How a system is built: class, published configuration, and what is smaller in the small one."""

    kind: Callable[[Any], PairModel]
    config: Any
    small: dict[str, Any]


NARROW = {"image_size": 64, "patch": 8, "width": 64, "heads": 4}
SIZES = ("width", "depth", "heads", "hidden", "patch")
DECODER = {"decoder_depth": 1}  # no label needs more
SYSTEMS = {
    "lapa-laq": System(
        LapaLAQ, LapaConfig(**DECODER), {**NARROW, "head_dim": 16, "space_depth": 2, "time_depth": 2}
    ),
    "lary-laq": System(
        LaryLAQ,
        LaryConfig(stride="5", **DECODER),
        {"image_size": 128, "features": "timm:vit_tiny_patch16_224", "width": 192, "tokens": 4, "space_depth": 2}
        | {"time_depth": 2, "heads": 4, "head_dim": 16},
    ),
    "moto-lam": System(
        MotoLAM,
        MotoLAMConfig.of(("image",), features="held", **DECODER),
        {"image_size": 64, "features": "held", "width": 64, "heads": 4, "encoder_hidden": 128, "encoder_depth": 2}
        | {"decoder_width": 64, "decoder_heads": 4, "decoder_hidden": 128}
        | {f"image_encoder_{name}": size for name, size in zip(SIZES, (64, 2, 4, 128, 16), strict=True)},
    ),
    "lawam-lam": System(
        LawamLAM,
        LawamConfig(**DECODER),
        {**NARROW, "patch": 16, "image_width": 64, "hidden": 128, "encoder_depth": 2}
        | {"vit_width": 64, "vit_depth": 2, "vit_heads": 4, "vit_hidden": 128},
    ),
    "villax-lam": System(
        VillaXLAM,
        VillaXConfig(**DECODER),
        {**NARROW, "depth": 2, "hidden": 128, "pool_heads": 4, "pool_hidden": 128}
        | {"decoder_width": 64, "decoder_heads": 4, "decoder_hidden": 128},
    ),
    "adaworld-lam": System(AdaWorldLAM, AdaWorldConfig(**DECODER), {**NARROW, "encoder_depth": 2}),
}  # fmt: skip


def build(system: System, size: str) -> PairModel:
    """Make a model with random weights."""
    torch.manual_seed(0)
    config = system.config if size == "full" else replaced(system.config, **system.small)
    model = system.kind(config)
    model.features.load(pretrained=False)  # random weights do for timing
    return model.eval().requires_grad_(False)


def measure(system: System, size: str) -> dict[str, Any]:
    """Time a system in every way, per frame, and compare what comes out."""
    model, count = build(system, size), FRAMES[size]
    side = model.config.image_size
    video = np.random.default_rng(0).integers(0, 256, (count, 1, side, side, 3), dtype=np.uint8)
    pairs = torch.from_numpy(np.stack([video, video[np.minimum(np.arange(count) + 1, count - 1)]], 1))
    found: dict[str, LatentActions] = {}

    def case(name: str, label: Callable[[Any], Any], frames: Any) -> Case:
        return Case(lambda argument: found.update({name: label(argument)}), frames)

    cases = {ALONE: case(ALONE, model.encode, pairs[:1])}
    if size == "small":  # of the published sizes this alone would take as long as all the rest
        cases[TOGETHER] = case(TOGETHER, model.encode, pairs[:PAIRS])
    cases[VIDEO] = case(VIDEO, lambda frames: model.label_video(frames, 1), torch.from_numpy(video))
    times = interleaved(cases, ROUNDS[size])
    times = {name: Timing(*(value / len(found[name].latents) for value in timing)) for name, timing in times.items()}
    gains, alone, whole = ratios(times, ALONE), found[ALONE], found[VIDEO]
    equal = f"{int((alone.codes == whole.codes[:1]).sum())}/{alone.codes.numel()}" if alone.codes.numel() else "none"
    return {
        "commit": environment()["commit"],
        "million parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        **{f"ms per frame, {name}": timing.cpu * 1e3 for name, timing in times.items()},
        **{f"ratio, {name}": gains[name][0] for name in times if name != ALONE},
        "ratio of medians": gains[VIDEO][1],
        "codes equal": equal,
        "latents apart": float((alone.latents - whole.latents[:1]).abs().max() / alone.latents.abs().max()),
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results file; what is not measured stays as it is in it")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", choices=FRAMES, default=list(FRAMES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    for size in args.sizes:
        part = {"environment": environment(), "systems": stored.get(size, {}).get("systems", {})}
        for name in args.only:
            part["systems"][name] = row = measure(SYSTEMS[name], size)
            print(f"{size} {name}: " + ", ".join(f"{key} {number(value)}" for key, value in row.items()), flush=True)
            part["systems"] = {each: part["systems"][each] for each in SYSTEMS if each in part["systems"]}
            stored[size] = part
            if args.out is not None:
                write_results(args.out, stored)


def number(value: Any) -> str:
    """Write a figure."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
