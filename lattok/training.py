"""The only training loop. It knows no model: a model returns named loss terms, the loop weights, sums and logs them.

Every random number of step t follows from (seed, process, t), and batches are a function of the step, so that a run
that was interrupted and resumed equals one that was not, without any generator state on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lattok import checks, files
from lattok.quantize import VectorQuantizer

RUN, CHECKPOINT, METRICS, RECIPE = "run", "checkpoint.pt", "metrics.jsonl", "recipe.json"


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to learn; part of a recipe."""

    steps: int = 1000
    batch_size: int = 128  # over all processes
    lr: float = 1e-4
    schedule: str = "constant"  # or "one_cycle": 10 % warm-up, cosine to zero
    optimizer: str = "adam"  # or "adamw"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "mps"
    precision: str = "no"  # mixed precision: "no", "bf16", "fp16"
    log_every: int = 50
    save_every: int = 1000

    def __post_init__(self) -> None:
        checks.positive(steps=self.steps, batch_size=self.batch_size, lr=self.lr, clip_norm=self.clip_norm)
        checks.positive(log_every=self.log_every, save_every=self.save_every)
        checks.at_least_zero(weight_decay=self.weight_decay, seed=self.seed)
        checks.one_of("schedule", self.schedule, ("constant", "one_cycle"))
        checks.one_of("optimizer", self.optimizer, ("adam", "adamw"))
        checks.one_of("device", self.device, ("auto", "cpu", "cuda", "mps"))
        checks.one_of("precision", self.precision, ("no", "bf16", "fp16"))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved; the text says how to go on."""


class SeededBatches:
    """Indices of step t: consecutive slices of one shuffled pass after another. A function of (seed, t) alone."""

    def __init__(self, size: int, batch_size: int, seed: int):
        checks.positive(size=size, batch_size=batch_size)
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._passes: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Indices [batch_size] of step `step`, counted from 0."""
        position, parts, left = step * self.batch_size, [], self.batch_size
        while left:
            number, offset = divmod(position, self.size)
            part = self._pass(number)[offset : offset + left]
            parts.append(part)
            position, left = position + len(part), left - len(part)
        return torch.cat(parts)

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(mix(self.seed, number))
            self._passes = {k: v for k, v in self._passes.items() if k >= number - 1}
            self._passes[number] = torch.randperm(self.size, generator=generator)
        return self._passes[number]


def mix(*numbers: int) -> int:
    """A 63-bit seed from several integers, well spread."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


def learning_rate(options: LoopOptions, step: int) -> float:
    """Learning rate of step `step`, counted from 0."""
    if options.schedule == "constant":
        return options.lr
    warm = max(1, round(0.1 * options.steps))
    if step < warm:
        return options.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2)
    return options.lr * (1 + math.cos(math.pi * (step - warm) / max(1, options.steps - warm))) / 2


def fit(
    model: nn.Module,
    batches: Callable[[int, int, int], Any],
    options: LoopOptions,
    out: Path,
    *,
    loss_weights: Mapping[str, float],
    resume: bool = False,
    resume_command: str = "the same call with resume=True",
) -> dict[str, float]:
    """Train `model` in place and return the last logged values.

    `batches(step, process, processes)` gives this process's share of a step as a (named) tuple of tensors;
    `model(batch)` gives loss terms. State goes to `out/run/`. Raises `LattokError` when `out` holds another run or the
    loss stops being finite, `Interrupted` after Ctrl-C.
    """
    from accelerate import Accelerator
    from accelerate.utils import send_to_device

    accelerator = Accelerator(cpu=options.device == "cpu", mixed_precision=options.precision)
    if options.device not in ("auto", accelerator.device.type):
        checks.fail("device", f"a device this machine has ({accelerator.device.type})", options.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = kind(trained, lr=options.lr, weight_decay=options.weight_decay)
    wrapped, optimizer = accelerator.prepare(model.train(), optimizer)
    first = _restore(model, optimizer, out, options.steps) if resume else 0
    log = RunLog(out, first, options.steps) if accelerator.is_main_process else None
    last: dict[str, float] = {}
    with _interruptible() as interrupted:
        for step in range(first, options.steps):
            torch.manual_seed(mix(options.seed, rank, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, step)
            with accelerator.autocast():
                terms = wrapped(send_to_device(batches(step, rank, world), accelerator.device))
                loss = sum(
                    (loss_weights[name] * term for name, term in terms.items()), torch.zeros(()).to(accelerator.device)
                )
            _check_finite(loss, terms, step, out)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(trained, options.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if done % options.log_every == 0 or done == options.steps:
                values = {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}, "grad_norm": norm}
                reduced = accelerator.reduce({k: v.detach().float() for k, v in values.items()}, "mean")
                last = {**{k: float(v) for k, v in reduced.items()}, "lr": learning_rate(options, step)}  # type: ignore
                report = codebook_report(model)
                if log:
                    log.write(done, {**last, **report.values}, report.warnings)
            elif log:
                log.tick(done)
            if (done % options.save_every == 0 or done == options.steps or interrupted()) and log:
                _save(model, optimizer, out, done)
            if interrupted():
                if log:
                    log.close()
                raise Interrupted(f"Saved at step {done} of {options.steps} in {out}. Continue with: {resume_command}")
    if log:
        log.close()
    model.eval()
    return last


@dataclass
class CodebookReport:
    """Logged values and warnings about the codebooks of a model."""

    values: dict[str, float]
    warnings: list[str]


def codebook_report(model: nn.Module) -> CodebookReport:
    """Usage of every codebook since the last call, and a warning with numbers for each that collapses.

    Seen: few codes in use, low perplexity, and tokens that repeat one another (every code in use at every position,
    yet hardly more joint entropy than one token has).
    """
    report = CodebookReport({}, [])
    for name, module in model.named_modules():
        if not isinstance(module, VectorQuantizer):
            continue
        stats = module.usage()
        if stats is None:
            continue
        size, used, perplexity = module.config.size, min(stats.used), min(stats.perplexity)
        report.values[f"codebook/{name}/used"] = float(used)
        report.values[f"codebook/{name}/perplexity"] = perplexity
        report.values[f"codebook/{name}/joint_bits"] = stats.joint_entropy
        if used < size / 4 or perplexity < size / 10:
            report.warnings.append(
                f"codebook `{name}` is collapsing: {used} of {size} codes in use, perplexity {perplexity:.1f}. "
                "Start it from data (codebook_start=kmeans), revive dead codes (revive_below=0.03) or lower the rate."
            )
        elif stats.tokens_repeat:
            report.warnings.append(
                f"codebook `{name}`: its {len(stats.used)} tokens repeat one another: {stats.combinations} rows, "
                f"{stats.joint_entropy:.1f} bits jointly, {math.log2(max(stats.perplexity)):.1f} in one token alone. "
                "Use the `robust` preset (per-token heads, normalised latents, residual codes)."
            )
    return report


class RunLog:
    """metrics.jsonl, TensorBoard, and a progress bar with the time left (plain lines where there is no terminal)."""

    def __init__(self, out: Path, first: int, steps: int):
        from torch.utils.tensorboard import SummaryWriter

        folder = out / RUN
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        kept = self._path.read_text().splitlines() if first and self._path.exists() else []
        files.write_text(self._path, "".join(f"{line}\n" for line in kept if json.loads(line)["step"] <= first))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)
        self._bar = tqdm(
            total=steps, initial=first, desc=out.name, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )
        self._first, self._steps, self._begun, self._warned = first, steps, time.monotonic(), set[str]()

    def tick(self, done: int) -> None:
        """One step more."""
        self._bar.update(done - self._bar.n)

    def write(self, done: int, values: Mapping[str, float], warnings: list[str]) -> None:
        """Log the values of step `done`; each codebook's warning is shown when it begins and when it changes kind."""
        entry = {"step": done, **values, **({"warnings": warnings} if warnings else {})}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(files.finite(entry)) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, done)
        kinds = {text.split(":")[0]: text for text in warnings}
        for kind in kinds.keys() - self._warned:
            tqdm.write(f"step {done}: {kinds[kind]}", file=sys.stderr)
        self._warned = set(kinds)
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
        self.tick(done)
        if self._bar.disable and (done % max(1, self._steps // 10) < 1 or done == self._steps):
            rate = (time.monotonic() - self._begun) / max(1, done - self._first)
            left = rate * (self._steps - done)
            print(f"step {done}/{self._steps}  loss {values['loss']:.4f}  {left:.0f} s left", file=sys.stderr)

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        self._board.close()


def _state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trained parameters and all buffers, also those that an artefact leaves out."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def _save(model: nn.Module, optimizer: Any, out: Path, step: int) -> None:
    state = {"step": step, "model": _state(model), "optimizer": optimizer.state_dict()}
    with files.whole_file(out / RUN / CHECKPOINT) as path:
        torch.save(state, path)


def _restore(model: nn.Module, optimizer: Any, out: Path, steps: int) -> int:
    path = out / RUN / CHECKPOINT
    if not path.is_file():
        checks.fail("resume", f"a checkpoint at {path}", "none", "Leave --resume out to start anew.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; the user needs one line
        checks.fail(str(path), "a whole checkpoint", f"a file that cannot be read ({str(error).splitlines()[0]})")
    current = _state(model)
    if current.keys() != saved["model"].keys():
        names = sorted(current.keys() ^ saved["model"].keys())
        checks.fail(str(path), "the tensors of this model", f"others: {', '.join(names[:5])}")
    with torch.no_grad():
        for name, tensor in saved["model"].items():
            if current[name].shape == tensor.shape:
                current[name].copy_(tensor)
            else:  # buffers that grow, such as remembered latents
                owner, _, leaf = name.rpartition(".")
                model.get_submodule(owner).register_buffer(leaf, tensor.to(current[name].device), persistent=False)
    optimizer.load_state_dict(saved["optimizer"])
    if saved["step"] > steps:
        checks.fail("steps", f"at least the {saved['step']} already done", steps)
    return int(saved["step"])


def _check_finite(loss: Tensor, terms: Mapping[str, Tensor], step: int, out: Path) -> None:
    if bool(torch.isfinite(loss)):
        return
    bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
    checks.fail(
        "loss", "a finite number", f"{', '.join(bad) or 'the sum'} not finite at step {step + 1} in {out}", "Lower lr."
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop after this step, the second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
