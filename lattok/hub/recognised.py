"""What a file or folder that is no artefact of lattok looks like: the published system, and the command for it."""

import inspect
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from lattok.hub.checkpoint import PICKLED, SAFE, WRAPPED, Importer, read_pickled, systems
from lattok.utils.output import unused

MOST_FILES = 8  # of a folder that are looked at, the largest first
SETTINGS = (".yaml", ".yml", ".json")


def advice(path: Path) -> str:
    """Return what a checkpoint, or the first in a folder that is known, looks like, and its command; "" if unknown."""
    inside = path.iterdir() if path.is_dir() else [path]
    known = [each for each in inside if each.is_file() and not each.is_symlink()]
    known = [each for each in known if each.suffix in (*PICKLED, SAFE)]
    for file in sorted(known, key=lambda each: (-each.stat().st_size, each.name))[:MOST_FILES]:
        if found := systems(tensor_names(file)):
            commands = " or ".join(_command(importer, file) for importer in found)
            return f"It looks like a published checkpoint of {' or '.join(i.name for i in found)}. Run: {commands}"
    return ""


def tensor_names(file: Path) -> list[str]:
    """Return the names of a file's tensors, nested ones joined by "."; none where it cannot be read."""
    with suppress(Exception):  # whatever is wrong with it, the caller is about to say
        if file.suffix == SAFE:
            with safe_open(file, "pt") as opened:
                return list(opened.keys())
        if zipfile.is_zipfile(file):  # an older format would be read as a whole
            return list(_nested(read_pickled(file, inert=True), (), 0))
    return []


def _nested(value: Any, place: tuple[str, ...], depth: int) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield ".".join(place)
    elif isinstance(value, Mapping) and depth <= WRAPPED:
        for key, inner in value.items():
            yield from _nested(inner, (*place, str(key)), depth + 1)


def _command(importer: Importer, file: Path) -> str:
    words = ["lattok", "convert", importer.name, str(file), unused("my-model")]
    missing = []
    for name, each in inspect.signature(importer.read).parameters.items():
        if name == "path" or each.default is not each.empty or each.kind is each.VAR_KEYWORD:
            continue
        beside = [each for each in file.parent.iterdir() if each.suffix in SETTINGS] if name == "config" else []
        given = str(beside[0]) if len(beside) == 1 else name.upper()
        missing += [given] * (given == name.upper())
        words += [f"--{name.replace('_', '-')}", given]
    said = f"; {shlex.join([*words[:3], '--help'])} says what {' and '.join(missing)} is" if missing else ""
    return f"{shlex.join(words)}{said}"
