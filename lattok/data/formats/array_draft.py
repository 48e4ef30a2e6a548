"""A description of a file of arrays in no known layout, guessed from names and shapes, for its user to correct."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lattok.data import schema
from lattok.data.formats.array_ends import tells_ends
from lattok.data.formats.array_layouts import TOLD_ENDS
from lattok.data.formats.array_pictures import is_film, of_views, storage
from lattok.utils import checks

NAMED_ACTION = re.compile(r"action", re.I)
ACTION = re.compile(r"action|\bacts?\b|command|cmd|control|ctrl|target|master|leader", re.I)
PLANNED = re.compile(r"(^|/)(trajectory|waypoints)$", re.I)  # what is sent, where nothing else is
STATE = re.compile(r"state|qpos|joint|proprio|obs", re.I)
# taken rather than others that STATE finds
PLAIN_STATE = re.compile(r"(^|[/_.])(state|qpos|joints?|joint_pos(itions?)?|proprio)$", re.I)
PICTURE = re.compile(r"rgb|image|img|color|cam|frame", re.I)
DEPTH = re.compile(r"depth", re.I)
TEXT = re.compile(r"lang|instruct|task|prompt|caption|text|goal|descri", re.I)
INDEX = re.compile(r"(^|[/_.])(idx|index|step_type|is_(first|last|terminal|pad))$", re.I)
TIME = re.compile(f"(^|[/_.]){schema.TIME}$|timestamp", re.I)
RATE = re.compile(r"fps|hz|rate|freq", re.I)
MOST, LONGEST = 8, 600  # columns, and characters of the entries
FPS = 30
UNITS = (1.0, 1e3, 1e6, 1e9)  # a second in what clocks count
SLOWEST, FASTEST = 0.5, 2000  # rows a second that are likely
NEAR = 0.02  # of a whole number of rows a second


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
    sent = [path for path in inner if len(inner[path].shape) > 1 and ACTION.search(path)]
    named_sent = [path for path in sent if NAMED_ACTION.search(path)]
    counted = named_sent or sent or [path for path in inner if inner[path].shape]
    rows = Counter(inner[path].shape[0] for path in counted).most_common(1)
    told = (path for path in inner if path.rpartition("/")[2] in TOLD_ENDS)
    ends = [path for path in told if not episodes and rows and tells_ends(inner[path], path, rows[0][0])]
    known = {count + more for count, _ in rows for more in (0, 1)}  # observations may have one row more
    planned = [path for path in inner if PLANNED.search(path) and _column(path, inner[path]) != "action"]
    films = {path for path in inner if is_film(inner[path])}
    steps = [path for path in inner if path in films or (path not in ends and {*inner[path].shape[:1]} & known)]
    columns: dict[str, str] = {}
    for path in sorted(steps, key=lambda path: _place(path, inner[path])):
        array = inner[path]
        column = "action" if not sent and path in planned[:1] else _column(path, array)
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
    timed = (inner[path] for path in steps if len(inner[path].shape) == 1 and TIME.search(path))
    told_rates = [value for name, value in named.items() if RATE.search(name) and checks.is_frame_rate(value)]
    rates = iter(told_rates or [rate for times in timed for rate in rates_of(times[:])])
    return Draft(shown, f'"fps": {float(next(rates, FPS)):g}, "layout": {json.dumps(layout)}')


def rates_of(times: np.ndarray) -> list[float]:
    """Return the rows a second that a column of times [T] may say, in whichever unit it is; [] of one that counts."""
    steps = np.diff(np.asarray(times).astype(np.float64)) if np.asarray(times).dtype.kind in "fiu" else np.empty(0)
    middle = float(np.median(steps)) if len(steps) else 0.0
    found = [unit / middle for unit in UNITS] if middle > 0 and (steps != 1).any() else []
    whole = ((rate, float(round(rate))) for rate in found if SLOWEST <= rate <= FASTEST)
    return [near if near and abs(rate / near - 1) <= NEAR else rate for rate, near in whole]


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
            above, _, name = numbered[1].rpartition("/")
            dated = name and not re.search(r"[a-z]", name, re.I)  # 20250101_120000
            found[f"{above}/*".lstrip("/") if dated else f"{numbered[1]}*"] += 1
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


def _place(path: str, array: Any) -> tuple[int, int]:
    """Return a key that sorts arrays by what is kept where there is no room for all: of one kind the widest first."""
    width = math.prod(array.shape[1:])
    if _is_picture(path, array):
        return 4, 0
    kinds = (NAMED_ACTION, ACTION, PLAIN_STATE, STATE)
    return next(((place, -width) for place, words in enumerate(kinds) if words.search(path)), (5, 0))


def _is_picture(path: str, array: Any) -> bool:
    """Return whether an array holds pictures, going by its shape, or by its name where they are encoded."""
    pixels = storage(array.dtype, array.shape[1:], False) in ("pixels", "planes")
    if pixels or of_views(array.dtype, array.shape[1:]) or is_film(array):
        return True
    encoded = array.dtype.kind in "OSV" or (array.dtype.kind == "u" and len(array.shape) == 2)
    return PICTURE.search(path) is not None and (len(array.shape) == 4 or encoded)


def _leaf(path: str) -> str:
    return re.sub(r"[^\w.]+", "_", path.replace("/", "."))


def _column(path: str, array: Any) -> str | None:
    leaf = _leaf(path)
    if not array.shape or DEPTH.search(path) or INDEX.search(path):
        return None
    if _is_picture(path, array):
        name = re.sub(r"[._]?(rgb|images?|img|color)$", "", leaf).rpartition(".")[2] or leaf
        name = re.sub(r"[._](video|frames?)$", "", leaf.rpartition(".frames")[0] or leaf) if is_film(array) else name
        name = name.rpartition(".")[2]
        name = leaf.rpartition(".")[2] if re.fullmatch(r"obs(ervations?)?|data", name) else name
        return f"observation.images.{name}"
    packed = array.dtype == np.uint8 and len(array.shape) == 1
    if array.dtype.kind not in "fiu" or packed or len(array.shape) > 2 or (len(array.shape) == 1 and TIME.search(path)):
        return None
    if ACTION.search(path):
        return "action"
    return "observation.state" if STATE.search(path) else f"observation.{leaf}"
