"""model.safetensors against the configuration next to it: names, shapes and dtypes before memory is taken, then values.

A configuration is a stranger's text: it may ask for a billion codes or a million layers. So a model is first built
without memory (`planned`, torch's device "meta"), stopped as soon as it outgrows the file, and compared with the file's
header. Only then is it built and filled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook as on_buffer
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter

from lattok.utils import checks

HEADER = 16 << 20  # bytes of a header: a file of a thousand tensors has a tenth of a megabyte
SPARE_TENSORS, SPARE_NUMBERS = 256, 1 << 26  # what a model may hold that its file does not: training heads, tables
MOST_TENSORS, MOST_NUMBERS = 1 << 14, 1 << 35  # of a network without a file at hand
NARROW = (torch.bfloat16, torch.float16)
SHOWN = 40  # of the tensors that do not fit
DAMAGED = "Copy or download it again."
Built = TypeVar("Built", bound=nn.Module)


class Size(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # none: one that torch does not have

    @classmethod
    def of(cls, tensor: Tensor) -> Size:
        """Return the size of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def numbers(self) -> int:
        """How many there are."""
        return math.prod(self.shape)


Sizes = Mapping[str, Size]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


def read_sizes(path: Path) -> dict[str, Size]:
    """Read names, shapes and dtypes of a safetensors file; it is mapped, not read."""
    _check_header(path)
    with _readable(path), safetensors.safe_open(str(path), "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it has no other iterator
        return {name: Size(tuple(part.get_shape()), _DTYPES.get(part.get_dtype())) for name, part in slices.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file."""
    _check_header(path)
    with _readable(path):
        return safetensors.torch.load_file(path)


def _check_header(path: Path) -> None:
    with _readable(path), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > HEADER:
        checks.fail(str(path), "a whole safetensors file", f"one whose header claims {length:,} bytes", DAMAGED)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        checks.fail(str(path), "a whole safetensors file", f"one that cannot be read ({error})", DAMAGED)


def planned(build: Callable[[], Built], file: Sizes, where: str) -> Built:
    """Return what `build` makes, without memory: every tensor on the device "meta", no random numbers drawn.

    `LattokError` as soon as it has far more tensors, or far larger ones, than the `file` holds.
    """
    sizes = [size.numbers for size in file.values()]
    largest, most = SPARE_NUMBERS + max(sizes, default=0), SPARE_NUMBERS + 4 * sum(sizes)
    return _outlined(build, where, f"its {len(file)}", 2 * len(file) + SPARE_TENSORS, largest, most)


def outlined(build: Callable[[], Built], where: str) -> Built:
    """Return the same of a network that no file is at hand of; `LattokError` where it is beyond all that there are."""
    return _outlined(build, where, "a network has", MOST_TENSORS, MOST_NUMBERS, MOST_NUMBERS)


def _outlined(build: Callable[[], Built], where: str, known: str, tensors: int, largest: int, numbers: int) -> Built:
    left, made = tensors, set[int]()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal left
        left -= tensor is not None
        made.add(id(tensor))
        if left < 0:
            checks.fail(where, f"about as many tensors as {known}", "a configuration with far more")
        if tensor is not None and tensor.numel() > largest:
            got = f"a configuration with one of shape {list(tensor.shape)}"
            checks.fail(where, "tensors about as large as its own", got)

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.device("meta"))
        for hook in (on_parameter, on_buffer):
            handle: Any = hook(count)
            stack.callback(handle.remove)
        try:
            model = build()
        except (OverflowError, RuntimeError, MemoryError) as error:
            checks.fail(where, "sizes that a model can have", f"a configuration with others ({error})".split("\n")[0])
    every = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()) if id(tensor) in made)
    if every > numbers:
        checks.fail(where, "tensors about as large as its own", f"a configuration with {every:,} numbers")
    return model


def check_sizes(wanted: Sizes, found: Sizes, where: str, what: str, narrow: bool = False) -> None:
    """Check that names, shapes and dtypes agree exactly; the error lists all that do not.

    With `narrow` a float32 may also have been stored as bfloat16 or float16, which it can hold without loss.
    """
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    for name, (shape, dtype) in wanted.items():
        if name in found and found[name].shape != shape:
            problems.append(f"{name} has shape {list(found[name].shape)}, expected {list(shape)}")
        elif name in found and found[name].dtype not in (dtype, *(NARROW if narrow and dtype == torch.float32 else ())):
            problems.append(f"{name} is {_name(found[name].dtype)}, expected {_name(dtype)}")
    if problems:
        shown = problems[:SHOWN] + [f"and {len(problems) - SHOWN} more"] * (len(problems) > SHOWN)
        checks.fail(where, f"the {len(wanted)} tensors of {what}", "; ".join(shown))


def _name(dtype: torch.dtype | None) -> str:
    return "of an unknown type" if dtype is None else str(dtype).removeprefix("torch.")


def unsound(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """List what is wrong with the values of a model's `tensors`: NaN, infinity, and what its modules say of their own.

    A module whose buffers may be infinite, or must be more than finite, has a method `unsound` of its own.
    """
    own = {prefix: module for prefix, module in model.named_modules() if callable(getattr(module, "unsound", None))}
    problems = []
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] not in own and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            problems.append(f"{name} has {int((~tensor.isfinite()).sum())} numbers that are not finite")
    for prefix, module in own.items():
        problems += [f"{prefix}.{text}" if prefix else text for text in getattr(module, "unsound")()]  # noqa: B009
    return problems


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + str(tuple(tensor.shape)).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
