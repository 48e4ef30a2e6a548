"""The only training loop. It knows no model: a model returns named loss terms, the loop weights, sums and logs them.

Every random number of step t follows from (seed, process, t), and batches are a function of the step, so that a run
that was interrupted and resumed equals one that was not, without any generator state on disk.

No step waits for a GPU: numbers are read where something is logged or saved, the first loss that is not finite as well.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lattok.nn.blocks import torch_threads
from lattok.nn.rounding import Rounding
from lattok.training import checkpoints
from lattok.training.distributed import AnySignal, make_accelerator, parts_counted, restored_accelerate_state, shards
from lattok.training.feed import Batches, Feed
from lattok.training.runlog import CodebookWatch, Meter, RunLog, check_tracker
from lattok.utils import checks
from lattok.utils.devices import check_device, module_of
from lattok.utils.log import say
from lattok.utils.options import check_choices
from lattok.utils.run_files import CHECKPOINT, RUN
from lattok.utils.seeds import derive_seed
from lattok.utils.signals import Interrupted, deferred

AGAIN = "the same call with resume=True"
GRAPHS = ("encoder", "decoder", "features", "backbone", "flow_head")  # parts of models that are compiled as one graph
FUSED = ("cpu", "cuda")  # devices whose optimiser is one call for all parameters, in every torch that will do
SMALLER = "Choose a smaller batch_size or a smaller model, or let `accumulate` share a batch."


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to learn; part of a recipe.

    Attributes:
        steps: training steps
        batch_size: samples in a step, over all processes and accumulated parts
        accumulate: number of parts of a batch, computed one after the other; batch statistics and moving codebooks
            see one part at a time
        lr: learning rate
        schedule: course of the learning rate: "constant", after a warm-up if there is one; "one_cycle": 10 % warm-up,
            cosine to zero; "step": times decay_factor after every decay_every steps; "cosine": warm-up, then down to
            min_lr
        decay_every: steps after which schedule "step" lowers the learning rate
        decay_factor: factor by which schedule "step" lowers the learning rate
        warmup_steps: steps over which the learning rate rises to lr, in schedules "constant" and "cosine"
        min_lr: learning rate at which schedule "cosine" ends
        optimizer: which optimizer takes the steps
        beta2: decay per step of the optimizer's mean squared gradients
        weight_decay: share of the weights that a step takes away, times lr; with "adam" it is part of the gradient
        clip_norm: greatest norm of the gradient
        ema: decay per step of a moving average of the weights, which the model gets; 0: the last weights
        seed: seed of everything random
        device: where it computes; "auto" takes a GPU if there is one; any device that torch knows works, such as cuda:1
        precision: "bf16" computes in mixed precision, "no" in float32
        compile: compiles encoders, decoders, features, backbones and heads by torch.compile, which takes a minute or
            more and rounds in another way; the documentation says when it saves time
        log_every: steps between two lines of the log
        save_every: steps between checkpoints; a stopped run continues from the last one
        threads: torch's threads on a CPU, which the result depends on; 0: torch's own choice
        tracker: where figures go besides metrics.jsonl: "wandb", "tensorboard" or "none"; files for TensorBoard are
            always written if its package is installed; "tensorboard" requires it
        trial: marks a run of a few steps to see that it works: every report on the model says so
    """

    steps: int = 1000
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 1e-4
    schedule: Literal["constant", "one_cycle", "step", "cosine"] = "constant"
    decay_every: int = 10_000
    decay_factor: float = 0.5
    warmup_steps: int = 0
    min_lr: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    log_every: int = 50
    save_every: int = 1000
    threads: int = 0
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    trial: bool = False

    def __post_init__(self) -> None:
        checks.counts(steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        checks.counts(decay_every=self.decay_every, log_every=self.log_every, save_every=self.save_every)
        checks.positive(lr=self.lr, clip_norm=self.clip_norm, decay_factor=self.decay_factor)
        checks.at_least_zero(weight_decay=self.weight_decay)
        if not 0 <= self.ema < 1:
            checks.fail("ema", "a decay from 0 to below 1, such as 0.999", self.ema)
        checks.below_one(beta2=self.beta2)
        checks.whole(seed=self.seed, warmup_steps=self.warmup_steps)
        checks.counts(0, checks.MOST_THREADS, threads=self.threads)
        if not 0 <= self.min_lr <= self.lr:
            checks.fail("min_lr", f"a learning rate from 0 to lr {self.lr:g}", self.min_lr)
        check_device(self.device)
        check_choices(self)

    @property
    def shares(self) -> int:
        """Parts of a batch that are learned from at once: one for each process, times those it accumulates."""
        return int(os.environ.get("WORLD_SIZE", "1")) * self.accumulate


def learning_rate(options: LoopOptions, step: int) -> float:
    """Return the learning rate of step `step`, counted from 0."""
    if options.schedule in ("constant", "cosine") and step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.lr
    if options.schedule == "step":
        return options.lr * options.decay_factor ** (step // options.decay_every)
    if options.schedule == "cosine":
        share = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
        return options.min_lr + (options.lr - options.min_lr) * (1 + math.cos(math.pi * share)) / 2
    warm = max(1, round(0.1 * options.steps))
    if step < warm:
        return options.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2)
    return options.lr * (1 + math.cos(math.pi * (step - warm) / max(1, options.steps - warm))) / 2


@restored_accelerate_state()
def fit(
    model: nn.Module,
    batches: Batches,
    options: LoopOptions,
    out: Path,
    *,
    loss_weights: Mapping[str, float],
    rates: Mapping[str, float] = MappingProxyType({}),
    resume: bool = False,
    resume_command: str = "",
) -> dict[str, float]:
    """Train `model` in place and return the values that it logged last; empty if no step was left.

    `batches(step, process, processes)` gives this process's share of a step as a (named) tuple of tensors and other
    values, such as texts; accumulated parts count as further processes. A thread calls it ahead of the steps, see
    `Feed`. `model(batch)` gives loss terms: those with a weight are summed, the others only logged. `rates`: parameters
    whose names begin so learn at so many times the learning rate. With `ema` the model ends with averages of the
    trained weights; its buffers are the last ones. State goes to `out/run/`; `resume` continues from its checkpoint, or
    from the start where there is none yet. Raises `LattokError` where loss or gradient are no longer finite, at the
    next step that is logged or saved and before either, or memory is full; `Interrupted` after Ctrl-C, SIGTERM or
    SIGHUP; all with the last good state saved.
    """
    check_tracker(options.tracker)
    trainer = Trainer(model, rates, options, loss_weights, out)
    first, saved = 0, out / RUN / CHECKPOINT
    if resume and saved.is_file():
        first = checkpoints.restore(trainer.module, trainer.optimizer, saved, options.steps, trainer.average)
    device, tracking = trainer.accelerator.device, (options.tracker, asdict(options))
    log = RunLog(out / RUN, out.name, first, options.steps, *tracking) if trainer.accelerator.is_main_process else None
    feed = Feed(batches, first, options.steps, trainer.shares, trainer.share_count, device)
    threads = options.threads if device.type == "cpu" else 0
    forked = torch.random.fork_rng(device_type="cuda" if module_of(device) is None else device.type)
    compiling = compiled(trainer.module) if options.compile else nullcontext()
    counting = parts_counted(trainer.module, options.accumulate)
    with log or nullcontext(), deferred() as asked, forked, torch_threads(threads), compiling, counting, feed.started():
        if log:
            count = torch.get_num_threads()
            where = f"the CPU with {checks.counted(count, 'thread')} of torch" if device.type == "cpu" else str(device)
            say(f"{out.name}: {checks.counted(options.steps - first, 'step')} on {where}")
        try:
            last = trainer.run(first, feed, log, asked, resume_command or AGAIN)
        finally:  # the model of the caller computes in its own precision again
            trainer.accelerator.unwrap_model(trainer.wrapped, keep_fp32_wrapper=False)
    checkpoints.fill(trainer.module, trainer.average.items())
    if trainer.module is not model:
        state = checkpoints.state_of(trainer.module)  # of a copy whose parts are put together one after the other
        checkpoints.fill(model, ((name, checkpoints.whole(tensor)) for name, tensor in state.items()))
    model.eval()
    return last


class Trainer:
    """A model in training, prepared by accelerate, with an optimiser of its parameters."""

    def __init__(
        self,
        model: nn.Module,
        rates: Mapping[str, float],
        options: LoopOptions,
        loss_weights: Mapping[str, float],
        out: Path,
    ):
        self.options, self.loss_weights, self.out = options, loss_weights, out
        self.accelerator = make_accelerator(options.device, options.precision)
        if options.batch_size % self.share_count:
            processes, parts = self.accelerator.num_processes, options.accumulate
            each = f"{processes} processes x {parts} parts" if parts > 1 else f"{processes} processes"
            checks.fail("batch_size", f"a multiple of the {each}", options.batch_size)
        # what learns: the model itself, or a copy, as sharding in place would not come off again
        self.module = copy.deepcopy(model) if shards(self.accelerator) else model
        made = _optimizer(self.module, rates, options, fused=self.accelerator.device.type in FUSED)
        prepared: Any = self.accelerator.prepare(self.module.train(), made)
        self.wrapped, self.optimizer = prepared  # the module as accelerate calls it
        self.average = checkpoints.weights_of(self.module) if options.ema else {}  # of the trained weights
        rounds = options.precision == "bf16" and not options.compile and not shards(self.accelerator)
        self.rounding = Rounding(self.module) if rounds else None  # compiled graphs round for themselves

    @property
    def share_count(self) -> int:
        """Into how many shares a batch is divided: accumulated parts of every process."""
        return self.accelerator.num_processes * self.options.accumulate

    @property
    def shares(self) -> list[int]:
        """Numbers of the shares that this process takes: every `num_processes`-th, from its own on."""
        return list(range(self.accelerator.process_index, self.share_count, self.accelerator.num_processes))

    def run(
        self, first: int, feed: Feed, log: RunLog | None, asked: Callable[[], int], resume_command: str
    ) -> dict[str, float]:
        """Take all steps after `first`; return the values logged last. `asked()` is the signal to stop, 0 for none."""
        options, last = self.options, dict[str, float]()
        finite, any_signal = FiniteLoss(self.out), AnySignal(self.accelerator)
        meter = Meter(options.batch_size, first, self.accelerator.device)
        watch = CodebookWatch(options.steps, quiet=options.trial)
        for done in range(first + 1, options.steps + 1):
            try:
                with checks.within_memory(f"step {done} of {options.steps}", SMALLER):
                    values = self.step(done - 1, feed)
            except Exception:
                finite.check()  # what a model does with weights that are not finite follows from them
                raise
            finite.see(values, done)
            if self.average:
                _follow(self.average, self.module, done, options.ema)
            stop, ends = any_signal(asked()), done == options.steps
            logs = ends or done % options.log_every == 0
            saves = ends or stop or done % options.save_every == 0
            if logs or saves:
                finite.check()
            if logs:
                means: Any = self.accelerator.reduce(torch.stack(list(values.values())), "mean")
                last = dict(zip(values, means.tolist(), strict=True))  # a GPU is waited for once
                last["lr"] = learning_rate(options, done - 1)
            if log and logs:
                report, speed = watch(self.module, done, last=ends), meter.read(done, feed.waited())
                log.write(done, {**last, **report.values, **speed}, list(report.warnings.values()))
            elif log:
                log.tick(done)
            if saves:
                place, write = self.out / RUN / CHECKPOINT, self.accelerator.is_main_process
                checkpoints.save(self.module, self.optimizer, place, done, write, self.average)
            if stop:
                text = f"Saved at step {done} of {options.steps} in {self.out}. Continue with: {resume_command}"
                raise Interrupted(text, stop)
        return last

    def step(self, step: int, feed: Callable[[int, int], Any]) -> dict[str, Tensor]:
        """Take step `step`, from 0 on; return loss, terms and gradient norm, detached: means over accumulated parts."""
        parts, own, rate = [], self.shares, learning_rate(self.options, step)
        # `torch.manual_seed` writes down the stack for every kind of device, which takes longer than a small step
        random: Any = torch.default_generator if self.accelerator.device.type == "cpu" else torch
        for share in own:
            batch = feed(step, share)
            random.manual_seed(derive_seed(self.options.seed, share, step))
            with nullcontext() if share == own[-1] else self.accelerator.no_sync(self.wrapped):  # gradients meet once
                with self.accelerator.autocast(), self.rounding.of_pass() if self.rounding else nullcontext():
                    loss, values = _summed(self.wrapped(batch), self.loss_weights)
                self.accelerator.backward(loss / len(own) if len(own) > 1 else loss)
            parts.append(values)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(trained, self.options.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        means = parts[0]
        if len(parts) > 1:
            means = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
        return {**means, "grad_norm": checkpoints.whole(norm).detach().float()}


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Compile the parts of a model that are one graph, for as long as this lasts; codebooks and texts are not."""
    parts: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in GRAPHS and not any(name.startswith(f"{above}.") for above in parts):
            parts[name] = part
    for part in parts.values():
        setattr(part, "forward", torch.compile(part.forward))  # noqa: B010
    try:
        yield
    finally:
        for part in parts.values():
            del part.forward


def _optimizer(
    model: nn.Module, rates: Mapping[str, float], options: LoopOptions, fused: bool
) -> torch.optim.Optimizer:
    """Group parameters by their rate: that of the first of `rates` with which their names begin, else 1."""
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    checks.at_least_zero(**{f"rate of {prefix}": rate for prefix, rate in rates.items()})
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
            groups.setdefault(rate, []).append(parameter)
    trained = [{"params": own, "rate": rate} for rate, own in groups.items()]
    return kind(trained, lr=options.lr, betas=(0.9, options.beta2), weight_decay=options.weight_decay, fused=fused)


@torch.no_grad()
def _follow(average: Mapping[str, Tensor], model: nn.Module, done: int, decay: float) -> None:
    """Move the average towards the weights after step `done`, counted from 1. The decay grows as 1/10, 2/11, 3/12, ...
    up to `decay`: meanwhile the last tenth of the steps counts, not the start."""
    weights = dict(model.named_parameters())
    move = get_ema_multi_avg_fn(min(decay, done / (done + 9)))
    move(list(average.values()), [weights[name].float() for name in average], done)


def _summed(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of the terms with a weight, and what is logged: these under loss/, others under their own name."""
    weighted = [weights[name] * term for name, term in terms.items() if name in weights]
    if not weighted:
        checks.fail("loss_weights", f"a weight for one of the terms {', '.join(terms)}", ", ".join(weights) or "none")
    for name, term in terms.items():
        if name not in weights and term.requires_grad:
            hint = "Detach what only informs."
            checks.fail(name, "a loss term with a weight in loss_weights, or without a gradient", "neither", hint)
    loss, named = torch.stack(weighted).sum(), {f"loss/{n}" if n in weights else n: term for n, term in terms.items()}
    return loss, {name: value.detach().float() for name, value in {**named, "loss": loss}.items()}


class FiniteLoss:
    """The first step whose loss or gradient was not finite, and which terms were not, on the device until `check` reads
    them. The gradient is that of all processes, so that each hears of a loss that was not finite in another one."""

    def __init__(self, out: Path):
        self._out, self._names = out, []
        self._steps: Tensor | None = None  # for gradient, loss, terms: that step, counted from 1; 0: it was finite

    def see(self, values: Mapping[str, Tensor], done: int) -> None:
        """Remember step `done`, counted from 1, where its loss or gradient is the first that is not finite."""
        self._names = ["grad_norm", "loss", *(name for name in values if name.startswith("loss/"))]
        bad = ~torch.stack([values[name] for name in self._names]).isfinite()
        before = torch.zeros_like(bad, dtype=torch.long) if self._steps is None else self._steps
        self._steps = torch.where(bad.any() & ~before.any(), done * bad, before)

    def check(self) -> None:
        """Raise `LattokError` with that step and those terms, where there was one."""
        steps = [] if self._steps is None else self._steps.tolist()
        if not any(steps):
            return
        step, bad = max(steps), [name for name, wrong in zip(self._names, steps, strict=True) if wrong]
        terms = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
        names = ", ".join(terms) or ("the sum" if "loss" in bad else "the gradient")
        checks.fail("loss", "a finite number", f"{names} not finite at step {step} in {self._out}", "Lower lr.")
