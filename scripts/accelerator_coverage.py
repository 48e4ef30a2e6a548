"""Which public functions that take or hold a tensor ran on the stand-in accelerator, and which did not.

    python scripts/accelerator_coverage.py              # tests of `accelerator`, but slow and compiled ones
    python scripts/accelerator_coverage.py -k artefacts  # options of pytest

A function counts once it was called with a tensor of the stand-in: among its arguments, or held by the object that it
belongs to. The others are listed with the reason, of `REASONS`; one without fails.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

import lattok

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.accelerator import DEVICE, StandIn  # noqa: E402

TENSORS = re.compile(r"Tensor|Values|Video|Arrays|Batch\b|LatentActions|LatentTarget|Latents|Encoded")
REASONS = {  # why functions need not run there: the names or patterns of packages, modules or functions of lattok
    "samples are gathered in main memory; the feed copies them": "samples types.PolicyBatch.of",
    "datasets and their labels, read from files or on their way to them": "data annotation labels",
    "figures: answers are copied to the host once, and probes are fitted there": "evaluation action_vq.chunks.compare",
    "files of models, and of other systems": "hub convert action_vq.p2t.p2t_action_vq action_vq.p2t.sizes "
    "image_lam.p2t.convert image_lam.moto.convert recipes.image_lam.read_vectors "
    "image_lam.base.feature_cache",
    "importers, which read files": "image_lam.published.*_config image_lam.published.*_names "
    "image_lam.published.*_sizes image_lam.published.*_unused image_lam.published.published_lam.read_published "
    "image_lam.published.published_lam.PublishedLAM.load_tensors",
    "fitted or taken over in main memory, before a model is moved": "action_vq.coarse_to_fine.Limits.fit "
    "action_vq.residual.least_squares action_vq.residual.refit action_vq.coarse_to_fine.synthetic "
    "action_vq.coarse_to_fine.with_synthetic action_vq.chunks.value_range action_vq.fsq.CorrectedLinear.start_from "
    "action_vq.fsq.FSQConfig.allocate_bits action_vq.fsq.principal_axes action_vq.base.ChunkTokenizer.add_dataset "
    "image_lam.base.trained.PairLearner.attach_action_head image_lam.base.trained.LatentStream.codebook "
    "image_lam.p2t.model.ImageLAM.set_env_codebook image_lam.base.features.TextEncoder.encode",
    "tables that a model is built with": "action_vq.oat.chances action_vq.oat.positions "
    "action_vq.level_tokenizer.causal_mask image_lam.published.dinov3.patch_angles "
    "image_lam.published.lawam.added_sines",
    "of the CPU: subwords, and what is on the host": "nn.normalize.Normalizer.of_host action_vq.dct "
    "action_vq.fast action_vq.toast",
    "they refuse, or pass on what they are given": "action_vq.base.ChunkTokenizer.forward "
    "action_vq.chunks.check_codes nn.normalize.OpenChoice backbones.model.Outline nn.blocks.same_precision "
    "recipes.lara.views_of",
    "what LPIPS compares; LPIPS itself runs there": "image_lam.base.pair_model.PairModel.images_of",
}


def public() -> Iterator[tuple[str, CodeType]]:
    """Name and code of every public function or method with tensors in its signature, or that is `forward`."""
    seen = set()
    for found in pkgutil.walk_packages(lattok.__path__, "lattok."):
        if any(part.startswith("_") for part in found.name.split(".")):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != found.name or name.startswith("_"):
                continue
            for full, function, held in functions(name, value):
                code = inspect.unwrap(function).__code__
                signature = str(getattr(inspect.unwrap(function), "__annotations__", {}))
                if code not in seen and (held or TENSORS.search(signature)):
                    seen.add(code)
                    yield f"{found.name}.{full}", code


def functions(name: str, value: Any) -> Iterator[tuple[str, Any, bool]]:
    """A function, or the public methods of a class and whether its objects hold tensors."""
    if inspect.isfunction(value):
        yield name, value, False
    elif inspect.isclass(value):
        for own, member in vars(value).items():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            shown = inspect.isfunction(inspect.unwrap(member)) and (not own.startswith("_") or own == "__call__")
            if shown and not outlined(value, member):
                yield f"{name}.{own}", member, issubclass(value, nn.Module) and own == "forward"


def outlined(owner: type, member: Any) -> bool:
    """Whether a method only says what those of subclasses do."""
    names = inspect.unwrap(member).__code__.co_names
    return (
        getattr(owner, "_is_protocol", False)
        or "__isabstractmethod__" in vars(member)
        or names == ("NotImplementedError",)
    )


def there(value: Any) -> bool:
    """Whether a value is, or holds, a tensor of the stand-in."""
    if isinstance(value, Tensor):
        return isinstance(value, StandIn)
    if isinstance(value, nn.Module):
        return any(isinstance(one, StandIn) for one in (*value.parameters(), *value.buffers()))
    parts = vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, type) else (value,)
    return any(
        isinstance(one, StandIn) or (isinstance(one, nn.Module) and there(one)) for one in tree_iter(list(parts))
    )


def watch(wanted: dict[CodeType, str], covered: set[str]) -> None:
    """Note every function of `wanted` that is called with a tensor of the stand-in."""

    def called(frame: FrameType, event: str, _: Any) -> None:
        name = wanted.get(frame.f_code) if event == "call" and DEVICE.active else None
        if name is not None and name not in covered and any(there(value) for value in frame.f_locals.values()):
            covered.add(name)

    threading.setprofile(called)
    sys.setprofile(called)


def main() -> int:
    """Run the tests and print what was not covered, by package."""
    names = dict(public())
    covered: set[str] = set()
    watch({code: name for name, code in names.items()}, covered)
    chosen = ["-m", "accelerator and not slow", "-k", "not compiled"]  # the compiler is too slow under a profiler
    failed = pytest.main(["-q", "-n", "0", *chosen, str(ROOT / "tests" / "standin"), *sys.argv[1:]])
    sys.setprofile(None)
    left = sorted(names.keys() - covered)
    print(f"\n{len(covered)} of {len(names)} public functions that take or hold a tensor ran on the stand-in.")
    whys = {name: reason(name) for name in left}
    for why in sorted(set(whys.values())):
        of = [name for name in left if whys[name] == why]
        print("\n".join([f"\n{len(of)} others: {why or 'not covered'}", *(f"  {name}" for name in of)]))
    return int(failed) or int("" in whys.values())


def reason(name: str) -> str:
    """Why a function need not run on the stand-in; empty where there is no reason."""
    known = ((f"lattok.{own}", why) for why, of in REASONS.items() for own in of.split())
    return next((why for own, why in known if fnmatchcase(name, own) or name.startswith(f"{own}.")), "")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
