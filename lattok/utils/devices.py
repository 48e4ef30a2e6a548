"""Devices: what their names stand for on this machine."""

from __future__ import annotations

import os
from typing import Any

import torch

from lattok.utils import checks
from lattok.utils.checks import first_line

DEVICES = ("auto", "cpu", "cuda", "mps")


def device_called(name: str) -> torch.device:
    """Return the device called cpu, cuda, cuda:1 or mps; "auto" is CUDA where there is one, else MPS or the CPU.

    Each of several processes that were started together gets the GPU of its LOCAL_RANK.
    """
    kind, _, number = name.partition(":")
    checks.one_of("device", kind, DEVICES)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = ["cuda"] * bool(gpus) + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    kind = usable[0] if kind == "auto" else kind
    number = number or (os.environ.get("LOCAL_RANK", "0") if kind == "cuda" else "0")
    if kind not in usable or not number.isdecimal() or int(number) >= (gpus if kind == "cuda" else 1):
        there = [f"cuda:{i}" for i in range(gpus)] + [kind for kind in usable if kind != "cuda"]
        checks.fail("device", f"a device of this machine ({', '.join(there)})", f"{name!r:.60}")
    return torch.device(kind, int(number)) if kind == "cuda" else torch.device(kind)


def moved(model: Any, device: str | None) -> Any:
    """Move a model to the device of that name; None leaves it where it is."""
    if device is None:
        return model
    try:
        return model.to(device_called(device))
    except RuntimeError as error:  # a driver that is broken, memory that is full
        return checks.fail("device", "a device that works", f"{device} ({first_line(error)})")
