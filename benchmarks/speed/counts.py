"""Counts what a call dispatches: operations, casts, bytes, products and waits, for benchmarks/speed/launches.py.

An operation is what torch dispatches below autograd and what is more than another view of the same numbers: on a GPU
each is a kernel or some. Counts are exact, and the same on every machine, so that a test can hold them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten
GENERATED = "cpp_fused"  # in the names of inductor's kernels
COPIES = {aten.copy_, aten._foreach_copy_}
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal}  # the host must know the result
FREE = {  # give memory, or say something about a tensor
    aten.detach,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten._unsafe_view,
    aten._reshape_alias,
    aten.lift_fresh,
}


def _product(x: Any, a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Multiplications and additions of a product of matrices of these shapes."""
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {aten.addmm_: _product}  # which torch does not count


@dataclass
class Counts:
    """Of one call. `bytes` are those that all operations but products read and write; a number read by the host, or a
    size that depends on values, is a wait."""

    operations: int = 0
    casts: int = 0
    bytes: int = 0
    flop: int = 0
    waits: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, int]:
        """What is stored."""
        return {name: getattr(self, name) for name in FIGURES}


FIGURES = ("operations", "casts", "bytes", "flop", "waits")


class _Counting(TorchDispatchMode):
    def __init__(self, counts: Counts):
        super().__init__()
        self.counts = counts

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """What is compiled runs as it is, and the library's functions that it calls are counted."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, packet, counts = func(*args, **(kwargs or {})), func.overloadpacket, self.counts
        masks = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]
        )
        counts.waits += packet in READS or masks
        if func.is_view or packet in FREE or func.namespace == "profiler":
            return out
        counts.operations += 1
        counts.names[str(packet).removeprefix("aten.")] += 1
        counts.casts += _casts(packet, args)
        if packet not in flop_registry and packet not in IN_PLACE:
            seen = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
            counts.bytes += sum(x.numel() * x.element_size() for x in seen.values())
        return out


def _casts(packet: Any, args: Any) -> bool:
    """Return whether numbers go into another type, one tensor's or those of several at once."""
    types = [{x.dtype for x in tree_leaves(arg) if isinstance(x, Tensor)} for arg in args[:2]]
    return packet is aten._to_copy or (packet in COPIES and types[0] != types[1])


@torch.library.custom_op("lattok_benchmarks::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


@torch.library.custom_op("lattok_benchmarks::rms_norm_backward", mutates_args=())
def _rms_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, eps: float, learns: bool) -> tuple[Tensor, Tensor]:
    wide, given = x.float(), gradient.float()
    scale, back = (wide.square().mean(-1, keepdim=True) + eps).rsqrt(), given * weight
    found = (scale * (back - wide * scale**2 * (back * wide).mean(-1, keepdim=True))).to(x.dtype)
    return found, (given * wide * scale).flatten(0, -2).sum(0).to(weight.dtype) if learns else weight.new_empty(0)


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@_rms_norm_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, eps: float, learns: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight) if learns else weight.new_empty(0)


def _kept(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.eps = inputs[2]


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
    learns = ctx.needs_input_grad[1]
    found, of_weight = _rms_norm_backward(gradient, *ctx.saved_tensors, ctx.eps, learns)
    return found, of_weight if learns else None, None


_rms_norm.register_autograd(_back, setup_context=_kept)


class _AsOnGPU(TorchFunctionMode):
    """A norm is one operation there, and one backwards, which a CPU puts together of many."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.rms_norm:
            return _rms_norm(args[0], kwargs["weight"], kwargs["eps"])
        return func(*args, **kwargs)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what is dispatched inside, in the threads of this one and of its backward pass on a CPU."""
    counts = Counts()
    products = FlopCounterMode(display=False, custom_mapping=IN_PLACE)
    with products, torch.autograd.set_multithreading_enabled(False), _Counting(counts), _AsOnGPU():
        yield counts
    counts.flop = products.get_total_flops()


def counted(call: Callable[[], object]) -> Counts:
    """Count a call."""
    with counting() as counts:
        call()
    return counts


def launched(call: Callable[[], object]) -> int:
    """Count operations of a call on the CPU, of compiled parts the generated kernels and the library's functions.
    They must have been compiled with `cpp.enable_kernel_profile`."""
    counts = Counts()
    with torch.autograd.set_multithreading_enabled(False), _Counting(counts):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return counts.operations + sum(GENERATED in event.name for event in seen.events() or ())
