"""The machine: devices by name, and the cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattok.utils import checks
from lattok.utils.checks import first_line

if TYPE_CHECKING:
    import torch

CPU_LIMIT, MEMORY_LIMIT = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/memory.max")


def cores() -> int:
    """Count the cores that this process may use, at least one."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(own, cpu_quota() or own)))


def cpu_quota() -> float | None:
    """Return how many cores the control group allows, None without a limit."""
    try:
        quota, period = CPU_LIMIT.read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory_bytes() -> float:
    """Return the bytes of main memory, of the machine or of the control group, whichever is less; inf if unknown."""
    sizes = [math.inf]
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # "max", or no such file
        sizes.append(int(MEMORY_LIMIT.read_text()))
    return min(sizes)


DEVICES = ("auto", "cpu", "cuda", "mps")


def device_called(name: str) -> torch.device:
    """Return the device called cpu, cuda, cuda:1 or mps; "auto" is CUDA where there is one, else MPS or the CPU.

    Each of several processes that were started together gets the GPU of its LOCAL_RANK.
    """
    import torch  # the command line asks for cores before it imports anything large

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
