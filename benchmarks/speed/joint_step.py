"""A training step of LARA's joint training and of the flow head, next to that of the Baseline.

python -m benchmarks.speed.joint_step --out benchmarks/results/joint_step.json     # half a CPU-minute, 1 GB

Sizes of the commands in docs/howto/lara.md: the policy of preset `scratch`, the latent action model of `tiny+robust` on
pixels, two cameras, 32 samples, one later frame each. Seconds are the CPU time of this process for forward
and backward, the median of interleaved rounds, without the optimizer. Peak memory is what torch's allocator holds at
most beyond what it held at the start. A chunk is predicted for one observation.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Case, backward, environment, interleaved, peak, write_results
from lattok.backbones.model import with_base
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.labels import LatentSpec
from lattok.recipes import ImageLAMRecipe, VLARecipe
from lattok.types import LatentTarget, PairBatch, PolicyBatch
from lattok.utils.options import built, options_of
from lattok.vla import LatentVLA, VLAConfig, strategy_of
from lattok.vla.lara import JointLARA, LiveLAM

CAMERAS, BATCH, ACTIONS, STATES, HORIZON, CODES, BOOK = ("front", "wrist"), 32, 4, 4, 8, 4, 16
SIDE, SEEN = 128, 64  # pixels of the dataset, and of batches, which come resized
BASE, ALONE = "Baseline", "the latent action model alone"


def preset(recipe: Any, config: Any, name: str, **more: Any) -> dict[str, Any]:
    """Return what a preset sets of a model's configuration."""
    made = recipe.from_preset("dataset", "out", name, **more).options()
    known = {option.name for option in options_of(config) if not option.field.metadata.get("from_data")}
    return {key: value for key, value in made.items() if key in known and key not in ("strategy", "cameras")}


def lam() -> ImageLAM:
    """Make the latent action model, past its warm-up."""
    torch.manual_seed(0)
    options = preset(ImageLAMRecipe, ImageLAMConfig, "tiny+robust", features="pixels", codebook_continuous_steps=0)
    return ImageLAM(ImageLAMConfig.of(cameras=CAMERAS, **options)).train()


def policy(strategy: str = "baseline", head: str = "regression") -> LatentVLA:
    """Make the policy."""
    torch.manual_seed(0)
    plan, options = strategy_of(strategy), preset(VLARecipe, VLAConfig, "scratch", backbone="scratch", head=head)
    spec = LatentSpec(steps=HORIZON, codes=CODES, codebook_size=BOOK, vectors=1, latent_dim=64) if plan.losses else None
    sizes = {"action_dim": ACTIONS, "proprio_dim": STATES, "camera_sizes": ((SIDE, SIDE),) * len(CAMERAS)}
    known = {"cameras": CAMERAS, "strategy": plan, "latent": spec, **sizes}
    config = built(VLAConfig, {**known, **options})
    return LatentVLA(*with_base(config)).train()


def batch(labelled: bool = False) -> PolicyBatch:
    """Make random observations with actions, a later frame, and labels."""
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (BATCH, 2, len(CAMERAS), SEEN, SEEN, 3), generator=draw, dtype=torch.uint8)
    states, actions = (torch.randn(BATCH, *shape, generator=draw) for shape in ((STATES,), (HORIZON, ACTIONS)))
    valid = torch.ones(BATCH, HORIZON, dtype=torch.bool)
    target = LatentTarget(None, torch.randn(BATCH, HORIZON, 1, 64, generator=draw), valid) if labelled else None
    pairs = torch.stack([torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.long)], 1)
    texts = ["open the drawer", "close the drawer"] * (BATCH // 2)
    return PolicyBatch(frames[:, 0], texts, states, actions, valid, target, later=frames[:, 1:], pairs=pairs)


def chunk(acting: LatentVLA, observation: dict[str, Any], _: Any = None) -> None:
    """Predict one chunk."""
    acting.predict_chunk(observation)


def trained() -> dict[str, Callable[..., None]]:
    """Return the steps, by name."""
    calls: dict[str, Callable[..., None]] = {}
    for name, plain, given in (
        (BASE, policy(), batch()),
        ("LA-Align, with fixed labels", policy("la_align"), batch(labelled=True)),
        ("Baseline, flow head", policy(head="flow"), batch()),
    ):
        calls[name] = partial(backward, plain, plain.config.loss_weights, given._replace(later=None, pairs=None))
    for name, frozen in (("joint, lam_rate 0", True), ("joint", False)):
        both = JointLARA(policy(head="flow"), LiveLAM(lam(), frozen=frozen)).train()
        calls[name] = partial(backward, both, both.loss_weights(), batch())
    alone, seen = lam(), batch()
    assert seen.later is not None
    nothing = torch.zeros(BATCH, dtype=torch.bool)
    pairs = PairBatch(torch.stack([seen.images, seen.later[:, 0]], 1), torch.zeros(BATCH, 0), nothing)
    calls[ALONE] = partial(backward, alone, alone.config.loss_weights, pairs)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls = trained()
    seen: dict[str, Any] = {camera: torch.rand(1, 3, SIDE, SIDE) for camera in CAMERAS}
    seen |= {"observation.state": torch.randn(1, STATES), "task": ["open the drawer"]}
    acts = {head: partial(chunk, policy(head=head).eval(), seen) for head in ("regression", "flow")}
    cases = {**calls, **{f"chunk, {head}": call for head, call in acts.items()}}
    timed = interleaved({name: Case(call, None) for name, call in cases.items()}, options.rounds)
    rows = {name: {"cpu_seconds": timed[name].cpu_median} for name in cases}
    for name, call in calls.items():
        rows[name]["peak_bytes"] = peak(call, torch.device("cpu"))
    first = rows[BASE]
    for name, row in rows.items():
        base = first if name in calls else rows["chunk, regression"]
        row |= {"times": row["cpu_seconds"] / base["cpu_seconds"]}
        row |= {"times_memory": row["peak_bytes"] / first["peak_bytes"]} if "peak_bytes" in row else {}
        memory = f"{row['peak_bytes'] / 1e6:7.1f} MB {row['times_memory']:5.2f}x" if "peak_bytes" in row else ""
        print(f"  {name:34s} {row['cpu_seconds'] * 1e3:7.1f} ms {row['times']:5.2f}x   {memory}")
    if options.out is not None:
        write_results(options.out, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
