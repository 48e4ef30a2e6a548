"""What a training run says: metrics.jsonl, TensorBoard, a progress bar, and warnings of codebooks that collapse."""

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from accelerate.tracking import WandBTracker
from torch import nn
from tqdm.auto import tqdm
from typing_extensions import Self

from lattok.nn.quantize import CodeUsage, QuantizerConfig
from lattok.utils import checks, files
from lattok.utils.devices import module_of
from lattok.utils.log import caution, said, say
from lattok.version import install_extra

METRICS, BOARD, WANDB = "metrics.jsonl", "tensorboard", "wandb-id"
START, START_STEPS = 0.25, 1000  # share of a run, and steps at most, in which codebooks may still be finding themselves
JOINT = "lam.lam."  # begins the names of codebooks of a latent action model that a policy trains along
BEFORE = " Do so where the latent action model is trained first, alone."
GROWTH = 1.1  # a codebook whose perplexity rises by this factor between two looks is on its way


class RunLog:
    """metrics.jsonl, TensorBoard where it is installed, and a progress bar with the time left (plain lines where there
    is no terminal). With the `tracker` wandb, values go there as well, with those of `config` once. Use it in a `with`.
    """

    def __init__(
        self, folder: Path, title: str, first: int, steps: int, tracker: str = "none", config: Mapping | None = None
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        before = self._path.read_text(encoding="utf-8", errors="replace") if first and self._path.is_file() else ""
        kept = (line for line in before.splitlines() if (entry := _entry(line)) is not None and entry["step"] <= first)
        files.write_text(self._path, "".join(f"{line}\n" for line in kept))  # what came after the checkpoint goes
        self._board = _board(folder / BOARD, first)
        self._tracker = _wandb(folder, title, first, config or {}) if tracker == "wandb" else None
        self._bar = tqdm(
            total=steps,
            initial=first,
            desc=title,
            unit="step",
            dynamic_ncols=True,
            disable=not (said() and sys.stderr.isatty()),
        )
        self._first, self._steps, self._begun, self._warned = first, steps, time.monotonic(), set[str]()
        self._tenth = 10 * first // steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.finish()

    def tick(self, done: int) -> None:
        """Show that `done` steps are over."""
        self._bar.update(done - self._bar.n)

    def write(self, done: int, values: Mapping[str, float], warnings: list[str]) -> None:
        """Log the values of step `done`; a warning is shown when it begins, and when it is over."""
        entry = {"step": done, **values, **({"warnings": warnings} if warnings else {})}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(files.finite(entry)) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, done)
        if self._tracker is not None:
            self._tracker.log(dict(values), step=done)
        kinds = {text.split(":")[0]: text for text in warnings}
        for kind in kinds.keys() - self._warned:
            caution(f"step {done}: {kinds[kind]}")
        for kind in sorted(self._warned - kinds.keys()):
            caution(f"step {done}: over: {kind}")
        self._warned = set(kinds)
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
        self.tick(done)
        tenth = 10 * done // self._steps
        if self._bar.disable and tenth > self._tenth:
            self._tenth = tenth
            rate = (time.monotonic() - self._begun) / max(1, done - self._first)
            left = rate * (self._steps - done)
            say(f"step {done}/{self._steps}  loss {values['loss']:.4f}  {left:.0f} s left")


def check_tracker(name: str) -> None:
    """Raise `LattokError` for a tracker that is not installed."""
    if name != "none" and find_spec(name) is None:
        raise checks.LattokError(f"`tracker` {name} is not installed. Install it: {install_extra(name)}")


def _board(folder: Path, first: int) -> Any:
    """Begin TensorBoard's files, in which what came after step `first` no longer counts; None without its package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first + 1)


def _wandb(folder: Path, title: str, first: int, config: Mapping[str, Any]) -> WandBTracker:
    """Begin a run of wandb, or go on with the one that this folder began; accelerate knows how."""
    path = folder / WANDB
    known = path.read_text(encoding="utf-8").strip() if first and path.is_file() else ""
    name = known if known.isalnum() else uuid4().hex
    files.write_text(path, f"{name}\n")
    tracker = WandBTracker("lattok", name=title, dir=str(folder), id=name, **({"resume": "allow"} if known else {}))
    if hasattr(tracker, "start"):  # from accelerate 1.8 on; until then it starts when it is made
        tracker.start()
    tracker.store_init_configuration(dict(config))
    return tracker


class Meter:
    """How fast a run is, and how much memory its first process has needed."""

    def __init__(self, batch_size: int, first: int, device: torch.device):
        self._batch_size, self._done, self._device = batch_size, first, device
        self._time = time.monotonic()
        if (module := module_of(device)) is not None:
            module.reset_peak_memory_stats(device)

    def read(self, done: int, waited: float) -> dict[str, float]:
        """Tell `samples_per_second` since the last reading, over all processes, and the peak `memory_gb` (10^9 bytes).
        `data_wait` is the share of that time that the first process `waited` for data, in seconds. In main memory the
        peak is that of the process so far, from before the run too."""
        now, samples = time.monotonic(), self._batch_size * (done - self._done)
        elapsed = max(now - self._time, 1e-9)
        self._time, self._done = now, done
        peak = peak_memory(self._device)
        rates = {"samples_per_second": samples / elapsed, "data_wait": min(1.0, waited / elapsed)}
        return rates | ({} if peak is None else {"memory_gb": peak / 1e9})


def peak_memory(device: torch.device) -> float | None:
    """Tell the most bytes that tensors took on an accelerator, or this process in main memory; None: not known."""
    if (module := module_of(device)) is not None:
        return module.max_memory_allocated(device)
    with suppress(OSError, StopIteration):  # Linux, where ru_maxrss of a child begins with its parent's
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * int(next(line.split()[1] for line in status if line.startswith("VmHWM")))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a finished run's metrics.jsonl, each with its `step`; a damaged file is a `LattokError`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise checks.LattokError(f"cannot read {path}: {error.strerror}.") from None
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    if not entries or len(entries) < len(lines):
        raise checks.LattokError(f"{path}: expected a line of figures for every step that was logged, got others.")
    return entries


def _entry(line: str) -> dict[str, Any] | None:
    """Read a line as it was logged; None where it was cut by a kill, or is no line of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return entry if checks.is_int(step) else None


class CodebookReport(NamedTuple):
    """Logged values about the codebooks of a model, and warnings by the names of those that they are about."""

    values: dict[str, float]
    warnings: dict[str, str]


def codebook_report(model: nn.Module) -> CodebookReport:
    """Tell the usage of every codebook since the last call, with a warning in numbers for each that collapses. Seen:
    few codes in use, low perplexity, and tokens that repeat one another (every code in use at every position, yet
    hardly more joint entropy than one token has)."""
    report = CodebookReport({}, {})
    for name, module in model.named_modules():
        if not isinstance(module, CodeUsage) or (stats := module.pop_usage()) is None:
            continue
        size, used, perplexity = module.size, min(stats.used), min(stats.perplexity)
        report.values[f"codebook/{name}/used"] = float(used)
        report.values[f"codebook/{name}/perplexity"] = perplexity
        report.values[f"codebook/{name}/joint_bits"] = stats.joint_entropy
        if used < size / 4 or perplexity < size / 10:
            report.warnings[name] = (
                f"codebook `{name}` is collapsing: {used} of {size} codes in use, perplexity {perplexity:.1f}. "
                + _remedy(module, "" if name == "quantizer" else "codebook_")
                + (BEFORE if name.startswith(JOINT) else "")
            )
        elif stats.tokens_repeat:
            report.warnings[name] = (
                f"codebook `{name}`: its {len(stats.used)} tokens repeat one another: {stats.combinations} rows, "
                f"{stats.joint_entropy:.1f} bits jointly, {math.log2(max(stats.perplexity)):.1f} in one token alone. "
                "Use the `robust` preset (per-token heads, normalised latents, residual codes)."
            )
    return report


@dataclass
class CodebookWatch:
    """`codebook_report` over a run, with the warnings that matter: few codes are normal while a codebook starts. There
    is no warning in the first steps, later on where a codebook that collapses does not recover by itself. What is
    collapsed when the run ends is said in any case."""

    steps: int  # of the run
    quiet: bool = False  # no warnings: a trial run ends before a codebook has started
    seen: dict[str, float] = field(default_factory=dict)  # perplexity of each codebook at the last look

    def __call__(self, model: nn.Module, done: int, last: bool = False) -> CodebookReport:
        """Tell the usage since the last look, after `done` steps; `last`: the run ends here."""
        values, warnings = codebook_report(model)
        before, self.seen = self.seen, {name: values[f"codebook/{name}/perplexity"] for name in warnings}
        starting = done <= min(START * self.steps, START_STEPS)
        growing = {name for name, now in self.seen.items() if name in before and now > GROWTH * before[name]}
        if self.quiet or (starting and not last):
            warnings = {}
        return CodebookReport(values, {name: text for name, text in warnings.items() if last or name not in growing})


def _remedy(module: CodeUsage, prefix: str) -> str:
    """Return what has not been tried against collapse; `prefix` begins some options of latent action models."""
    config: QuantizerConfig | None = getattr(module, "config", None)
    if module.frozen:
        return "Its codes come from another model: train that one on data like this, with the same preset."
    if config is None:
        return "There is no codebook to start or revive: lower lr, or normalise the latents (latent_norm=batch)."
    if config.update == "gradient":  # latents find such a codebook more easily than it finds them
        if config.start != "uniform":
            return "Start it small: codebook_start=uniform."
        if config.restart_every == 0 and config.revive_below == 0:
            return f"Let dead codes restart as copies of used ones: {prefix}restart_every=100."
        return "Early on this passes; if it stays, use the `robust` preset (normalised latents, moving averages)."
    if config.start != "kmeans":
        return "Start it from data: codebook_start=kmeans."
    if config.revive_below == 0:
        return f"Revive dead codes: {prefix}revive_below=0.03."
    return f"Early on this passes; if it stays, lower lr or start the codebook later: {prefix}continuous_steps."
