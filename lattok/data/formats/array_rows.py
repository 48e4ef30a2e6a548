"""The arrays of demonstrations: how many steps they have, and which of them have the same arrays but for actions."""

from collections import Counter
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, NoReturn

import numpy as np

from lattok.data.formats.array_layouts import Layout
from lattok.data.formats.array_pictures import LEAST_SIDE, Storage, storage
from lattok.utils import checks
from lattok.utils.checks import LattokError

REALS = ("float16", "float32", "float64")
SHOWN = 12  # arrays in a message
FEWEST_STEPS = 5  # of an episode beside others: second axes that are shorter are arms, or poses as matrices
MOST_WIDE = 32  # numbers of a step, in arrays of several widths alike
STEPS_TOGETHER = "Write the steps of each episode together, with lattok.data.LeRobotWriter: docs/howto/own_dataset.md."


class StoredArray(NamedTuple):  # an array of every demonstration: where it is, and what one step of it is
    path: str  # below the demonstration's group
    column: str
    dtype: str
    shape: tuple[int, ...]  # () where pictures are encoded
    storage: Storage
    ahead: int = 0  # rows: of `Layout.ahead`, 1
    view: int | None = None  # of a step that has pictures of several cameras


Stored = tuple[StoredArray, ...]


def rows_of(found: Mapping[str, Any], layout: Layout) -> str:
    """Return the path of the array that has a row for each step, "" where there is none."""
    return next((path for pattern in layout.rows for path in found if fnmatchcase(path, pattern)), "")


def steps_of(found: Mapping[str, Any], layout: Layout, where: str, attributes: Mapping[str, Any]) -> int:
    """Count the steps of a group: the rows of its actions; where nobody recorded any, of most of its other columns."""
    path = rows_of(found, layout)
    if not path:
        counts = Counter(array.shape[0] for name, array in found.items() if array.shape and layout.column(name))
        rows, _ = counts.most_common(1)[0] if counts else (0, 0)
        return rows if rows > 1 and _of_actions(layout) else no_rows(found, layout, where)
    rows = found[path].shape[0] if found[path].shape else 0
    if not rows:
        no_rows(["none"], layout, where)
    pictures = (name for name, each in found.items() if each.dtype == np.uint8 and is_coloured(name, each.shape))
    if len(found[path].shape) == 1 and (picture := next(pictures, None)) is not None:
        got = f"one step: {rows} numbers and one picture, `{picture}` {list(found[picture].shape)}"
        checks.refuse(where, f"the steps of an episode as rows of `{path}`", got, STEPS_TOGETHER)
    if (other := _turned(found, path)) is not None:
        got = f"columns: {list(found[path].shape)}, and `{other}` {list(found[other].shape)}"
        checks.refuse(
            where, f"the steps of an episode as rows of `{path}`", got, "Write the transpose of each (array.T)."
        )
    if (other := in_episodes(found, path)) is not None:
        got = f"episodes: {list(found[path].shape)}, and `{other}` {list(found[other].shape)}"
        checks.refuse(where, f"the steps of an episode as rows of `{path}`", got, "Write a file for each episode.")
    if storage(found[path].dtype, found[path].shape[1:], False) is None:
        got = f"{found[path].dtype} {list(found[path].shape)}"
        raise LattokError(f"{where}: expected numbers as `{path}`, got {got}. Write them as numbers.")
    if (samples := attributes.get("num_samples", rows)) != rows:
        raise LattokError(f"{where}: expected {samples} actions (num_samples), got {rows}. Copy it again.")
    steps = rows - any(fnmatchcase(path, ahead) for ahead in layout.ahead)
    if not steps:
        checks.refuse(where, f"two rows of `{path}` or more, since an action is the row after", rows, "Remove it.")
    return steps


def _turned(found: Mapping[str, Any], path: str) -> str | None:
    """Return another array that has as many columns as that at `path`, many more than rows, where none has its rows."""
    flat = {name: each.shape for name, each in found.items() if len(each.shape) == 2 and each.dtype.kind in "fiu"}
    shape = flat.get(path, (0, 0))
    others = {name: each for name, each in flat.items() if name != path}
    with_rows = any(name != path and each.shape[:1] == shape[:1] for name, each in found.items())
    turned = (name for name, each in others.items() if each[1] == shape[1] and each[0] != shape[0])
    return None if with_rows or shape[1] < max(MOST_WIDE, 2 * shape[0]) else next(turned, None)


def in_episodes(found: Mapping[str, Any], path: str) -> str | None:
    """Return another array that has episodes and steps as its first axes, as that at `path` has, if one has."""
    steps = found[path].shape
    several = (name for name, each in found.items() if name != path and each.shape[:2] == steps[:2])
    kinds = ((name, len(found[name].shape), found[name].dtype) for name in several)
    alike = (name for name, axes, dtype in kinds if axes == 5 or (axes == 3 and dtype != np.uint8))
    return next(alike, None) if len(steps) == 3 and steps[1] >= FEWEST_STEPS else None


def no_rows(found: Collection[str], layout: Layout, where: str) -> NoReturn:
    """Refuse a group without the array that has one row a step."""
    wanted = " or ".join(f"`{pattern}`" for pattern in layout.rows[:2])
    there = checks.listed([*found][:SHOWN]) or "nothing"
    checks.refuse(where, f"a group with {wanted}, at least one row", there, "Remove it.")


def is_coloured(path: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape[:2]) >= LEAST_SIDE and shape[2] in (3, 4)


def is_action(column: str) -> bool:
    return column.partition(".")[0].partition("_")[0] == "action"


def _of_actions(layout: Layout) -> bool:
    """Return whether the rows of a layout are those of actions, which may be unknown."""
    return not layout.ahead and all(is_action(layout.columns.get(path, "")) for path in layout.rows)


def has_actions(arrays: Stored, layout: Layout) -> bool:
    """Return whether actions of demonstrations were recorded, or the layout has none that could be missing."""
    return not _of_actions(layout) or any(is_action(each.column) for each in arrays)


def fits(one: Stored, usual: Stored, layout: Layout) -> bool:
    """Return whether a demonstration has the usual arrays, or all but those of actions, which are unknown there."""
    known = tuple(each for each in usual if not is_action(each.column))
    unknown = [each for each in usual if is_action(each.column)]
    lacking = not has_actions(one, layout) and all(each.dtype in REALS for each in unknown)  # NaN stands for them
    return alike(one, usual) or (lacking and alike(one, known))


def difference(one: Stored, other: Stored, left_out: Mapping[str, str]) -> str:
    """Return the first thing that the second has differently from the first, for a message; `left_out` is what it has
    beside that."""
    expected, got = ({each.path: _shape(each) for each in layout} for layout in (one, other))
    path = next((path for path in (*expected, *got) if expected.get(path) != got.get(path)), "")
    wanted = f"`{path[:100]}`: expected {expected.get(path, 'nothing')}"
    known = path in left_out and path not in got
    return f"{wanted}, but {left_out[path]}" if known else f"{wanted}, got {got.get(path, 'nothing')}"


def alike(one: Stored, other: Stored) -> bool:
    """Return whether two demonstrations have the same arrays: reals may be of another width, and are converted."""
    return one == other or [*map(_of_any_width, one)] == [*map(_of_any_width, other)]


def _of_any_width(stored: StoredArray) -> StoredArray:
    return stored._replace(dtype="float") if stored.storage == "numbers" and stored.dtype in REALS else stored


def _shape(stored: StoredArray) -> str:
    axes = ("T", *map(str, stored.shape))
    return f"{stored.dtype} [{', '.join(axes)}]"
