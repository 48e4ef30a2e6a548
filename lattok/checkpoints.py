"""The state of a run on disk: what training changes, the optimiser, the step.

Shards of several processes (FSDP2) are put together first, so that any number of processes can go on from a checkpoint.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lattok import checks, files


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds only its part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which must all ask; one that is not sharded as it is."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trained parameters and all buffers, also those that an artefact leaves out."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def save(model: nn.Module, optimizer: Any, path: Path, step: int, write: bool) -> None:
    """Write a checkpoint: all processes call, those with `write` write."""
    state = {"step": step, "model": state_of(model), "optimizer": optimizer.state_dict()}
    if any(map(is_sharded, _tensors(state))):
        state = _gathered(state, write)
    if not write:
        return
    with files.whole_file(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's archive writer hides the system's reason
            if not any(part in str(error) for part in ("PytorchStreamWriter", "inline_container", "unexpected pos")):
                raise
            room = shutil.disk_usage(temporary.parent).free
            raise OSError(errno.ENOSPC, f"checkpoint not written, {room} bytes free", str(temporary)) from error


def restore(model: nn.Module, optimizer: Any, path: Path, steps: int) -> int:
    """Load a checkpoint and return its step, at most `steps`. All processes call."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _ = saved["step"], saved["model"].keys(), saved["optimizer"]
    except Exception as error:  # torch raises many kinds for a damaged file; the user needs one line
        checks.fail(str(path), "a whole checkpoint", f"a file that cannot be read ({str(error).splitlines()[0]})")
    current = state_of(model)
    if current.keys() != saved["model"].keys():
        names = sorted(current.keys() ^ saved["model"].keys())
        checks.fail(str(path), "the tensors of this model", f"others: {', '.join(names[:5])}")
    with torch.no_grad():
        for name, tensor in saved["model"].items():
            if current[name].shape == tensor.shape:
                current[name].copy_(_as(tensor, current[name]))
            elif name in dict(model.named_parameters()):
                checks.fail(str(path), f"shape {list(current[name].shape)} for {name}", f"{list(tensor.shape)}")
            else:
                grow_buffer(model, name, tensor)
    _share(saved["optimizer"], optimizer)
    optimizer.load_state_dict(saved["optimizer"])
    if saved["step"] > steps:
        checks.fail("steps", f"at least the {saved['step']} already done", steps)
    return int(saved["step"])


@torch.no_grad()
def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Give `target` what training changed in `source`, a copy of it that may be sharded. All processes call."""
    current = state_of(target)
    for name, tensor in state_of(source).items():
        full = whole(tensor)
        if current[name].shape == full.shape:
            current[name].copy_(full)
        else:
            grow_buffer(target, name, full)


def grow_buffer(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a buffer that grows, such as remembered latents, by one of another shape."""
    owner, _, leaf = name.rpartition(".")
    device = model.get_buffer(name).device
    model.get_submodule(owner).register_buffer(leaf, tensor.to(device), persistent=False)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _gathered(value: Any, keep: bool) -> Any:
    """The same with whole tensors on the CPU, one after the other; processes that do not `keep` them drop each."""
    if isinstance(value, dict):
        return {name: _gathered(part, keep) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    full = whole(value)
    return full.cpu() if keep else full.new_empty(0)


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as this process's part, where `like` is sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def _share(saved: dict[str, Any], optimizer: Any) -> None:
    """Cut the optimiser's saved moments as its parameters are cut."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    order = [number for group in saved["param_groups"] for number in group["params"]]
    for number, parameter in zip(order, parameters, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                saved["state"][number][name] = _as(value, parameter)
