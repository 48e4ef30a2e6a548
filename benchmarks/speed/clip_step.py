"""A training step of LatBot's teacher by frames of a clip, next to one of the frame-pair model at equal width.

python -m benchmarks.speed.clip_step --out benchmarks/results/clip_step.json     # half a CPU-minute, 1 GB

Both see two cameras of 64 pixels in patches of 16 through 4 layers of 128 and predict pixels by 4 layers of 128; the
teacher has 8 latents of scene and of motion and decodes 16 actions. Seconds are the CPU time of this process, the least
of interleaved rounds, without the optimizer; `encoder` is forward and backward of the latents alone. Peak memory is
what torch's allocator holds at most beyond what it held at the start of a step.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Case, backward, environment, interleaved, peak, write_results
from lattok.backbones import BackboneConfig
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.image_lam.clips.config import ClipDecoderConfig, FeaturesConfig
from lattok.types import PairBatch, PolicyBatch

CAMERAS, BATCH, SIDE, PATCH, WIDTH, DEPTH, ACTIONS, HORIZON = ("front", "wrist"), 8, 64, 16, 128, 4, 7, 16
FRAMES = (2, 4, 8, 16)


def teacher(frames: int) -> tuple[ClipLAM, PolicyBatch]:
    """Make a teacher that sees so many frames, and a batch."""
    torch.manual_seed(0)
    config = ClipLAMConfig(
        cameras=CAMERAS,
        action_dim=ACTIONS,
        frames=frames,
        horizon=HORIZON,
        scene_tokens=8,
        motion_tokens=8,
        latent_dim=32,
        image_size=SIDE,
        prompt="{task}",
        backbone=BackboneConfig("scratch", train="full", width=WIDTH, depth=DEPTH, patch_size=PATCH),
        features=FeaturesConfig(size=SIDE, patch=PATCH),
        decoder=ClipDecoderConfig(width=WIDTH, depth=DEPTH, heads=4),
    )
    clips = torch.randint(0, 256, (BATCH, frames, len(CAMERAS), SIDE, SIDE, 3), dtype=torch.uint8)
    valid = torch.ones(BATCH, HORIZON, dtype=torch.bool)
    actions = torch.randn(BATCH, HORIZON, ACTIONS)
    texts = ["open the drawer"] * BATCH
    return ClipLAM.build(config).train(), PolicyBatch(clips[:, 0], texts, None, actions, valid, later=clips[:, 1:])


def pair() -> tuple[ImageLAM, PairBatch]:
    """Make the frame-pair model, and a batch."""
    torch.manual_seed(0)
    config = ImageLAMConfig.of(
        cameras=CAMERAS,
        features="pixels",
        image_size=SIDE,
        width=WIDTH,
        heads=4,
        encoder_depth=DEPTH,
        decoder_depth=DEPTH,
        tokens=8,
        latent_dim=32,
        stride="1",
    )
    frames = torch.randint(0, 256, (BATCH, 2, len(CAMERAS), SIDE, SIDE, 3), dtype=torch.uint8)
    labelled = torch.zeros(BATCH, dtype=torch.bool)
    return ImageLAM(config).train(), PairBatch(frames, torch.zeros(BATCH, 0), labelled)


def step(model: Any, batch: Any) -> Callable[..., None]:
    """Return a training step of a model's whole loss."""
    return partial(backward, model, model.config.loss_weights, batch)


def encode(model: ClipLAM, batch: PolicyBatch, _: Any = None) -> None:
    """Forward and backward of the latents."""
    assert batch.later is not None
    scene, motion = model.latents(torch.cat([batch.images[:, None], batch.later], 1), batch.texts)
    (scene.square().sum() + motion.square().sum()).backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls: dict[str, Callable[..., None]] = {"frame pair": step(*pair())}
    for frames in FRAMES:
        made = teacher(frames)
        calls |= {
            f"teacher, {frames} frames": step(*made),
            f"encoder, {frames} frames": partial(encode, *made),
        }
    timed = interleaved({name: Case(call, None) for name, call in calls.items()}, options.rounds)
    device = torch.device("cpu")
    rows = {name: {"cpu_seconds": timed[name].cpu, "peak_bytes": peak(call, device)} for name, call in calls.items()}
    first = rows["frame pair"]
    print(f"training step, batch {BATCH}, 1 thread, {environment()['cpu']}, torch {torch.__version__}")
    for name, row in rows.items():
        times, more = (row[key] / first[key] for key in ("cpu_seconds", "peak_bytes"))
        sizes = f"{row['cpu_seconds'] * 1e3:8.1f} ms {times:6.2f}x   {row['peak_bytes'] / 1e6:7.1f} MB {more:6.2f}x"
        print(f"  {name:22s} {sizes}")
    if options.out is not None:
        write_results(options.out, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
