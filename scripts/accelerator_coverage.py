"""Which public functions that take or hold a tensor ran on the stand-in accelerator, and which did not.

    python scripts/accelerator_coverage.py              # two minutes: `pytest -m accelerator`, watched
    python scripts/accelerator_coverage.py -k artefacts  # options of pytest

A function counts once it was called with a tensor of the stand-in: among its arguments, or held by the object that it
belongs to. What works in main memory alone is listed with the others; `MAIN_MEMORY` says which packages those are.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import threading
from collections.abc import Iterator
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
MAIN_MEMORY = {  # what they take is read from datasets, or written: arrays and tensors of the host
    "lattok.samples": "samples are gathered in main memory; the feed copies them",
    "lattok.data": "datasets",
    "lattok.annotation": "labels on their way to files",
    "lattok.evaluation": "figures: what models answered is copied to the host once, and probes are fitted there",
    "lattok.labels": "labels read from files",
    "lattok.convert": "importers: they read files",
    "lattok.hub": "files of artefacts",
    "lattok.image_lam.published": "importers, and models that an importer opens",
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
            if inspect.isfunction(inspect.unwrap(member)) and (not own.startswith("_") or own == "__call__"):
                yield f"{name}.{own}", member, issubclass(value, nn.Module) and own == "forward"


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
    failed = pytest.main(["-q", "-m", "accelerator", str(ROOT / "tests" / "standin"), *sys.argv[1:]])
    sys.setprofile(None)
    left = sorted(names.keys() - covered)
    reasons = {name: next((why for of, why in MAIN_MEMORY.items() if name.startswith(of)), "") for name in left}
    print(f"\n{len(covered)} of {len(names)} public functions that take or hold a tensor ran on the stand-in.")
    for why in sorted(set(reasons.values())):
        of = [name for name in left if reasons[name] == why]
        print(f"\n{len(of)} others: {why or 'not covered'}")
        print("\n".join(f"  {name}" for name in of) if not why else "")
    return int(failed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
