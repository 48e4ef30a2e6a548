"""What a configuration, which is a stranger's text, may ask for: memory, weights and networks of others.

It may ask for a billion codes or a million layers. So a model is first built without memory (`plan_module`, torch's
device "meta"), stopped as soon as it outgrows model.safetensors, and compared with names, shapes and dtypes in the
header of that file. Only then is it built and filled.

It may name networks that the model is built on. Those on the Hub are opened without code of theirs. A folder of this
machine it may name only where the user does as well: a stranger must not choose what is read here.
"""

import hashlib
import importlib
import math
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook as on_buffer
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter

from lattok.hub import client
from lattok.utils import checks
from lattok.utils.untrusted import TRUSTED, copy_again, safe_path
from lattok.version import install_extra

MAX_HEADER_BYTES = 16 << 20  # bytes of a header: a file of a thousand tensors has a tenth of a megabyte
SPARE_TENSORS, SPARE_NUMBERS = 256, 1 << 26  # what a model may hold that its file does not: training heads, tables
MAX_TENSORS, MAX_NUMBERS = 1 << 14, 1 << 35  # of a network without a file at hand
NARROW = (torch.bfloat16, torch.float16)
SHOWN_TENSORS = 40  # of the tensors that do not fit
DAMAGED = "Copy or download it again."
ONCE = "Run it once where there is network, and copy HF_HOME, the cache, to here."
NETWORK_SOURCES = ("hf", "dc-ae", "t5", "sana")  # before a colon, in all but `backbone`
OWN_CODE = "one that brings code of its own, which lattok never runs"
Built = TypeVar("Built", bound=nn.Module)


class Size(NamedTuple):  # a tensor without its numbers
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # none: one that torch does not have

    @classmethod
    def of(cls, tensor: Tensor) -> "Size":
        return cls(tuple(tensor.shape), tensor.dtype)


Sizes = Mapping[str, Size]
Tensors = Mapping[str, Tensor]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


def read_sizes(path: Path) -> dict[str, Size]:
    """Read names, shapes and dtypes of a safetensors file; it is mapped, not read."""
    with _readable(path), safetensors.safe_open(str(path), "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it has no other iterator
        return {name: Size(tuple(part.get_shape()), _DTYPES.get(part.get_dtype())) for name, part in slices.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts beside the tensors of a safetensors file."""
    with _readable(path), safetensors.safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    with _readable(path):
        return safetensors.torch.load_file(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length:,} bytes")
        yield
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        checks.fail(
            str(path), "a whole safetensors file", f"one that cannot be read ({error})", copy_again(path, DAMAGED)
        )


def plan_module(build: Callable[[], Built], file: Sizes, where: str) -> Built:
    """Return what `build` makes, without memory: every tensor on the device "meta", no random numbers drawn.

    `LattokError` as soon as it has far more tensors, or far larger ones, than the `file` holds.
    """
    sizes = [math.prod(size.shape) for size in file.values()]
    largest, most = SPARE_NUMBERS + max(sizes, default=0), SPARE_NUMBERS + 4 * sum(sizes)
    return _plan(build, where, f"its {len(file)}", 2 * len(file) + SPARE_TENSORS, largest, most)


def plan_network(build: Callable[[], Built], where: str) -> Built:
    """Return the same of a network that no file is at hand of; `LattokError` where it is beyond all that there are."""
    return _plan(build, where, "a network has", MAX_TENSORS, MAX_NUMBERS, MAX_NUMBERS)


def _plan(build: Callable[[], Built], where: str, known: str, tensors: int, largest: int, numbers: int) -> Built:
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
        except (OverflowError, RuntimeError, MemoryError, TypeError) as error:
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
        checks.fail(where, f"the {checks.counted(len(wanted), 'tensor')} of {what}", listed_problems(problems))


def listed_problems(problems: list[str]) -> str:
    """Join problems to one text; of many only the first, and how many more there are."""
    if len(problems) > SHOWN_TENSORS:
        problems = [*problems[:SHOWN_TENSORS], f"and {len(problems) - SHOWN_TENSORS} more"]
    return "; ".join(problems)


def _name(dtype: torch.dtype | None) -> str:
    return "of an unknown type" if dtype is None else str(dtype).removeprefix("torch.")


def unsound(model: nn.Module, tensors: Tensors) -> list[str]:
    """List what is wrong with the values of a model's `tensors`: NaN, infinity, and what its modules say of their own.

    A module whose buffers may be infinite, or must be more than finite, has a method `unsound` of its own.
    """
    own = {prefix: module for prefix, module in model.named_modules() if callable(getattr(module, "unsound", None))}
    problems = []
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] not in own and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            odd = checks.counted(int((~tensor.isfinite()).sum()), "number that is", "numbers that are")
            problems.append(f"{name} has {odd} not finite")
    for prefix, module in own.items():
        problems += [f"{prefix}.{text}" if prefix else text for text in getattr(module, "unsound")()]  # noqa: B009
    return problems


def weights_hash(tensors: Tensors) -> str:
    """Return the SHA-256 of named tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + str(tuple(tensor.shape)).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def from_pretrained(argument: str, kind: Any, place: str | Path, **options: Any) -> Any:
    """Return what a class of transformers makes of a folder or a Hub id, without code that lies there.

    Every call of transformers goes through here: it would ask on the terminal whether to run that code.
    """
    try:
        return kind.from_pretrained(place, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        hint = "Choose another, or convert it to a model that transformers knows."
        checks.fail(argument, f"a model that transformers has the code for, as {str(place)!r:.200}", OWN_CODE, hint)


@contextmanager
def one_line(argument: str, expected: str) -> Iterator[None]:
    """Turn errors of timm, transformers, diffusers and huggingface_hub, which raise many kinds, into one line."""
    try:
        yield
    except checks.LattokError:
        raise
    except Exception as error:
        said = checks.first_line(error).rstrip(".")
        if any(word in said.lower() for word in ("connect", "offline", "internet")):
            raise checks.Unreachable(argument, checks.refusal(f"`{argument}`", expected, said, ONCE)) from None
        checks.fail(argument, expected, said)


def diffusers_class(argument: str, kind: str) -> Any:
    """Return a class of diffusers, or say how to get the package."""
    try:
        return getattr(importlib.import_module("diffusers"), kind)
    except ImportError as error:
        return checks.fail(argument, f"the package diffusers ({install_extra('sana')})", checks.first_line(error))


def open_diffusers(argument: str, kind: str, model: str, part: str, revision: str | None, pretrained: bool) -> Any:
    """Open a model of diffusers in a folder or on the Hub, of a whole pipeline its `part`; random unless `pretrained`.

    Weights are read from safetensors only. Raises `LattokError` where it cannot be read, or lacks weights.
    """
    family = diffusers_class(argument, kind)
    expected = f"{kind} of diffusers, a folder or a Hub id"
    where: dict[str, str] = {}
    with one_line(argument, f"{expected}; {model!r} could not be read"):
        with suppress(OSError):  # it lies below `part` in a pipeline, else at the top
            family.load_config(model, revision=revision, subfolder=part)
            where = {"subfolder": part}
        if not pretrained:
            return family.from_config(family.load_config(model, revision=revision, **where))
        options = {"use_safetensors": True, "output_loading_info": True, "revision": revision}
        found, report = family.from_pretrained(model, **options, **where)
    check_whole(argument, f"a whole model; {model!r}", report)
    return found


def check_whole(argument: str, what: str, report: Any, needed: str = "", hint: str = "") -> None:
    """Refuse a network without all of its `needed` weights: its library has filled them with random numbers."""
    missing = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if any(needed in key for key in missing):
        checks.fail(argument, f"{what} lacks weights", checks.few_of(missing, 3), hint)


def check_named(config: object, folder: Path, given: Collection[str] = ()) -> None:
    """Refuse a `config` out of `folder` that names other folders, but for fields that the user has `given`.

    What lies in the artefact itself may be named, and what the environment variable LATTOK_DATA names.
    """
    for field, place in folders_of(config).items():
        try:
            _ = None if field in given else safe_path(folder, Path(place).expanduser(), field)
        except (checks.LattokError, RuntimeError):  # "~" of a user who is not there
            say = f"{field}=FOLDER when you load it, or " if field == "backbone" else ""
            hint = f"If you trust it, say so: {say}{TRUSTED}={place} (environment)."
            expected = "a Hub id: a model may not choose what is read here"
            checks.fail(f"{field}` in `{folder}", expected, _names_in(config)[field], hint)


def folders_of(config: object) -> dict[str, str]:
    """Return by field the paths of this machine that a configuration names."""
    found = _names_in(config)
    places = {field: _local(field.rpartition(".")[2], name) for field, name in found.items() if isinstance(name, str)}
    return {field: place for field, place in places.items() if place}


def from_anywhere(features: str) -> str:
    """Return the name of features with the whole path of a folder that it names; another name as it is."""
    place = _local("features", features)
    found = None if place is None else client.find_local(place)
    return features if place is None or found is None else features.removesuffix(place) + str(found.resolve())


def trust_hint(config: object) -> str:
    """Return what to tell the maker of a model that names folders: it must not open them by itself."""
    folders = os.pathsep.join(dict.fromkeys(folders_of(config).values()))
    if not folders or TRUSTED in os.environ:
        return ""
    return f"\nIt is built on folders of yours. Let it read them: export {TRUSTED}={shlex.quote(folders)}"


def _names_in(config: object) -> dict[str, Any]:
    """Return what fields hold, or the `name` in those that are groups of options, also as JSON has them."""
    found = {}
    for field in client.NETWORK_FIELDS:
        value = getattr(config, field, None)
        found[field] = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", value)
        if is_dataclass(value):  # a model inside another has such fields of its own
            found |= {f"{field}.{inner}": name for inner, name in _names_in(value).items()}
    return found


def _local(field: str, name: str) -> str | None:
    """Return the path that a name stands for, if it stands for one here."""
    source, _, model = name.partition(":")
    if field == "backbone":
        model = "" if name in ("scratch", "parts/backbone") else name  # its own: in its weights, or in its folder
    elif source == "timm":  # "local-dir:FOLDER"; others are names of architectures, or on the Hub
        scheme, _, path = model.partition(":")
        return path if scheme.lower().startswith("local") else None
    elif source not in NETWORK_SOURCES:
        return None
    return model if model and (client.find_local(model) or not client.REPO.fullmatch(model)) else None
