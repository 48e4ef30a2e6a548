"""What a robomimic or LIBERO file says about itself: demonstrations, their datasets, rate, robot and instruction."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lattok.data.schema import readable
from lattok.utils.checks import LattokError, first_line, is_frame_rate
from lattok.utils.untrusted import parse_json

MEMBERS = ("actions", "rewards", "dones")  # next to obs/*
ATTRIBUTES = ("env_args", "env_name", "problem_info", "macros_image_convention")
ONE_FILE = "lattok reads every file by itself: write what it holds into one (h5copy)."
MIN_CHECKED_BYTES, MAX_EXPANSION = 2**26, 1100  # what numbers may unpack to: deflate, the usual filter, does no better
NUMERIC = "fiub"  # kinds of numpy dtypes: float, int, unsigned, bool
WAYS_OUT = {  # by what HDF5's message says
    "is not registered": "Write it again without that filter (h5repack).",
    "unable to lock": "Close what writes to it; on a drive without locks set HDF5_USE_FILE_LOCKING=FALSE.",
}
LEFT_OUT = {
    "states": "the simulator's own state, of another size for every scene",
    "robot_states": "the simulator's own state",
    "next_obs": "the observations of the next step",
}


class StoredArray(NamedTuple):
    """A dataset of every demonstration: where it is, and what one step of it is."""

    path: str  # in the demonstration's group
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        return self.path.startswith("obs/") and self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] == 3


class Demo(NamedTuple):
    file: Path
    name: str  # of its group below `data`
    length: int  # steps
    instruction: str


class Contents(NamedTuple):
    demos: tuple[Demo | str, ...]  # in the order of their numbers; for one that cannot be read, the reason
    layout: tuple[StoredArray, ...]  # of all demonstrations that can be read; empty if there is none
    left_out: dict[str, str]  # other members of a demonstration, with the reason
    fps: float | None
    robot: str | None
    upside_down: bool  # pictures have their rows from the bottom, as OpenGL does


def h5py() -> Any:
    """Import the package, which only this format needs and `open_dataset` asks for."""
    return import_module("h5py")


@contextmanager
def reading(path: Path, where: str = "") -> Iterator[None]:
    """Whatever HDF5 raises over a damaged file becomes one line that names it, and the demonstration."""
    try:
        yield
    except LattokError:
        raise
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        text = first_line(error)
        way_out = next((hint for word, hint in WAYS_OUT.items() if word in text), "Copy the file again.")
        raise LattokError(f"cannot read {path}{where} ({text}). {way_out}") from None


@contextmanager
def opened(path: Path, where: str = "") -> Iterator[Any]:
    """Open an `h5py.File` for as long as it is read; errors as those of `reading`."""
    if not path.is_file():
        raise LattokError(f"missing data file {path}. Download or copy it again.")
    with reading(path, where), h5py().File(path, "r") as file:
        yield file


def _check_links(path: Path, file: Any) -> None:
    """Refuse links into other files, which would be opened by the mere look at them."""
    external = h5py().h5l.TYPE_EXTERNAL
    found = file.id.links.visit(lambda name, link: name if link.type >= external else None, info=True)
    if found is not None:
        raise LattokError(f"{path}: `{found.decode(errors='replace')[:60]}` is a link into another file. {ONE_FILE}")


def _check_stored(dataset: Any, where: str) -> None:
    """Refuse numbers that are elsewhere, or more than their bytes can hold: room is made before they are read."""
    if dataset.is_virtual or dataset.external:
        raise LattokError(f"{where}: its numbers are in other files. {ONE_FILE}")
    size, stored = dataset.dtype.itemsize, dataset.id.get_storage_size()
    claimed = size * max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
    if claimed > max(MIN_CHECKED_BYTES, MAX_EXPANSION * stored):
        raise LattokError(f"{where}: expected what {stored:,} bytes can hold, got {claimed:,}. Copy the file again.")


def read_contents(path: Path) -> Contents:
    """List a file. Numbers and pixels are not read."""
    with opened(path) as file:
        _check_links(path, file)
        group = file.get("data")
        if not _is_group(group) or not len(group):
            raise LattokError(f"{path} is no robomimic file: expected demonstrations as groups in `data`, got none.")
        attributes = {name: group.attrs[name] for name in ATTRIBUTES if name in group.attrs}
        arguments = _json(path, "env_args", attributes)
        kwargs = arguments.get("env_kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        instruction = _instruction(path, attributes, arguments)
        listed = [_list_demo(path, group, name, instruction) for name in sorted(group, key=_natural)]
    layouts = Counter(layout for demo, layout, _ in listed if isinstance(demo, Demo))
    layout = layouts.most_common(1)[0][0] if layouts else ()
    robots, convention = kwargs.get("robots"), attributes.get("macros_image_convention")
    robot = ", ".join(map(str, robots)) if isinstance(robots, list) else robots
    return Contents(
        tuple(_like_others(demo, own, layout) for demo, own, _ in listed),
        layout,
        {name: _why_left_out(name) for name in next((names for _, own, names in listed if own == layout), ())},
        _frequency(path, kwargs.get("control_freq")),
        robot if isinstance(robot, str) and robot else None,
        isinstance(convention, str | bytes) and convention in ("opengl", b"opengl"),
    )


def difference(one: tuple[StoredArray, ...], other: tuple[StoredArray, ...]) -> str:
    """Return the first thing that `other` has differently, for a message."""
    expected, got = ({stored.path: stored for stored in layout} for layout in (one, other))
    path = next(path for path in (*expected, *got) if expected.get(path) != got.get(path))
    texts = [
        f"{stored.dtype} [T{''.join(f', {size}' for size in stored.shape)}]" if stored else "nothing"
        for stored in (expected.get(path), got.get(path))
    ]
    return f"`{path[:100]}`: expected {texts[0]}, got {texts[1]}"


def _list_demo(
    path: Path, group: Any, name: str, instruction: str
) -> tuple[Demo | str, tuple[StoredArray, ...], tuple[str, ...]]:
    """Return a demonstration or the reason why not, its layout, and what else is in it."""
    where = f"{path}, {name}"
    try:
        with reading(path, f", {name}"):
            demo = group[name]
            length = _rows(demo.get("actions")) if _is_group(demo) else 0
            if not length:
                raise LattokError(f"{where}: expected a group with `actions`, at least one, got none. Remove it.")
            actions = demo["actions"]
            _check_stored(actions, f"{where}, `actions`")
            if not _is_numeric(actions):
                got = f"{actions.dtype} {list(actions.shape)}"
                raise LattokError(f"{where}: expected numbers as `actions`, got {got}. Write them as numbers.")
            if (samples := demo.attrs.get("num_samples", length)) != length:
                raise LattokError(f"{where}: expected {samples} actions (num_samples), got {length}. Copy it again.")
            layout, others = _members(demo, length, where)
            spoken = _json(path, "ep_meta", demo.attrs).get("lang")  # RoboCasa has an instruction for every episode
            text = spoken.strip() if isinstance(spoken, str) and spoken.strip() else instruction
            return Demo(path, name, length, text), layout, others
    except LattokError as error:
        return str(error), (), ()


def _members(demo: Any, length: int, where: str) -> tuple[tuple[StoredArray, ...], tuple[str, ...]]:
    """List the datasets that are offered, in one order for all files, and names of all else."""
    layout = []
    others = [key for key in demo if key not in (*MEMBERS, "obs")]
    observations = sorted(f"obs/{key}" for key in demo["obs"]) if _is_group(demo.get("obs")) else []
    for member in (*(key for key in MEMBERS if key in demo), *observations):
        dataset = demo[member]
        if not _is_dataset(dataset) or not _is_numeric(dataset):
            others.append(member)
            continue
        _check_stored(dataset, f"{where}, `{member}`")
        if readable(member) != member:
            raise LattokError(f"{where}: expected names in UTF-8, got {member!a:.60}. Rename it.")
        if (rows := _rows(dataset)) != length:
            expected = f"{length} rows of `{member}`, one per action"
            raise LattokError(f"{where}: expected {expected}, got {rows}. Copy it again.")
        layout.append(StoredArray(member, dataset.dtype.name, dataset.shape[1:]))
    return tuple(layout), tuple(others)


def _like_others(demo: Demo | str, own: tuple[StoredArray, ...], layout: tuple[StoredArray, ...]) -> Demo | str:
    if isinstance(demo, str) or own == layout:
        return demo
    return f"{demo.file}, {demo.name}: {difference(layout, own)}, unlike most demonstrations of the file. Remove it."


def _why_left_out(name: str) -> str:
    if name in MEMBERS or name.startswith("obs/"):
        return "it holds no numbers"
    return LEFT_OUT.get(name, "robomimic's format does not name it")


def _instruction(path: Path, attributes: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Return the instruction, else the name of the task, else of the file."""
    language = _json(path, "problem_info", attributes).get("language_instruction")
    if isinstance(language, list):  # words
        language = " ".join(map(str, language))
    candidates = (language, arguments.get("env_name"), attributes.get("env_name"))
    return readable(next((text.strip() for text in candidates if isinstance(text, str) and text.strip()), path.stem))


def _frequency(path: Path, value: Any) -> float | None:
    if value is not None and not is_frame_rate(value):
        raise LattokError(f"{path}: `control_freq` in env_args: expected a number greater than 0, got {value!r}.")
    return None if value is None else float(value)


def _json(path: Path, name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Read an attribute that holds a JSON object; {} where there is none."""
    text = attributes.get(name, "{}")
    value = parse_json(text if isinstance(text, str | bytes) else "", f"{path}: the attribute {name}", nan=True)
    if not isinstance(value, dict):
        raise LattokError(f"{path}: expected a JSON object as attribute {name}, got {type(value).__name__}.")
    return value


def _natural(name: str) -> tuple:
    """Put demo_2 before demo_10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _is_group(item: Any) -> bool:
    return isinstance(item, h5py().Group)


def _rows(item: Any) -> int:
    return len(item) if _is_dataset(item) and item.ndim else 0


def _is_numeric(dataset: Any) -> bool:
    return dataset.dtype.kind in NUMERIC and 0 not in dataset.shape[1:]


def _is_dataset(item: Any) -> bool:
    return isinstance(item, h5py().Dataset)
