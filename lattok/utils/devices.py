"""The machine: devices by name, and the cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lattok.utils import checks

if TYPE_CHECKING:
    import torch
    from torch import nn

Model = TypeVar("Model", bound="nn.Module")

CPU_LIMIT, MEMORY_LIMIT = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/memory.max")


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Let new tensors be float32, as all of our numbers are, whatever torch's default is."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def no_tf32() -> Iterator[None]:
    """Let a GPU multiply and convolve in float32; torch's default for convolutions, TF32, rounds to 10 bits."""
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    name, exact, conv = "allow_tf32", False, cudnn
    if hasattr(cudnn, "conv"):  # from torch 2.9 on
        name, exact, conv = "fp32_precision", "ieee", cudnn.conv
    with ExitStack() as stack:
        for place in (conv, matmul):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, exact)
        yield


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


def devices() -> list[torch.device]:
    """List the devices of this machine, the best first: accelerators that torch or a plug-in of it knows, the CPU."""
    import torch  # the command line asks for cores before it imports anything large

    plugin: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds = ["cuda", "xpu", "hpu"] if plugin is None else ["cuda", "xpu", "hpu", plugin.type]
    found: list[torch.device] = []
    for kind in dict.fromkeys(kind for kind in kinds if kind != "mps"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [torch.device(kind, number) for number in range(module.device_count())]
    found += [torch.device("mps")] if torch.backends.mps.is_available() else []
    return [*found, torch.device("cpu")]


def check_device(name: str) -> None:
    """Raise `LattokError` for what cannot be a device on any machine."""
    import torch

    try:
        torch.device("cpu" if name == "auto" else name)
    except (RuntimeError, TypeError):
        checks.fail("device", "auto, cpu, or an accelerator that torch knows, such as cuda:1 or mps", f"{name!r:.60}")


def device_called(name: str) -> torch.device:
    """Return the device called cpu, cuda, cuda:1, xpu, mps, ...; "auto" is the first of `devices`.

    Each of several processes that were started together gets the GPU of its LOCAL_RANK.
    """
    import torch

    check_device(name)
    here = devices()
    asked = torch.device(here[0].type if name == "auto" else name)
    if asked.index is None and here[-1] != asked and torch.device(asked.type, 0) in here:
        asked = torch.device(asked.type, int(os.environ.get("LOCAL_RANK", "0")))
    if asked not in here:
        checks.fail("device", f"a device of this machine ({', '.join(map(str, here))})", f"{name!r:.60}")
    return asked


def has_streams(device: torch.device) -> bool:
    """Return whether the host may go on while a copy of its own goes there."""
    return device.type not in ("cpu", "mps")


def module_of(device: torch.device) -> Any:
    """Return what torch.cuda is for CUDA; None for devices without streams, and for meta."""
    import torch

    return getattr(torch, device.type, None) if has_streams(device) else None


def moved(model: Model, device: str | None) -> Model:
    """Move a model to the device of that name; None leaves it where it is."""
    if device is None:
        return model
    try:
        return model.to(device_called(device))
    except RuntimeError as error:  # a driver that is broken, memory that is full
        return checks.fail("device", "a device that works", f"{device} ({checks.first_line(error)})")
