"""What the benchmarks share: where figures come from, spreads, interleaved timing, the machine's GEMM rate."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from lattok.utils import files
from lattok.utils.devices import module_of
from lattok.version import installed

PACKAGES = ("torch", "numpy", "tokenizers", "transformers", "scipy", "av")
ROOT = Path(__file__).parents[1]


def _git(root: Path, *arguments: str) -> str:
    try:
        run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return run.stdout.strip()
    except OSError:
        return ""


RESULTS = "benchmarks/results", "studies/results"
CODE = ("lattok", "benchmarks", "studies", "scripts", "pyproject.toml", *(f":(exclude){path}" for path in RESULTS))


def commit_of(root: Path) -> str:
    """Commit of a tree, with "+" where code is changed or not in it; empty where there is no git.

    A copy without git, on a machine that is lent, is told its commit by LATTOK_COMMIT.
    """
    if not (root / ".git").exists():
        return os.environ.get("LATTOK_COMMIT", "")
    changed = _git(root, "status", "--porcelain", "--", *CODE)
    return _git(root, "rev-parse", "--short", "HEAD") + ("+" if changed else "")


def unnamed(commit: str) -> str:
    """What to say before a study begins whose result would not name a commit; empty where it would."""
    if commit and not commit.endswith("+"):
        return ""
    why = f"has code that is not in {commit[:-1]}" if commit else "is of no commit"
    return f"{ROOT} {why}: what this run measures names no commit, and the tests refuse such a result"


COMMIT = commit_of(ROOT)  # of the code that this process has read: a long study may end under another HEAD
_MAIN = Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve()
if unnamed(COMMIT) and any(_MAIN.is_relative_to(ROOT / name) for name in ("benchmarks", "scripts")):
    print(unnamed(COMMIT), file=sys.stderr, flush=True)


def environment() -> dict[str, Any]:
    """Commit, processor and versions, for the head of every results file."""
    return {
        "commit": COMMIT,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **installed(PACKAGES),
    }


def spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, least and greatest over runs of each figure that all of them have."""
    values = {key: [run[key] for run in runs] for key in runs[0] if all(key in run for run in runs)}
    return {key: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for key, v in values.items()}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON that diffs well."""
    files.write_text(path, json.dumps(results, indent=1) + "\n")


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def finish(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if (module := module_of(device)) is not None:
        module.synchronize(device)


def name_of(device: torch.device) -> str:
    """What the maker calls it."""
    return device.type if (module := module_of(device)) is None else module.get_device_name(device)


def backward(model: Any, weights: Mapping[str, float], batch: Any, _: Any = None) -> None:
    """Go forward and backward through the weighted losses of a training step."""
    terms = model(batch)
    torch.stack([weights[name] * terms[name] for name in weights if name in terms]).sum().backward()
    model.zero_grad(set_to_none=True)


def peak(function: Callable[[], Any], device: torch.device) -> int:
    """Bytes that torch's allocator holds at most during a call, beyond those at its start."""
    if (module := module_of(device)) is not None:
        module.synchronize(device)
        module.reset_peak_memory_stats(device)
        before = module.memory_allocated(device)
        function()
        return module.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    recorded: Any = profile.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


class Case(NamedTuple):
    """Something to time: `function(argument)`."""

    function: Callable[[Any], Any]
    argument: Any


class Timing(NamedTuple):
    """Seconds per call over the rounds. CPU time counts all threads; wall time is what one waits."""

    cpu: float  # the least of the rounds
    cpu_median: float
    wall: float
    wall_median: float


def interleaved(cases: Mapping[str, Case], rounds: int = 9, seconds: float = 0.01) -> dict[str, Timing]:
    """Time cases in turn, round after round, so that whatever slows the machine down hits all of them.

    In each round every case repeats for about `seconds`, at least once; short, so that some rounds are undisturbed.
    """
    repeats = {name: _repeats(case, seconds) for name, case in cases.items()}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (function, argument) in cases.items():
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for _ in repeat(None, repeats[name]):
                function(argument)
            cpu[name].append((time.process_time() - begun_cpu) / repeats[name])
            wall[name].append((time.perf_counter() - begun) / repeats[name])
    return {n: Timing(min(cpu[n]), median(cpu[n]), min(wall[n]), median(wall[n])) for n in cases}


def _repeats(case: Case, seconds: float) -> int:
    """Calls that fill `seconds` of CPU time, after warming up; wall time would count what else runs."""
    case.function(case.argument)
    count = 1
    while True:
        begun = time.process_time()
        for _ in repeat(None, count):
            case.function(case.argument)
        took = time.process_time() - begun
        if took > seconds / 4:
            return max(1, round(count * seconds / took))
        count *= 4


def ratios(timings: Mapping[str, Timing], base: str) -> dict[str, tuple[float, float]]:
    """How many times faster than `base` each case is, in CPU time: of the minima, and of the medians."""
    other = timings[base]
    return {name: (other.cpu / own.cpu, other.cpu_median / own.cpu_median) for name, own in timings.items()}


def gemm_rate() -> float:
    """GFLOP/s of a float32 product by one thread of torch.

    Small enough for the caches: the rate of the kernel, not of the memory.
    """
    rows, size, generator = 512, 256, np.random.default_rng(0)
    x, weight = (torch.from_numpy(generator.standard_normal((n, size)).astype(np.float32)) for n in (rows, size))
    timing = interleaved({"torch": Case(lambda a: torch.nn.functional.linear(a, weight), x)}, rounds=25)["torch"]
    return 2 * rows * size**2 / timing.cpu / 1e9
