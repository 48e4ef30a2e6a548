"""How a run uses processes, devices and precision: what accelerate is asked for, and what the processes agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from accelerate.utils.environment import parse_flag_from_env, patch_environment
from torch import Tensor, nn

from lattok.nn.quantize import VectorQuantizer
from lattok.utils import checks
from lattok.utils.devices import device_called, module_of

PATIENCE = timedelta(days=1)  # for which processes wait for one that judges, writes or reads alone


@contextmanager
def restored_accelerate_state() -> Iterator[None]:
    """Leave the device and precision of the caller's own Accelerator as they were."""
    kinds = (AcceleratorState, PartialState, GradientState)
    saved = [dict(kind._shared_state) for kind in kinds]
    try:
        yield
    finally:
        for kind, state in zip(kinds, saved, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


@restored_accelerate_state()
def init_process_group(device: str) -> None:
    """Connect the processes that torchrun started, before `fit` does, in its way."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=device == "cpu", timeout=PATIENCE)


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Make a fresh accelerator; the state of an earlier one in this process would keep its device and precision."""
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]  # codebooks synchronise themselves
    handlers.append(InitProcessGroupKwargs(timeout=PATIENCE))
    name = "ACCELERATE_TORCH_DEVICE"  # accelerate itself knows neither numbers nor all kinds of devices
    chosen = {name, "LOCAL_RANK"} & os.environ.keys() or parse_flag_from_env("ACCELERATE_USE_CPU")
    with patch_environment(**({} if chosen else {name: str(device_called(device))})):
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=precision,
            kwargs_handlers=handlers,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # only the loop accumulates
        )
    kind = accelerator.distributed_type.value  # what `accelerate launch` asks for and this loop does not do is refused
    if kind in ("DEEPSPEED", "MEGATRON_LM") or (kind == "FSDP" and not shards(accelerator)):
        checks.fail("accelerate", "one process, DDP or FSDP2", kind, "examples/accelerate has a file for each.")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        checks.fail("precision", f"{asked}, as set for accelerate", precision, "Set precision=bf16.")
    if shards(accelerator):
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # autocast rounds where it must, as without shards; accelerate's policy would also round actions and losses
        plugin: Any = accelerator.state.fsdp_plugin
        plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if device != "auto" and torch.device(device).type != accelerator.device.type:
        checks.fail("device", f"a device this machine has ({accelerator.device.type})", device)
    return accelerator


@contextmanager
def parts_counted(model: nn.Module, parts: int) -> Iterator[None]:
    """Let the quantizers of a model take that many passes for one training step, for as long as this lasts."""
    found = [module for module in model.modules() if isinstance(module, VectorQuantizer)]
    try:
        for module in found:
            module.parts = parts
        yield
    finally:
        for module in found:
            module.parts, module.part = 1, 0


def shards(accelerator: Accelerator) -> bool:
    """Return whether models are cut into parts (FSDP2), which accelerate knows from 1.6 on."""
    return getattr(accelerator, "is_fsdp2", False)


class AnySignal:
    """The signal that any process got, the greatest of several; 0 where none did. All stop at the same step. One
    process hears at once; several hear what was asked before the last step, which a GPU has long told."""

    def __init__(self, accelerator: Accelerator):
        self._accelerator, self._several = accelerator, accelerator.num_processes > 1
        self._gathered: Tensor | None = None  # of the last step, on its way to the host
        module = module_of(accelerator.device) if self._several else None
        self._arrived = None if module is None else module.Event()

    def __call__(self, number: int) -> int:
        if not self._several:
            return number
        if self._gathered is not None and self._arrived is not None:
            self._arrived.synchronize()  # the copy of the last step, not this one's work
        heard = 0 if self._gathered is None else int(self._gathered)
        asked: Any = self._accelerator.gather(torch.full((1,), number, device=self._accelerator.device))
        self._gathered = asked.max().to("cpu", non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record()
        return heard
