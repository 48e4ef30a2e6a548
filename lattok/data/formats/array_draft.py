"""A description of a file of arrays in no known layout, guessed from names and shapes, for its user to correct."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lattok.data import schema
from lattok.data.formats.array_ends import tells_ends
from lattok.data.formats.array_episodes import are_numbered, arrays_of, is_likely, is_told, numbers_of
from lattok.data.formats.array_layouts import ALL_EPISODES, TOLD_ENDS
from lattok.data.formats.array_pictures import is_film, of_views, storage
from lattok.data.formats.array_store import plain
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
# the word of a path that tells the arms of a robot, or several robots, apart
SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])|(?<![a-z])(?:arm|robot|manipulator)_?(\d)(?!\d)", re.I)
STEP = re.compile(r"(time_?)?(step|frame|t|tick)s?_?\d+", re.I)
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
    if not episodes and _are_of_all(arrays):
        episodes, inner = ALL_EPISODES, arrays_of(arrays, numbers_of(arrays)[0])
    named = _attributes(group, attributes)
    start, listed = (f"{episodes}/", inner) if episodes not in ("", ALL_EPISODES) else ("", arrays)
    shown = tuple(f"{start}{path} {array.dtype} {list(array.shape)}" for path, array in listed.items())
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
    joined: dict[str, list[str]] = {}
    for path in sorted(steps, key=lambda path: _place(path, inner[path])):
        array = inner[path]
        column = "action" if not sent and path in planned[:1] else _column(path, array)
        if path in columns:
            continue
        if column in ("action", "observation.state") and column not in {*columns.values(), *joined}:
            arms = _arms(path, [each for each in steps if len(inner[each].shape) == len(array.shape)])
            if len(arms) > 1:
                whole = column.removesuffix(".state")
                joined[column] = [f"{whole}.{arm}" for arm in arms]
                columns |= {each: f"{whole}.{arm}" for arm, each in arms.items()}
                continue
        if column in joined:
            column = f"{column.removesuffix('.state')}.{_leaf(path)}"
        if column in ("action", "observation.state") and column in columns.values():  # of several the widest
            below = re.sub(r"^(actions?|observations?|obs|states?)[._]", "", _leaf(path))
            column = f"{column.removesuffix('.state')}.{below}"
        if column is None or column in columns.values() or len(columns) == MOST:
            continue
        if len(json.dumps({**columns, path: column})) <= LONGEST:
            columns[path] = column
    others = [path for path, column in columns.items() if column != "action" and ".images." not in column]
    if (
        len(others) == 1 and not joined and inner[others[0]].shape[1:]
    ):  # what is said beside actions and pictures is of the robot
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
    sides = f', "columns": {json.dumps(joined)}' if joined else ""
    return Draft(shown, f'"fps": {float(next(rates, FPS)):g}, "layout": {json.dumps(layout)}{sides}')


def _are_of_all(arrays: Mapping[str, Any]) -> bool:
    """Return whether arrays may be those of all episodes, each of them [N, T, ...] or with a number."""
    sent = [
        path for path in arrays if ACTION.search(path) and not SIDE.search(path) and arrays[path].dtype.kind in "fiu"
    ]
    named = [path for path in sent if NAMED_ACTION.search(path)] or sent
    return are_numbered(arrays, named) or any(is_told(arrays, each) or is_likely(arrays, each) for each in named)


def _arms(path: str, others: Sequence[str]) -> dict[str, str]:
    """Return the paths that differ from one in the word for an arm alone, by that word: left before right, arm 1 before
    arm 2; {} where there is one arm."""
    for word in SIDE.finditer(path):
        start, end = path[: word.start()], path[word.end() :]
        pattern = re.compile(f"{re.escape(start)}({SIDE.pattern}){re.escape(end)}", re.I)
        found = {match[1].lower(): each for each in others if (match := pattern.fullmatch(each))}
        if len(found) > 1:
            return dict(sorted(found.items()))
    return {}


def single_step(arrays: Mapping[str, Any]) -> str:
    """Return the name of the first group, where groups are a step each, "" where they are not."""
    episodes = _episodes(arrays)
    groups: dict[str, dict[str, Any]] = {}
    for path, array in arrays.items():
        if below := _below(path, episodes) if episodes else "":
            groups.setdefault(path.removesuffix(f"/{below}"), {})[below] = array
    first, inner = next(iter(groups.items()), ("", dict[str, Any]()))
    plain_numbers = [array for array in inner.values() if array.dtype.kind in "fiub" and len(array.shape) < 3]
    named = STEP.fullmatch(first.rpartition("/")[2]) is not None
    unlike = len({array.shape[0] for array in plain_numbers if array.shape}) > 1
    alone = plain_numbers and all(len(array.shape) < 2 for array in plain_numbers)
    return first if alone and len(groups) > 1 and (named or unlike) else ""


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


def _episodes(arrays: Mapping[str, Any]) -> str:
    """Return the pattern of the most numbered groups that have the actions, "" where there are none."""
    found: dict[str, set[str]] = {}  # groups by pattern
    acting = set[str]()  # patterns of groups with actions
    for path in arrays:
        parts = path.split("/")
        for end in range(1, len(parts)):
            numbered = [_pattern(part) for part in parts[:end]]
            if numbered[-1] != parts[end - 1]:
                found.setdefault("/".join(numbered), set()).add("/".join(parts[:end]))
                if ACTION.search(below := "/".join(parts[end:])) or PLANNED.search(below):
                    acting.add("/".join(numbered))
    if any(ACTION.search(path) and not PICTURE.search(path) for path in arrays):
        found = {pattern: groups for pattern, groups in found.items() if pattern in acting}
    best = max(found, key=lambda pattern: len(found[pattern]), default="")
    above, _, last = best.rpartition("/")
    alike = {each for each in found if each.rpartition("/")[2] == last and each.count("/") == best.count("/")}
    inner, _, name = above.rpartition("/")
    beside = {each.rpartition("/")[0].rpartition("/")[0] for each in alike} == {inner}
    return f"{inner}/*/{last}".lstrip("/") if name and len(alike) > 1 and beside else best


def _pattern(name: str) -> str:
    """Return the pattern of a numbered or dated name of a group, such as demo_* of demo_3; the name of any other one,
    or of an arm or camera."""
    numbered = re.fullmatch(r"([^*\d]*?)\d+", name)
    if numbered and not SIDE.fullmatch(name) and not PICTURE.search(name):
        return f"{numbered[1]}*"
    dated = re.fullmatch(r"[^*a-z]*\d", name, re.I)  # 20250101_120000
    return "*" if dated else name


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
