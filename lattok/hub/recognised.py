"""What a file or folder that is no artefact of lattok looks like: the published system, and the command for it."""

import inspect
import os
import re
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lattok.hub.checkpoint import PICKLED, SAFE, WRAPPED, Importer, read_pickled, systems
from lattok.utils import checks, files
from lattok.utils.options import docs_of
from lattok.utils.output import unused

MOST_FILES = 8  # of a folder that are looked at, the largest first
SETTINGS = (".yaml", ".yml", ".json")
FAST = ("processor_config.json", {"scale", "min_token", "vocab_size"})  # the file of a published FAST, and its facts


@contextmanager
def recognised(name: str | os.PathLike[str]) -> Iterator[None]:
    """Say of what cannot be loaded which published system it looks like, and the command that converts it."""
    try:
        yield
    except checks.LattokError as error:
        place = Path(name).expanduser() if isinstance(name, str | os.PathLike) else None
        hint = advice(place) if place is not None and os.path.exists(place) else ""  # of an odd name it is False
        if not hint:
            raise
        raise checks.LattokError(f"{error} {hint}") from None


def advice(path: Path) -> str:
    """Return what a checkpoint, or the first in a folder that is known, looks like, and its command; "" if unknown."""
    inside = path.iterdir() if path.is_dir() else [path]
    known = [each for each in inside if each.is_file() and not each.is_symlink()]
    known = [each for each in known if each.suffix in (*PICKLED, SAFE)]
    for file in sorted(known, key=lambda each: (-each.stat().st_size, each.name))[:MOST_FILES]:
        names = tensor_names(file)
        if found := systems(names):
            commands = " or ".join(_command(importer, file, names) for importer in found)
            return f"It looks like a published checkpoint of {' or '.join(i.name for i in found)}. Run: {commands}"
    folder = path if path.is_dir() else path.parent
    return _fast(folder) or _transformers(folder)


def tensor_names(file: Path) -> list[str]:
    """Return the names of a file's tensors, nested ones joined by "."; none where it cannot be read."""
    with suppress(Exception):  # whatever is wrong with it, the caller is about to say
        if file.suffix == SAFE:
            with safe_open(file, "pt") as opened:
                return list(opened.keys())
        if zipfile.is_zipfile(file):  # an older format would be read as a whole
            return list(_nested(read_pickled(file, inert=True), (), 0))
    return []


def _nested(value: object, place: tuple[str, ...], depth: int) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield ".".join(place)
    elif isinstance(value, Mapping) and depth <= WRAPPED:
        for key, inner in value.items():
            yield from _nested(inner, (*place, str(key)), depth + 1)


def _command(importer: Importer, file: Path, names: list[str]) -> str:
    """Return the command with every option that it needs; capitals, which are explained, for what only users know."""
    words, unknown = ["lattok", "convert", importer.name, str(file), unused("my-model")], []
    said = docs_of(importer.read)
    for option, values in _options(importer, file, names):
        value = values[0] if len(values) == 1 else option.upper()
        words += [f"--{option.replace('_', '-')}", value]
        if len(values) != 1:
            unknown.append(f"; {value}: {' or '.join(values) or said[option]}")
    return shlex.join(words) + "".join(unknown)


def _options(importer: Importer, file: Path, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the options without which the file is refused, each with the values that it may have, as far as seen."""
    places = _places(importer, file, names)
    for name, each in inspect.signature(importer.read).parameters.items():
        beside = importer.needed.get(name)
        if name in ("entry", "prefix"):
            if found := sorted({place[name == "prefix"] for place in places} - {""}):
                yield name, found
        elif name == "path" or each.kind is each.VAR_KEYWORD:
            continue
        elif each.default is each.empty or (beside is not None and not (file.parent / beside).is_file()):
            near = [each for each in file.parent.iterdir() if each.suffix in SETTINGS] if name == "config" else []
            yield name, [str(path) for path in near] if len(near) == 1 else []


def _places(importer: Importer, file: Path, names: list[str]) -> set[tuple[str, str]]:
    """Return where tensors of the system are: names of dictionaries in a pickle, and what stands before their own."""
    found, content = set(), read_pickled(file, inert=True) if file.suffix in PICKLED else {}
    for start in {name[: match.start()] for name in names if (match := re.search(importer.sign, name))}:
        rest, within, entry = start, content, []
        while inner := next((key for key in within if rest.startswith(f"{key}.")), None):
            if not isinstance(within[inner], Mapping):
                break
            entry.append(inner)
            rest, within = rest.removeprefix(f"{inner}."), within[inner]
        found.add((".".join(entry), rest))
    return found


def _transformers(folder: Path) -> str:
    """Say that a folder holds a model of transformers, if its config.json is one's; else ""."""
    with suppress(checks.LattokError, OSError):
        if "model_type" in files.read_json(folder / "config.json"):
            return "It looks like a model of transformers, which loads it: AutoModel.from_pretrained."
    return ""


def _fast(folder: Path) -> str:
    """Return how a folder in FAST's published format is read; "" where it is none."""
    with suppress(checks.LattokError, OSError):
        facts = files.read_json(folder / FAST[0])
        if FAST[1] <= facts.keys():
            sizes = {"action_dim": "action_dim", "horizon": "time_horizon"}
            asked = "".join(f", {name}={name.upper()}" for name, own in sizes.items() if facts.get(own) is None)
            meant = "; ACTION_DIM, HORIZON: dimensions of an action and steps of a chunk" if asked else ""
            call = f"lattok.FAST.from_published({str(folder)!r}{asked})"
            return f"It looks like a published tokenizer of FAST. In Python: {call}{meant}"
    return ""
