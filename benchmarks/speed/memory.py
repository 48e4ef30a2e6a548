"""What a training step takes of an accelerator's memory, for every preset, counted without one.

python -m benchmarks.speed.memory --out lattok/assets/memory.json --page docs/hardware.md    # minutes

The stand-in of tests/accelerator.py counts the bytes of all tensors that live at once in a step of the published size:
weights, gradients, optimiser, and what is kept for the backward pass, with fused attention. They are those of a fixed
part and of each sample, from steps of two sizes. Multiplications and additions are torch's count of a step. What a
driver, its libraries and fragments take is not in it: `SPARE` and `MORE` leave that. One camera of the preset's image
size; actions of 7 numbers; random weights. Policies see two images. Models over Qwen3-VL-2B or InternVL3.5-2B are
counted at few layers of their own width, and what a layer adds is linear: memory_bases.py.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write_results
from benchmarks.speed.memory_bases import BASE, HELD, Made, Opener, opener, over_base, recipe_named
from benchmarks.speed.vla_models import ACTIONS, DEPTH, TOWER
from lattok.action_vq import P2TActionVQ
from lattok.cli.doctor import CARDS, parts_that_fit
from lattok.image_lam import ImageLAM, MotoLAM, PairLearner
from lattok.image_lam.inverse import InverseDynamics
from lattok.nn.quantize import VectorQuantizer
from lattok.nn.rounding import Rounding
from lattok.recipes import recipe_of
from lattok.types import ActionBatch, PairBatch, PolicyBatch
from tests.accelerator import NAME, Device, standin

SIZES = (8, 16)  # samples of the two steps
MARK = "<!-- memory: counted -->"


def action_vq(recipe: Any) -> Made:
    model = P2TActionVQ(recipe.config(action_dim=ACTIONS))
    shape = (model.horizon, ACTIONS)
    batch = lambda n: ActionBatch(torch.randn(n, *shape), torch.ones(n, *shape[:1], dtype=torch.bool))  # noqa: E731
    return model, batch, model.config.loss_weights


def pairs(kind: type[ImageLAM] | type[MotoLAM]) -> Callable[[Any], Made]:
    def made(recipe: Any) -> Made:
        lam = kind(recipe.config(cameras=("front",)))
        lam.features.load(pretrained=False)
        learner, side = PairLearner(lam), lam.config.image_size
        learner.attach_action_head(torch.randn(9, ACTIONS))
        frames = 2 + len(lam.config.extra_strides)

        def batch(n: int) -> PairBatch:
            shown = torch.zeros(n, frames, 1, side, side, 3, dtype=torch.uint8)
            return PairBatch(shown, torch.randn(n, ACTIONS), torch.ones(n, dtype=torch.bool))

        return learner, batch, lam.config.loss_weights

    return made


def idm(recipe: Any) -> Made:
    model = InverseDynamics(recipe.config(cameras=("front",), action_dim=ACTIONS))
    model.features.load(pretrained=False)
    side, later = model.config.image_size, len(model.config.offsets) - 1

    def batch(n: int) -> PolicyBatch:
        shown = torch.zeros(n, 1 + later, 1, side, side, 3, dtype=torch.uint8)
        valid = torch.ones(n, 1, dtype=torch.bool)
        return PolicyBatch(shown[:, 0], [""] * n, None, torch.randn(n, 1, ACTIONS), valid, later=shown[:, 1:])

    return model, batch, model.config.loss_weights


FAMILIES: dict[str, tuple[Callable[[Any], Made], tuple[str, ...]]] = {
    "action-vq": (action_vq, ("p2t", "libero", "robotwin", "jaka", "p2t+p2t_code", "p2t+context", "quick")),
    "image-lam": (pairs(ImageLAM), ("small+robust+flow", "full+robust+flow", "libero", "tiny+robust")),
    "moto-lam": (pairs(MotoLAM), ("moto", "small")),
    "idm": (idm, ("small", "tiny")),
}


KINDS = (*FAMILIES, *dict.fromkeys(name.partition("/")[0] for name in BASE))
MANY, FEWER = (32, 64), (4, 8)  # samples of the two steps: so many that what they take is more than the optimiser's
FEW, SOME = 4, 6  # layers: the image tower feeds three of the text model; the head sees half of an even number
GIVEN: dict[str, dict[str, Any]] = {"image-lam/tiny+robust": {"features": "pixels"}}
GIVEN |= {"moto-lam/moto": HELD, "moto-lam/small": HELD}


def step(
    model: nn.Module,
    batch: Any,
    weights: Mapping[str, float],
    optimizer: Any,
    precision: str,
    device: str = NAME,
    rounding: Rounding | None = None,
) -> None:
    """One step, as the loop takes it, with a `rounding` of mixed precision that has seen those before."""
    mixed = precision == "bf16"
    together = (rounding or Rounding(model)).of_pass() if mixed else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=mixed), together:
        terms = model(batch)
        loss = torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def placed(model: nn.Module, device: str) -> tuple[nn.Module, Any]:
    """A model on a device as after its first steps, and its optimiser."""
    for quantizer in (part for part in model.modules() if isinstance(part, VectorQuantizer)):
        quantizer.steps.fill_(quantizer.config.continuous_steps + 1)  # it has started
    model = model.to(device).train()
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)


def there(batch: Any, device: str) -> Any:
    """A batch on a device."""
    return tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, batch)


def count(device: Device, made: Made, precision: str, sizes: tuple[int, int] = SIZES) -> dict[str, float]:
    """Bytes of the fixed part and of a sample, and multiplications and additions of a sample, both ways."""
    model, batches, weights = made
    model, optimizer = placed(model, NAME)
    peaks, work, rounding = [], 0, Rounding(model)
    for number, samples in enumerate((sizes[0], *sizes)):  # the first makes the state of the optimiser
        batch = there(batches(samples), NAME)
        gc.collect()
        device.peak = device.live
        with FlopCounterMode(display=False) as counter:
            step(model, batch, weights, optimizer, precision, rounding=rounding)
        peaks, work = [*peaks, device.peak] if number else [], counter.get_total_flops()
    each = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    return {"fixed": peaks[0] - sizes[0] * each, "sample": each, "flop": work / sizes[1]}


def measured(kind: str, preset: str) -> dict[str, Any]:
    """A preset in both precisions."""
    recipe: Any = recipe_of(kind)
    recipe, found = recipe.from_preset("data", "out", preset, **GIVEN.get(f"{kind}/{preset}", {})), {}
    for precision in ("no", "bf16"):
        with standin(values=False) as device:
            found[precision] = count(device, FAMILIES[kind][0](recipe), precision)
        gc.collect()
    return {"batch": recipe.loop.batch_size, **found}


def over_layers(name: str, opened: Opener, layers: int, depth: int, precision: str) -> dict[str, float]:
    """What `count` says of a model with so many layers of text and of the image tower, from three with few."""
    found = []
    for few in ((FEW, FEW), (SOME, FEW), (FEW, SOME)):
        with standin(values=False) as device:
            samples = FEWER if name.startswith("clip-lam") else MANY  # a clip takes 16 times as much
            found.append(count(device, over_base(name, opened, *few), precision, samples))
        gc.collect()
    base, text, image = found
    wider = [(depth - FEW) / (SOME - FEW) for depth in (layers, depth)]
    return {key: base[key] + wider[0] * (text[key] - base[key]) + wider[1] * (image[key] - base[key]) for key in base}


def bases(kind: str) -> dict[str, Any]:
    """All entries of a recipe whose models are over base models."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        opened = opener(Path(folder))
        for name in (name for name in BASE if name.startswith(f"{kind}/")):
            found[name] = {"batch": recipe_named(name).loop.batch_size}
            for precision in ("no", "bf16"):
                found[name][precision] = over_layers(name, opened, DEPTH, TOWER["depth"], precision)
    return found


def table(results: Mapping[str, Any]) -> str:
    """The table of docs/hardware.md."""
    cards = [f"{size} GB" for size in CARDS]
    rows = [
        f"| preset | precision | fixed | sample | at batch | {' | '.join(cards)} |",
        "|---|---|---" + "|---" * 5 + "|",
    ]
    for name, entry in results.items():
        for precision, shown in (("no", "float32"), ("bf16", "bf16")):
            fixed, each, batch = entry[precision]["fixed"], entry[precision]["sample"], entry["batch"]
            fits = [parts_that_fit(entry, precision, size * 1e9) for size in CARDS]
            says = " | ".join("no" if parts is None else "yes" if parts == 1 else f"in {parts} parts" for parts in fits)
            sizes = f"{fixed / 1e9:.2f} GB | {each / 1e6:,.1f} MB | {(fixed + batch * each) / 1e9:.2f} GB at {batch}"
            rows.append(f"| `{name}` | {shown} | {sizes} | {says} |")
    return "\n".join(rows)


def written(page: str, results: Mapping[str, Any]) -> str:
    """A page with the table between its marks."""
    before, _, rest = page.partition(f"{MARK}\n")
    return f"{before}{MARK}\n\n{table(results)}\n\n<!-- memory: end -->{rest.partition('<!-- memory: end -->')[2]}"


def main() -> None:
    """Count, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path, help="results file; families that are not counted stay as they are in it")
    parser.add_argument("--page", type=Path, help="page that gets the table")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out is not None and args.out.exists() else {}
    for kind in args.only:
        presets = FAMILIES[kind][1] if kind in FAMILIES else ()
        found = {f"{kind}/{preset}": measured(kind, preset) for preset in presets} or bases(kind)
        print(json.dumps(found))
        results |= found
        if args.out is not None:
            write_results(args.out, results)
    if args.page is not None:
        args.page.write_text(written(args.page.read_text(), results))


if __name__ == "__main__":
    main()
