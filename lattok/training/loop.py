"""The only training loop. It knows no model: a model returns named loss terms, the loop weights, sums and logs them.

Every random number of step t follows from (seed, process, t), and batches are a function of the step, so that a run
that was interrupted and resumed equals one that was not, without any generator state on disk.

No step waits for a GPU: numbers are read where something is logged or saved, and the first loss that is not finite is
remembered on the device until then.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn

from lattok.nn.blocks import torch_threads
from lattok.training import checkpoints
from lattok.training.feed import Batches, Feed
from lattok.training.runlog import TRACKERS, CodebookWatch, Meter, RunLog, check_tracker
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import DEVICES
from lattok.utils.seeds import derive_seed
from lattok.utils.signals import Interrupted, deferred

RUN, CHECKPOINT, RECIPE = "run", "checkpoint.pt", "recipe.json"
FUSED = ("cpu", "cuda")  # devices whose optimiser is one call for all parameters, in every torch that will do
SMALLER = "Choose a smaller batch_size or a smaller model, or let `accumulate` share a batch."


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to learn; part of a recipe.

    Attributes:
        steps: of training
        batch_size: over all processes and accumulated parts
        accumulate: parts of a batch, one after the other; batch statistics and moving codebooks see the parts
        lr: learning rate
        schedule: "constant"; "one_cycle": 10 % warm-up, cosine to zero; "step": times a factor now and then; "cosine"
        decay_every: steps of "step"
        decay_factor: of "step"
        warmup_steps: of "cosine", which then falls to min_lr
        min_lr: learning rate at which "cosine" ends
        optimizer: "adam" or "adamw"
        beta2: decay per step of the mean squared gradients
        weight_decay: of each step, times lr; with "adam" part of the gradient
        clip_norm: greatest norm of the gradient
        ema: decay per step of a moving average of the weights, which the model gets; 0: the last weights
        seed: of everything random
        device: "auto", "cpu", "cuda", "mps"
        precision: or "bf16": mixed precision
        log_every: steps
        save_every: steps; a run that is stopped goes on from the last checkpoint
        threads: of torch on a CPU, part of the result; 0: torch's own choice
        tracker: or "wandb": the figures go there as well
        trial: a few steps to see that it works: every report on the model says so
    """

    steps: int = 1000
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 1e-4
    schedule: str = "constant"
    decay_every: int = 10_000
    decay_factor: float = 0.5
    warmup_steps: int = 0
    min_lr: float = 0.0
    optimizer: str = "adam"
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "no"
    log_every: int = 50
    save_every: int = 1000
    threads: int = 0
    tracker: str = "none"
    trial: bool = False

    def __post_init__(self) -> None:
        checks.counts(steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        checks.counts(decay_every=self.decay_every, log_every=self.log_every, save_every=self.save_every)
        checks.positive(lr=self.lr, clip_norm=self.clip_norm, decay_factor=self.decay_factor)
        checks.at_least_zero(weight_decay=self.weight_decay, seed=self.seed)
        if not 0 <= self.ema < 1:
            checks.fail("ema", "a decay from 0 to below 1, such as 0.999", self.ema)
        checks.below_one(beta2=self.beta2)
        checks.whole(threads=self.threads, warmup_steps=self.warmup_steps)
        if not 0 <= self.min_lr <= self.lr:
            checks.fail("min_lr", f"a learning rate from 0 to lr {self.lr:g}", self.min_lr)
        checks.one_of("schedule", self.schedule, ("constant", "one_cycle", "step", "cosine"))
        checks.one_of("optimizer", self.optimizer, ("adam", "adamw"))
        checks.one_of("device", self.device, DEVICES)
        checks.one_of("precision", self.precision, ("no", "bf16"))
        checks.one_of("tracker", self.tracker, TRACKERS)


class ParameterGroup(NamedTuple):
    """Parameters that learn at a rate of their own."""

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0  # times the learning rate of the loop


def one_group(model: nn.Module) -> list[ParameterGroup]:
    """Put all parameters into one group, at the learning rate of the loop."""
    return [ParameterGroup(list(model.parameters()))]


def learning_rate(options: LoopOptions, step: int) -> float:
    """Return the learning rate of step `step`, counted from 0."""
    if options.schedule == "constant":
        return options.lr
    if options.schedule == "step":
        return options.lr * options.decay_factor ** (step // options.decay_every)
    if options.schedule == "cosine":
        if step < options.warmup_steps:
            return options.lr * (step + 1) / options.warmup_steps
        share = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
        return options.min_lr + (options.lr - options.min_lr) * (1 + math.cos(math.pi * share)) / 2
    warm = max(1, round(0.1 * options.steps))
    if step < warm:
        return options.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2)
    return options.lr * (1 + math.cos(math.pi * (step - warm) / max(1, options.steps - warm))) / 2


@contextmanager
def _accelerate_state_kept() -> Iterator[None]:
    """Leave the device and precision of the caller's own Accelerator as they were."""
    kinds = (AcceleratorState, PartialState, GradientState)
    saved = [dict(kind._shared_state) for kind in kinds]
    try:
        yield
    finally:
        for kind, state in zip(kinds, saved, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


@_accelerate_state_kept()
def meet(device: str) -> None:
    """Let the processes that torchrun started know each other before `fit`, in the way in which they will in it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=device == "cpu")


@_accelerate_state_kept()
def fit(
    model: nn.Module,
    batches: Batches,
    options: LoopOptions,
    out: Path,
    *,
    loss_weights: Mapping[str, float],
    groups: Callable[[nn.Module], Sequence[ParameterGroup]] = one_group,
    resume: bool = False,
    resume_command: str = "the same call with resume=True",
) -> dict[str, float]:
    """Train `model` in place and return the values that it logged last; none where nothing was left to do.

    `batches(step, process, processes)` gives this process's share of a step as a (named) tuple of tensors, and of what
    is none, such as texts; accumulated parts are shares of more processes. A thread calls it ahead of the steps, see
    `Feed`. `model(batch)` gives loss terms: those with
    a weight are summed, the others only logged. `groups(model)` says which parameters learn at another rate. With `ema`
    the model ends with averages of the trained weights; its buffers are the last ones. State goes to `out/run/`;
    `resume` goes on from its checkpoint, or from the start where there is none yet. Raises `LattokError` where the loss
    is no longer finite, at the next step that is logged or saved and before either, or memory is full; `Interrupted`
    after Ctrl-C, SIGTERM or SIGHUP; all with the last good state saved.
    """
    check_tracker(options.tracker)
    accelerator = _accelerator(options)
    module = copy.deepcopy(model) if _shards(accelerator) else model  # sharding in place would not come off again
    fused = accelerator.device.type in FUSED
    wrapped, optimizer = accelerator.prepare(module.train(), _optimizer(groups(module), module, options, fused))
    path = out / RUN / CHECKPOINT
    average = checkpoints.weights_of(module) if options.ema else {}
    first = checkpoints.restore(module, optimizer, path, options.steps, average) if resume and path.is_file() else 0
    main = accelerator.is_main_process
    told = options.tracker, asdict(options)
    log = RunLog(out / RUN, out.name, first, options.steps, *told) if main else None
    meter = Meter(options.batch_size, first, accelerator.device)
    last: dict[str, float] = {}
    watch = CodebookWatch(options.steps, quiet=options.trial)
    threads = options.threads if accelerator.device.type == "cpu" else 0
    count, world = options.accumulate, accelerator.num_processes
    own = [accelerator.process_index + i * world for i in range(count)]
    feed = Feed(batches, first, options.steps, own, world * count, accelerator.device)
    finite, anywhere = Finite(out), Anywhere(accelerator)
    with deferred() as asked, torch.random.fork_rng(), torch_threads(threads), feed:
        if main:
            print(f"{out.name}: {options.steps - first} steps on {_where(accelerator.device)}", file=sys.stderr)
        for step in range(first, options.steps):
            rate = learning_rate(options, step)
            try:
                with checks.within_memory(f"step {step + 1} of {options.steps}", SMALLER):
                    values = _step(accelerator, wrapped, optimizer, feed, own, loss_weights, step, rate, options)
            except Exception:
                finite.check()  # what a model does with weights that are not finite follows from them
                raise
            finite.see(values, step)
            done = step + 1
            if average:
                _follow(average, module, done, options.ema)
            logs = done % options.log_every == 0 or done == options.steps
            stop = anywhere(asked())
            saves = done % options.save_every == 0 or done == options.steps or stop
            if logs or saves:
                finite.check()
            if logs:
                reduced: Any = accelerator.reduce(values, "mean")
                last = {**{name: float(value) for name, value in reduced.items()}, "lr": rate}
                report = watch(module, done, last=done == options.steps)
                if log:
                    log.write(
                        done,
                        {**last, **report.values, **meter.read(done, feed.waited())},
                        list(report.warnings.values()),
                    )
            elif log:
                log.tick(done)
            if saves:
                checkpoints.save(module, optimizer, path, done, main, average)
            if stop:
                if log:
                    log.close()
                text = f"Saved at step {done} of {options.steps} in {out}. Continue with: {resume_command}"
                raise Interrupted(text, stop)
    if log:
        log.close()
    checkpoints.fill(module, average.items())
    if module is not model:
        checkpoints.copy_state(module, model)
    model.eval()
    return last


def _accelerator(options: LoopOptions) -> Accelerator:
    """Make a fresh accelerator; the state of an earlier one in this process would keep its device and precision."""
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]  # codebooks synchronise themselves
    accelerator = Accelerator(
        cpu=options.device == "cpu",
        mixed_precision=options.precision,
        kwargs_handlers=handlers,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # only the loop accumulates
    )
    _check_setting(accelerator, options)
    if _shards(accelerator):
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # autocast rounds where it must, as without shards; accelerate's policy would also round actions and losses
        plugin: Any = accelerator.state.fsdp_plugin
        plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if options.device not in ("auto", accelerator.device.type):
        checks.fail("device", f"a device this machine has ({accelerator.device.type})", options.device)
    parts = accelerator.num_processes * options.accumulate
    if options.batch_size % parts:
        each = f"{accelerator.num_processes} processes" + f" x {options.accumulate} parts" * (options.accumulate > 1)
        checks.fail("batch_size", f"a multiple of the {each}", options.batch_size)
    return accelerator


def _where(device: torch.device) -> str:
    if device.type != "cpu":
        return str(device)
    count = torch.get_num_threads()
    return f"the CPU with {count} thread{'s' * (count > 1)} of torch"


def _check_setting(accelerator: Accelerator, options: LoopOptions) -> None:
    """Refuse what `accelerate launch` asks for and this loop does not do, rather than train in another way."""
    kind = accelerator.distributed_type.value
    if kind in ("DEEPSPEED", "MEGATRON_LM") or (kind == "FSDP" and not _shards(accelerator)):
        hint = "examples/accelerate has a file for each."
        checks.fail("accelerate", "one process, DDP or FSDP2", kind, hint)
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", options.precision):
        checks.fail("precision", f"{asked}, as accelerate was told", options.precision, "Set precision=bf16.")


def _shards(accelerator: Accelerator) -> bool:
    """Tell whether models are cut into parts (FSDP2), which accelerate knows from 1.6 on."""
    return getattr(accelerator, "is_fsdp2", False)


def _optimizer(
    groups: Sequence[ParameterGroup], model: nn.Module, options: LoopOptions, fused: bool
) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    checks.at_least_zero(**{f"rate of group {number}": group.rate for number, group in enumerate(groups)})
    trained = [{"params": [p for p in g.parameters if p.requires_grad], "rate": g.rate} for g in groups]
    trained = [group for group in trained if group["params"]]
    grouped = [id(p) for group in trained for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    if odd := [name for key, name in names.items() if grouped.count(key) != 1]:
        raise LattokError(f"`groups`: each parameter that is trained belongs into one group, but not so {odd[0]}.")
    betas = (0.9, options.beta2)
    return kind(trained, lr=options.lr, betas=betas, weight_decay=options.weight_decay, fused=fused)


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    feed: Feed,
    own: Sequence[int],
    loss_weights: Mapping[str, float],
    step: int,
    rate: float,
    options: LoopOptions,
) -> dict[str, Tensor]:
    """Take one optimiser step; return loss, terms and gradient norm, detached: means over the accumulated parts."""
    parts = []
    for share in own:
        batch = feed(step, share)
        torch.manual_seed(derive_seed(options.seed, share, step))
        with nullcontext() if share == own[-1] else accelerator.no_sync(model):  # gradients meet once
            with accelerator.autocast():
                terms = model(batch)
                loss = _weighted(terms, loss_weights)
            accelerator.backward(loss / len(own))
        parts.append(_logged(loss, terms, loss_weights))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.as_tensor(accelerator.clip_grad_norm_(trained, options.clip_norm))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    means = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
    return {**means, "grad_norm": checkpoints.whole(norm).detach().float()}


@torch.no_grad()
def _follow(average: Mapping[str, Tensor], model: nn.Module, done: int, decay: float) -> None:
    """Move the average towards the weights after step `done`, counted from 1.

    The decay grows as 1/10, 2/11, 3/12, ... up to `decay`: meanwhile the last tenth of the steps counts, not the start.
    """
    weights = dict(model.named_parameters())
    share = 1 - min(decay, done / (done + 9))
    torch._foreach_lerp_(list(average.values()), [weights[name].float() for name in average], share)  # type: ignore[attr-defined]


def _weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum up the terms that have a weight."""
    weighted = [weights[name] * term for name, term in terms.items() if name in weights]
    if not weighted:
        checks.fail("loss_weights", f"a weight for one of the terms {', '.join(terms)}", ", ".join(weights) or "none")
    return torch.stack(weighted).sum()


def _logged(loss: Tensor, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Name what a part of a step says: terms with a weight under loss/, other figures under their own name."""
    for name, term in terms.items():
        if name not in weights and term.requires_grad:
            hint = "Detach what only informs."
            checks.fail(name, "a loss term with a weight in loss_weights, or without a gradient", "neither", hint)
    named = {f"loss/{name}" if name in weights else name: term for name, term in terms.items()}
    return {name: value.detach().float() for name, value in {**named, "loss": loss}.items()}


class Anywhere:
    """The signal that any process got, the greatest of several; 0 where none did. All stop at the same step.

    One process hears at once; several hear what was asked before the last step, which a GPU has long told.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator, self._several = accelerator, accelerator.num_processes > 1
        self._told: Tensor | None = None
        self._arrived = torch.cuda.Event() if self._several and accelerator.device.type == "cuda" else None

    def __call__(self, number: int) -> int:
        if not self._several:
            return number
        told = self._told
        if told is not None and self._arrived is not None:
            self._arrived.synchronize()  # the copy of the last step, not this one's work
        heard = 0 if told is None else int(told)
        mine = torch.full((1,), number, device=self._accelerator.device)
        asked: Any = self._accelerator.gather(mine)
        self._told = asked.max().to("cpu", non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record()
        return heard


class Finite:
    """The first step whose loss was not finite, and which terms were not, on the device until `check` reads them."""

    def __init__(self, out: Path):
        self._out, self._names = out, []
        self._step: Tensor | None = None  # counted from 1; 0: all were finite
        self._bad: Tensor | None = None  # of that step, for each name

    def see(self, values: Mapping[str, Tensor], step: int) -> None:
        """Remember step `step`, counted from 0, where its loss is the first that is not finite."""
        self._names = ["loss", *(name for name in values if name.startswith("loss/"))]
        bad = ~torch.stack([values[name] for name in self._names]).isfinite()
        if self._step is None or self._bad is None:
            self._step, self._bad = torch.zeros((), dtype=torch.long, device=bad.device), torch.zeros_like(bad)
        first = bad[0] & (self._step == 0)
        self._step = torch.where(first, step + 1, self._step)
        self._bad = torch.where(first, bad, self._bad)

    def check(self) -> None:
        """Raise `LattokError` with that step and those terms, where there was one."""
        if self._step is None or self._bad is None or not (step := int(self._step)):
            return
        bad = [name for name, wrong in zip(self._names, self._bad.tolist(), strict=True) if wrong]
        names = ", ".join(name.removeprefix("loss/") for name in bad[1:]) or "the sum"
        checks.fail("loss", "a finite number", f"{names} not finite at step {step} in {self._out}", "Lower lr.")
