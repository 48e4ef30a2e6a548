"""The state of a run on disk: what training changes, averages of the weights if there are any, the optimiser, the step.

Shards of several processes (FSDP2) are put together first, so that any number of processes can go on from a checkpoint.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypedDict

from lattok.utils import checks, files
from lattok.utils.untrusted import Rule, typed

PUT_BACK = "Put back a whole copy, or remove it to begin the run again."


class OptimizerState(TypedDict, total=False):  # what Adam and AdamW remember
    state: dict[int, dict[str, Tensor]]  # moments, for each parameter that ever had a gradient by its number


class Checkpoint(TypedDict, total=False):
    step: Annotated[int, Rule("a number of steps", lambda it: it >= 0)]
    model: dict[str, Tensor]
    optimizer: Annotated[OptimizerState, Rule("the state of an optimiser", {"state"}.issubset)]
    average: dict[str, Tensor]  # with `ema`


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only its part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, which must all ask; one that is not sharded as it is."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trained parameters and all buffers, also those that an artefact leaves out."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | dict(model.named_buffers())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trained parameters, in float32: an average in less would not move by small steps."""
    return {name: p.detach().to(torch.float32, copy=True) for name, p in model.named_parameters() if p.requires_grad}


def save(
    model: nn.Module, optimizer: Optimizer, path: Path, step: int, write: bool, average: Mapping[str, Tensor]
) -> None:
    """Write a checkpoint: all processes call, those with `write` write."""
    state = {"step": step, "model": state_of(model), "optimizer": optimizer.state_dict()}
    if average:
        state["average"] = dict(average)
    if any(map(is_sharded, model.parameters())):  # put together, one after the other; who does not write drops each
        state = recursively_apply(lambda tensor: whole(tensor).cpu() if write else whole(tensor).new_empty(0), state)
    if not write:
        return
    with files.whole_file(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's archive writer hides what the system said
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise OSError(reason.errno, f"checkpoint not written: {reason.strerror}", str(path)) from None


def restore(model: nn.Module, optimizer: Optimizer, path: Path, steps: int, average: Mapping[str, Tensor]) -> int:
    """Load a checkpoint, also into `average`, and return its step, at most `steps`. All processes call. All of it is
    checked before the first tensor is copied: what does not fit changes nothing."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; the user needs one line
        _refuse(path, f"a file that cannot be read ({checks.first_line(error)})")
    if not isinstance(saved, dict) or not {"step", "model", "optimizer"} <= saved.keys():
        _refuse(path, "a file of something else")
    saved = typed(saved, Checkpoint, "", str(path), PUT_BACK)
    step, tensors, moments = saved["step"], saved["model"], saved["optimizer"]["state"]
    _check_tensors(tensors, state_of(model), path, dict(model.named_buffers()))
    if average and "average" not in saved:
        _refuse(path, "none that holds averages, as `ema` asks for")
    _check_tensors(saved["average"] if average else {}, average, path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in moments.items():
        if not 0 <= number < len(parameters):
            _refuse(path, f"an optimiser's state of parameter {number}, of {len(parameters)}")
        like = parameters[number]
        _check_tensors(entry, {"step": torch.zeros(()), "exp_avg": like, "exp_avg_sq": like}, path)
        if any(bool((entry[name] < 0).any()) for name in ("step", "exp_avg_sq")):
            _refuse(path, f"moments of parameter {number} that no run leaves")
    if step > steps:
        checks.fail("steps", f"at least the {step} already done", steps)
    fill(model, tensors.items())
    for name, tensor in average.items():
        tensor.copy_(_as(saved["average"][name], tensor))
    for number, entry in moments.items():  # all but the step is cut as the parameter is
        for name in ("exp_avg", "exp_avg_sq"):
            entry[name] = _as(entry[name], parameters[number])
    # the options of the optimiser are the recipe's, not the file's
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _refuse(path: Path, got: str) -> NoReturn:
    checks.fail(str(path), "a whole checkpoint of this run", got, PUT_BACK)


def _check_tensors(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, buffers: Collection[str] = ()
) -> None:
    """Check names, kinds, shapes and that numbers are finite. Buffers may grow, and be infinite if they were before."""
    if found.keys() != wanted.keys():
        names = sorted(found.keys() ^ wanted.keys())
        checks.fail(str(path), "the tensors of this run", f"others: {', '.join(names[:5])}", PUT_BACK)
    for name, like in wanted.items():
        tensor, buffer = found[name], name in buffers
        grown = buffer and (like.shape == (0,) or tensor.shape[1:] == like.shape[1:] != ())
        if tensor.shape != like.shape and not grown:
            checks.fail(str(path), f"shape {list(like.shape)} for {name}", f"{list(tensor.shape)}")
        if tensor.dtype != like.dtype or tensor.layout != torch.strided:
            checks.fail(str(path), f"{like.dtype} for {name}", f"{tensor.dtype} ({tensor.layout})")
        if not _finite(tensor) and (not buffer or _finite(like)):
            _refuse(path, f"numbers that are not finite in {name}")


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(whole(tensor)).all())


@torch.no_grad()
def fill(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy whole tensors into a model; a buffer that grows, such as remembered latents, is replaced."""
    current = state_of(model)
    for name, tensor in tensors:
        if current[name].shape == tensor.shape:
            current[name].copy_(_as(tensor, current[name]))
        else:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_buffer(leaf, tensor.to(current[name].device), persistent=False)


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """Cut a whole tensor to this process's part, where `like` is sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
