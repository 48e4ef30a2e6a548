"""Pickles of strangers: torch's restricted reader, asked so that nothing in a file runs and every refusal says why."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lattok.utils import checks
from lattok.utils.checks import LattokError

DAMAGED = "Copy the file again, or see whether it is a checkpoint at all."


def read_pickled(path: Path, inert: bool) -> Any:
    """Read what torch.save wrote, to the CPU; if `inert`, classes that it does not know become ones that do nothing.

    Raises `LattokError`: what the file holds besides tensors and containers, and where, or what is damaged.
    """
    _check_stored(path)
    try:
        with warnings.catch_warnings(), _stand_ins(path) if inert else nullcontext():
            warnings.simplefilter("ignore")  # torch's, about odd contents; those are judged here
            # mapped: settings can be read without reading the weights
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError as error:
        checks.fail("path", "a file that can be read", f"{path} ({error.strerror})")
    except Exception as error:  # damaged bytes fail anywhere in the reader, with any type
        text = str(error)
        code = re.search(r"GLOBAL (\S+)", text)
        if code:
            got = f"a pickled {code[1]}{_place(path, code[1])}, whose loading runs code"
            raise LattokError(f"`{path}` holds {got}. Save the state dictionaries alone.") from None
        if "TorchScript" in text:
            checks.fail(str(path), "state dictionaries", "a TorchScript program", "Save its state_dict() instead.")
        reason = "not what torch.save writes" if isinstance(error, pickle.UnpicklingError) else what_failed(error)
        checks.fail(str(path), "a whole checkpoint", f"one that cannot be read ({reason})", DAMAGED)


def _check_stored(path: Path) -> None:
    """Refuse a compressed archive: mapped, its numbers would be others, and a few bytes can unpack to anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except Exception:  # not such an archive, or a damaged one: the reader says what is wrong
        return
    if packed:
        checks.fail(str(path), "an archive as torch.save writes it", f"one with {packed[0]!r:.80} compressed", DAMAGED)


class _Inert:
    """Stands for everything but tensors that a pickle names: takes anything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@contextmanager
def _stand_ins(path: Path) -> Iterator[None]:
    """Let torch's restricted reader find an `_Inert` under every name of the pickle that it does not know itself."""
    before = list(torch.serialization.get_safe_globals())
    try:
        names = [name.rpartition(".") for name in _named(path)]
        stand_ins: list[Any] = [type(leaf, (_Inert,), {"__module__": module}) for module, _, leaf in names]
        torch.serialization.add_safe_globals(stand_ins)
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _operations(path: Path) -> list[tuple[str, Any]]:
    """Return name and argument of each step of the pickle in a file of torch.save; none of an older or damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(archive.read(member) for member in archive.namelist() if member.endswith("/data.pkl"))
        return [(operation.name, argument) for operation, argument, _ in pickletools.genops(pickled)]
    except Exception:  # damaged bytes fail anywhere in these readers, with any type
        return []


def _named(path: Path) -> set[str]:
    """Find the classes and functions that a pickle asks for."""
    return {name for step, asked in _operations(path) if step == "GLOBAL" for name in _spellings(asked)}


def _spellings(argument: Any) -> set[str]:
    """Spell `module.name` as it is written, and as this Python calls it: torch.save writes names of Python 2."""
    module, _, name = str(argument).partition(" ")
    return {f"{module}.{name}", ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))}


def _place(path: Path, name: str) -> str:
    """Say under which key a pickle first asks for the class or function `name`, where that can be told."""
    key, memo = "", {}  # the last text, and which of them numbers stand for
    for operation, argument in _operations(path):
        if operation == "GLOBAL" and {name, f"builtins.{name}"} & _spellings(argument):
            return f" at {key}" if key else ""
        if "UNICODE" in operation:
            key = str(argument)
        elif "PUT" in operation:
            memo[argument] = key
        elif "GET" in operation:
            key = memo.get(argument, "")
    return ""


def what_failed(error: Exception) -> str:
    """Return type and first sentence of an error of another package."""
    text = (str(error).strip().splitlines() or [""])[0].split(". ")[0].removesuffix(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
