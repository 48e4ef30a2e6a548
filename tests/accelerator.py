"""A stand-in accelerator for machines without one: real numbers, as strict about devices as CUDA, and it counts.

PyTorch lets Python be a device (`PrivateUse1`): the data of a tensor of `standin:0` lies in a tensor of the CPU,
`raw`, which computes. What mixes it with a tensor of the CPU of one or more dimensions raises, as on CUDA; so do a
generator of the other device and `numpy()` without `force`. Autograd, autocast by the lists of the CPU, fused
optimisers, threads, streams and pinned memory work, so that results equal the CPU's bit for bit.

    with standin() as device:
        model.to(device.name); loss = model(batch.to(device.name)); loss.backward()
        device.waits     # what made the host wait, in order: "aten::item at lattok/nn/quantize.py:12"
        device.peak      # most bytes of tensors that lived at once

A host waits where it reads a number, copies without `non_blocking`, or must know how large a result is. It shows that
nothing is mixed and nobody waits; not how fast it is, nor how a real device rounds.
"""

import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils import backend_registration as _backend
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "standin"
ROOT = str(Path(__file__).parents[1])
OURS = ("/lattok/", "/tests/", "/benchmarks/", "/studies/", "/scripts/")  # an environment may lie there
AVAILABLE = hasattr(_backend, "_setup_privateuseone_for_python_backend")  # of torch
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
SIZES = {  # how large the result is, or whether there is one, depends on the values
    aten._linalg_check_errors.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.equal.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
AUTOCAST = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, "AutocastPrivateUse1"))  # noqa: B009
ON_HOST = (aten._pin_memory.default, aten.is_pinned.default)


class StandIn(Tensor):
    """A tensor on the stand-in; `raw` is its data on the CPU."""

    raw: Tensor
    held: "_Held"
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool = False):
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        if raw.dtype == torch.float64 and not DEVICE.wide:
            raise TypeError("Cannot convert a tensor to float64, which the device doesn't have")
        made.raw = raw.to("meta") if not DEVICE.values and raw.is_floating_point() else raw
        made.held = _Held(made.raw.untyped_storage())
        return made

    def __repr__(self):
        return f"StandIn({self.raw})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = self.detach().clone()
            copied = torch.nn.Parameter(copied) if isinstance(self, torch.nn.Parameter) else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def data_ptr(self):
        return self.raw.data_ptr()

    def numpy(self, *, force: bool = False):
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")
        return self.detach().cpu().numpy()

    def record_stream(self, stream: Any) -> None:
        assert isinstance(stream, _Stream)

    def tolist(self):
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol):  # as with map_location="cpu"
        return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        return _run(func, args, kwargs or {})


class Device:
    """What happened on the stand-in."""

    name = NAME

    def __init__(self) -> None:
        self.active, self.values, self.wide = False, True, True
        self.waits: list[str] = []
        self.live, self.peak = 0, 0
        self._held: dict[int, list[int]] = {}  # storage: tensors that share it, bytes
        self._lock = threading.RLock()

    def wait(self, what: str) -> None:
        """Write down that the host waits, and which line of this repository made it wait."""
        frames = (frame for frame, _ in traceback.walk_stack(None) if frame.f_code.co_filename != __file__)
        files = ((frame.f_code.co_filename.removeprefix(ROOT), frame.f_lineno) for frame in frames)
        place = next((f"{file.removeprefix('/')}:{line}" for file, line in files if file.startswith(OURS)), "torch")
        ahead = threading.current_thread() is not threading.main_thread()
        self.waits.append(f"{what} at {place}{', ahead' * ahead}")

    def hold(self, key: int, size: int) -> None:
        """Count a tensor, and its storage with the first of them."""
        with self._lock:
            entry = self._held.setdefault(key, [0, size])
            entry[0] += 1
            if entry[0] == 1:
                self.live += size
                self.peak = max(self.peak, self.live)

    def drop(self, key: int) -> None:
        """Forget a tensor, and its storage with the last of them."""
        with self._lock:
            entry = self._held[key]
            entry[0] -= 1
            if not entry[0]:
                self.live -= entry[1]
                del self._held[key]


DEVICE = Device()


class _Held:
    """Lives as long as a tensor does; a weak reference would keep torch from swapping the data of a parameter."""

    def __init__(self, storage: Any):
        self.key = storage._cdata
        DEVICE.hold(self.key, storage.nbytes())

    def __del__(self):
        DEVICE.drop(self.key)


def _kind(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _leaves(*values: Any) -> Iterator[Any]:
    """What is in lists, tuples and dictionaries: torch's own trees know more kinds, and take five times as long."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(*value)
        elif isinstance(value, dict):
            yield from _leaves(*value.values())
        else:
            yield value


def _mapped(function: Any, value: Any) -> Any:
    """The same lists, tuples and dictionaries of what a function makes of all that is in them."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, each) for each in value])
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return function(value)


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, StandIn) else value


def _check(func: Any, args: Any, kwargs: Any, flat: list[Any], here: list[StandIn], wanted: bool) -> None:
    """Raise for what CUDA would refuse, and count what it would wait for."""
    there = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, StandIn) and x.dim()]
    if func in INDEXING and isinstance(args[0], StandIn):  # indices may come from the host, which waits for the copy
        given = [x for x in args[1] if x is not None]
        if any(not isinstance(x, StandIn) for x in given):
            DEVICE.wait("an index of the host")
        elif any(x.dtype in (torch.bool, torch.uint8) for x in given):
            DEVICE.wait("a mask as an index")
        there = [x for x in there if not any(x is one for one in given)]
    if here and there:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {NAME}:0 and cpu")
    for generator in (x for x in flat if isinstance(x, torch.Generator)):
        if (here or wanted) and generator.device.type != NAME:
            raise RuntimeError(f"{func}: expected a {NAME!r} device type for generator but found 'cpu'")
    if here and (func in SIZES or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None)):
        DEVICE.wait(str(func))


def _copy(func: Any, args: Any, kwargs: Any) -> Tensor:
    source, goes = args[0], isinstance(args[0], StandIn)
    if func is aten.copy_.default:
        source, comes = args[1], isinstance(args[1], StandIn)
        ahead = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    else:
        comes, ahead = goes, kwargs.get("non_blocking", False)
        goes = _kind(kwargs.get("device")) == NAME or (comes and kwargs.get("device") is None)
    if comes and not goes and not ahead:
        DEVICE.wait("a copy to the host")
    if goes and not comes and not ahead and (source.dim() or func is aten._to_copy.default):
        DEVICE.wait("a copy from the host")
    if func is aten.copy_.default:
        if not any(_raw(x).is_meta for x in args[:2]):
            func(_raw(args[0]), _raw(args[1]))
        return args[0]
    out = func(_raw(source), **{name: value for name, value in kwargs.items() if name != "device"})
    return StandIn(out) if goes else out


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    flat = list(_leaves(args, kwargs))
    here = [x for x in flat if isinstance(x, StandIn)]
    if func in COPIES:
        return _copy(func, args, kwargs)
    if func is aten._local_scalar_dense.default:
        DEVICE.wait("a number that is read")
        return 0.0 if args[0].raw.is_meta else func(_raw(args[0]))
    asked = _kind(kwargs.get("device"))
    _check(func, args, kwargs, flat, here, asked == NAME)
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if asked == NAME:
        kwargs["device"] = "cpu" if DEVICE.values else "meta"
    if not DEVICE.values and "_fused_adam" in str(func):  # in place, of tensors that are all there
        return None
    out = _computed(func, *_mapped(_raw, (args, kwargs)))
    if asked is not None and asked != NAME:
        return out
    known = {id(x.raw): x for x in here}  # of operations in place, and of `out=`

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, StandIn):
            return value
        mine = known.get(id(value))
        if mine is not None and mine.shape != value.shape:
            raise NotImplementedError(f"{func} changes a shape in place, which the stand-in cannot")
        return StandIn(value) if mine is None else mine

    return _mapped(wrapped, out)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """What the CPU says; of floating-point numbers without values, shapes alone."""
    if DEVICE.values or not any(isinstance(x, Tensor) and x.is_meta for x in _leaves(args, kwargs)):
        return func(*args, **kwargs)
    if func in INDEXING:  # as many as the mask says
        found = [x.nonzero(as_tuple=True) if x is not None and x.dtype == torch.bool else (x,) for x in args[1]]
        args = (args[0], [x for each in found for x in each], *args[2:])
    alike = lambda x: x.to("meta") if isinstance(x, Tensor) and x.dim() else x  # noqa: E731
    return func(*_mapped(alike, args), **_mapped(alike, kwargs))


class _Dispatch(TorchDispatchMode):
    """Sends what is made on the stand-in, or touches it, there; pins memory of the host by a copy of it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ON_HOST and not isinstance(args[0], StandIn):
            return args[0].clone() if func is ON_HOST[0] else False
        if _kind(kwargs.get("device")) == NAME or any(isinstance(x, StandIn) for x in _leaves(args, kwargs)):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


_own_attention = F.scaled_dot_product_attention


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Take the kernel that the CPU would choose: torch looks at the device before it dispatches."""
    if not isinstance(query, StandIn):
        return _own_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled(NAME):
        query, key, value = (_lower(x) for x in (query, key, value))
    mask, rest = attn_mask, {"scale": scale, "enable_gqa": enable_gqa}
    kind = 1
    if DEVICE.values:
        kind = aten._fused_sdp_choice(*map(_raw, (query, key, value, mask)), dropout_p, is_causal, **rest)
    if kind == 1 and not (mask is not None and mask.requires_grad):  # flash
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        own = aten._scaled_dot_product_flash_attention_for_cpu
        return own(query, key, value, dropout_p * DEVICE.values, is_causal, attn_mask=mask, scale=scale)[0]
    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
        return aten._scaled_dot_product_attention_math(query, key, value, mask, dropout_p, is_causal, None, **rest)[0]


# ---- the module torch.standin ---------------------------------------------------------------------------------------


class _Stream:
    """Work is done at once, so there is nothing to wait for."""

    def __init__(self, device: Any = None, **_: Any):
        self.device = torch.device(NAME, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def wait_event(self, event: Any) -> None:
        assert isinstance(event, _Event)


class _Event:
    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        DEVICE.wait("an event")


class _Module:
    """What `torch.cuda` is for CUDA."""

    Stream, Event = _Stream, _Event
    is_available = staticmethod(lambda: DEVICE.active)
    is_initialized = staticmethod(lambda: DEVICE.active)
    device_count = staticmethod(lambda: int(DEVICE.active))
    current_device = staticmethod(lambda: 0)
    set_device = staticmethod(lambda device: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = manual_seed = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    current_stream = staticmethod(_Stream)
    stream = staticmethod(lambda stream: stream if stream is not None else ExitStack())
    synchronize = staticmethod(lambda device=None: None)
    get_device_name = staticmethod(lambda device=None: "stand-in")
    get_device_properties = staticmethod(lambda device=None: SimpleNamespace(name="stand-in", total_memory=24 * 10**9))
    max_memory_allocated = staticmethod(lambda device=None: DEVICE.peak)
    memory_allocated = staticmethod(lambda device=None: DEVICE.live)
    empty_cache = staticmethod(lambda: None)

    @staticmethod
    def reset_peak_memory_stats(device: Any = None) -> None:
        DEVICE.peak = DEVICE.live


# ---- autocast, by the lists of the CPU ------------------------------------------------------------------------------

LOWER = "_convolution.deprecated addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_transpose2d linalg_vecdot linear"
LOWER += " matmul mkldnn_rnn_layer mm _addmm_activation scaled_dot_product_attention"
PROMOTE = ("cat", "stack", "index_copy")
_casts: dict[int, tuple[Tensor, Tensor]] = {}  # weights in half precision, until autocast ends


def _lower(x: Any) -> Any:
    if not isinstance(x, StandIn) or x.dtype not in (torch.float32,):
        return x
    kind = torch.get_autocast_dtype(NAME)
    if not (x.requires_grad and x.is_leaf and not x._is_view() and torch.is_autocast_cache_enabled()):
        return x.to(kind)
    if id(x) not in _casts:
        _casts[id(x)] = x, x.to(kind)
    return _casts[id(x)][1]


def _float(x: Any) -> Any:
    return x.float() if isinstance(x, StandIn) and x.dtype in (torch.bfloat16, torch.float16) else x


def _casting(op: Any, cast: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            return op(*_mapped(cast, args), **_mapped(cast, kwargs))

    return called


def _promoting(op: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        kinds = {x.dtype for x in _leaves(args, kwargs) if isinstance(x, Tensor)}
        wide = torch.float32 in kinds and len(kinds) > 1
        return _casting(op, _float if wide else lambda x: x)(*args, **kwargs)

    return called


def _register_autocast(library: Any) -> None:
    lower = {name.partition(".")[0] for name in LOWER.split()}
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space != "aten" or not torch._C._dispatch_has_kernel_for_dispatch_key(full, "AutocastCPU"):
            continue
        base, _, overload = name.partition(".")
        op = getattr(getattr(aten, base), overload or "default")
        made = _promoting(op) if base in PROMOTE else _casting(op, _lower if base in lower else _float)
        library.impl(name, made, "AutocastPrivateUse1")


def _fused_on_cpu() -> list[str]:
    """Operations that the CPU has a kernel for, and other devices make of several, such as silu_backward."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    found = [name for name in names if has(name, "CPU") and has(name, "CompositeImplicitAutograd")]
    return [name.removeprefix("aten::") for name in found]


# ---- registered once for a process; asleep outside of `standin()` ---------------------------------------------------

_libraries: list[Any] = []


def _register() -> None:
    if _libraries:
        return

    class Hook(getattr(torch._C, "_acc").PrivateUse1Hooks):  # noqa: B009
        def is_available(self) -> bool:
            return DEVICE.active

        def has_primary_context(self, dev_id: int) -> bool:
            return DEVICE.active

        def is_built(self) -> bool:
            return True

    _backend._setup_privateuseone_for_python_backend(NAME, _Module, Hook())
    library = torch.library.Library("aten", "IMPL")

    def empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
        return StandIn(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return StandIn(torch.empty(size, dtype=dtype, device="cpu"))

    def copy_from(source, target, non_blocking=False):
        _copy(aten.copy_.default, (target, source, non_blocking), {})
        return target

    # what PyTorch makes in C++ itself, such as the index tensor of `vectors[[2, 5]]`
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    read = aten._local_scalar_dense.default
    library.impl("_local_scalar_dense", lambda x: _run(read, (x,), {}), "PrivateUse1")
    for name in _fused_on_cpu():
        base, _, overload = name.partition(".")
        op = getattr(getattr(aten, base), overload or "default")
        library.impl(name, lambda *args, _op=op, **kwargs: _run(_op, args, kwargs), "PrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _register_autocast(library)
    _foreach_utils._foreach_supported_types.append(StandIn)
    _libraries.extend([library, rest])


@contextmanager
def standin(values: bool = True, wide: bool = True) -> Iterator[Device]:
    """Lend this machine the stand-in, in every thread that starts meanwhile.

    Without `values` floating-point tensors have sizes alone, which is enough to count the bytes of a model of any size;
    attention is then fused, as on a GPU, and such numbers are 0 where they are read. One that is not `wide` has no
    float64, as MPS.
    """
    _register()
    begin, forget = vars(threading.Thread)["_bootstrap_inner"], torch.clear_autocast_cache

    def running(thread: threading.Thread) -> None:
        with _modes():
            begin(thread)

    def cleared() -> None:
        _casts.clear()
        forget()

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(threading.Thread, "_bootstrap_inner", running))
        stack.enter_context(mock.patch.object(torch, "clear_autocast_cache", cleared))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", Tensor.clone))
        stack.enter_context(_modes())
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # an optimiser keeps the parameters of its model
        DEVICE.active, DEVICE.values, DEVICE.wide = True, values, wide
        DEVICE.waits, DEVICE.peak = [], DEVICE.live
        try:
            yield DEVICE
        finally:
            DEVICE.active, DEVICE.values, DEVICE.wide = False, True, True
            torch.__future__.set_swap_module_params_on_conversion(swaps)


@contextmanager
def _modes() -> Iterator[None]:
    with torch.autograd.set_multithreading_enabled(False), _Dispatch():
        yield
