"""What this process may use of the machine: cores and main memory, as far as the system and its control group allow."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

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
