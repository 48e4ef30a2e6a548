"""A description of a file of arrays in no known layout, guessed from names and shapes, for its user to correct."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lattok.data import schema
from lattok.data.formats.array_layouts import TOLD_ENDS
from lattok.utils import checks

ACTION = re.compile(r"action|\bacts?\b|command|cmd|control|target", re.I)
STATE = re.compile(r"state|qpos|joint|proprio|obs", re.I)
PICTURE = re.compile(r"rgb|image|img|color|cam|frame", re.I)
DEPTH = re.compile(r"depth", re.I)
TEXT = re.compile(r"lang|instruct|task|prompt|caption|text|goal|descri", re.I)
TIME = re.compile(f"(^|[/_.]){schema.TIME}$|timestamp", re.I)
RATE = re.compile(r"fps|hz|rate|freq", re.I)
MOST, LONGEST = 8, 600  # columns, and characters of the entries
FPS = 30


class Draft(NamedTuple):
    """What is in the file, and the entries of its description."""

    arrays: tuple[str, ...]  # of one episode, as "demo_*/action float32 [300, 7]"
    entries: str


def draft_of(arrays: Mapping[str, Any], attributes: Callable[[str], Mapping[str, Any]]) -> Draft:
    """Guess from arrays by path, with `shape` and `dtype`, and from the attributes of groups: numbered groups are
    episodes, and names tell columns, instruction and rate."""
    episodes = _episodes(arrays)
    inner: dict[str, Any] = {}  # of the first group that has it
    group = ""  # the first episode
    for path, array in arrays.items():
        if below := _below(path, episodes):
            group = group or path.removesuffix(below).rstrip("/")
            inner.setdefault(below, array)
    named = _attributes(group, attributes)
    start = f"{episodes}/" if episodes else ""
    shown = tuple(f"{start}{path} {array.dtype} {list(array.shape)}" for path, array in inner.items())
    told = (path for path, array in inner.items() if array.shape and path.rpartition("/")[2] in TOLD_ENDS)
    ends = [] if episodes else [*told]
    rows = Counter(array.shape[0] for array in inner.values() if array.shape).most_common(1)
    steps = [path for path in inner if path not in ends and inner[path].shape[:1] == tuple(count for count, _ in rows)]
    columns: dict[str, str] = {}
    for path in sorted(steps, key=lambda path: -math.prod(inner[path].shape[1:]) if _is_wide(path) else 0):
        array = inner[path]
        column = _column(path, array)
        if column in ("action", "observation.state") and column in columns.values():  # of several the widest
            below = re.sub(r"^(actions?|observations?|obs|states?)[._]", "", _leaf(path))
            column = f"{column.removesuffix('.state')}.{below}"
        if column is None or column in columns.values() or len(columns) == MOST:
            continue
        if len(json.dumps({**columns, path: column})) <= LONGEST:
            columns[path] = column
    others = [path for path, column in columns.items() if column != "action" and ".images." not in column]
    if len(others) == 1 and inner[others[0]].shape[1:]:  # what is said beside actions and pictures is of the robot
        columns[others[0]] = "observation.state"
    layout: dict[str, Any] = {"episodes": episodes, "columns": columns or {"PATH": "action"}}
    if ends:
        layout["ends"] = ends[0] if len(ends) == 1 else ends
    texts = (path for path, array in inner.items() if array.dtype.kind in "OSUT" and TEXT.search(path))
    said = (f"@{name}" for name, value in named.items() if isinstance(value, str | bytes) and TEXT.search(name))
    if text := next((path for path in texts if path not in columns), "") or next(said, ""):
        layout["instruction"] = text
    rates = (value for name, value in named.items() if RATE.search(name) and checks.is_frame_rate(value))
    return Draft(shown, f'"fps": {float(next(rates, FPS)):g}, "layout": {json.dumps(layout)}')


def _attributes(group: str, attributes: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a group and of those above it; the nearest ones count."""
    places = [group.rsplit("/", up)[0] for up in range(group.count("/") + 1)] if group else []
    found: dict[str, Any] = {}
    for place in [*places, ""]:
        found = {**attributes(place), **found}
    return {name: plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """Return a number of numpy, such as h5py reads, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _episodes(arrays: Mapping[str, Any]) -> str:
    """Return the pattern of the most numbered groups, "" where there are none."""
    found: Counter[str] = Counter()
    for group in {"/".join(path.split("/")[:end]) for path in arrays for end in range(1, path.count("/") + 1)}:
        if (numbered := re.fullmatch(r"((?:[^*\d]*/)?[^*/]*?)\d+", group)) is not None:
            found[f"{numbered[1]}*"] += 1
    best = max(found, key=found.__getitem__, default="")
    above, _, last = best.rpartition("/")
    alike = {each for each in found if each.rpartition("/")[2] == last and each.count("/") == best.count("/")}
    inner, _, name = above.rpartition("/")
    beside = {each.rpartition("/")[0].rpartition("/")[0] for each in alike} == {inner}
    return f"{inner}/*/{last}".lstrip("/") if name and len(alike) > 1 and beside else best


def _below(path: str, episodes: str) -> str:
    """Return a path below the group of its episode, "" where it is in none."""
    if not episodes:
        return path
    above = re.match(re.escape(episodes).replace(r"\*", "[^/]+") + "/", path)
    return path[above.end() :] if above else ""


def _is_wide(path: str) -> bool:
    """Return whether the widest array of such names is likely what is meant."""
    return bool(ACTION.search(path) or STATE.search(path))


def _leaf(path: str) -> str:
    return re.sub(r"[^\w.]+", "_", path.replace("/", "."))


def _column(path: str, array: Any) -> str | None:
    leaf = _leaf(path)
    encoded = array.dtype.kind in "OSV" or (array.dtype.kind == "u" and len(array.shape) == 2)
    if not array.shape or DEPTH.search(path):
        return None
    if PICTURE.search(path) and (len(array.shape) == 4 or encoded):
        name = re.sub(r"\.?(rgb|images?|img|color)$", "", leaf).rpartition(".")[2] or leaf
        return f"observation.images.{name}"
    if array.dtype.kind not in "fiu" or len(array.shape) > 2 or (len(array.shape) == 1 and TIME.search(path)):
        return None
    if ACTION.search(path):
        return "action"
    return "observation.state" if STATE.search(path) else f"observation.{leaf}"
