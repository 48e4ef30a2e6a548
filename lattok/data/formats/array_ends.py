"""Where episodes end in a file that has the steps of all of them, one after the other."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import CUT_STEPS, EACH_NUMBER, LAST_STEPS, SO_FAR
from lattok.utils import checks
from lattok.utils.checks import LattokError

LENGTH_NAME = re.compile(r"len(gth)?s?$")  # how an array with the length of each episode is called
STEP_TYPE, LAST = "step_type", 2  # of dm_env: FIRST, MID, LAST
COUNTS, LENGTHS, NUMBERS, FLAGS = range(4)  # what is taken first, where there are several


def episode_spans(
    found: Mapping[str, Any], paths: Sequence[str], length: int, where: str
) -> tuple[list[tuple[int, int]], str]:
    """Return the first row of each episode and the one after its last, and the flags that hold for several rows.

    Of the arrays at `paths` count the steps so far at the end of each episode, else the lengths of all, else the number
    of its episode at each step, else all flags of last steps together. Flags that are true in several rows, as where
    a recorder waited for the scene to be reset, end one episode, with the last of them.

    Raises:
        LattokError: they do not fit the `length` steps, or are of another kind, such as starts.
    """
    kinds: dict[int, list[str]] = {}
    for path in (path for path in paths if path in found and found[path].shape):
        if (kind := _kind(found[path], path, length, where)) is not None:
            kinds.setdefault(kind, []).append(path)
    if not kinds:
        return [(0, length)], ""
    kind = min(kinds)
    path = kinds[kind][0]
    values = np.asarray(found[path][:]).reshape(found[path].shape[0], -1)
    held = ""
    if kind == FLAGS:
        flags = np.any([_flags(found[each], each).reshape(length, -1).any(1) for each in kinds[kind]], axis=0)
        last = flags & ~np.append(flags[1:], False)
        stops = np.append(np.flatnonzero(last) + 1, length)
        held = path if (flags & ~last).any() else ""
    elif kind == NUMBERS:
        stops = np.append(np.flatnonzero((values[1:] != values[:-1]).any(1)) + 1, length)
    else:
        stops = _counted(values.reshape(-1).astype(np.int64), kind == LENGTHS, path, length, where)
    stops = np.unique(stops[stops != 0])  # without episodes of no row
    return list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True)), held


def _flags(array: Any, path: str) -> np.ndarray:
    """Return whether each step is the last one of an episode, [T, ...]."""
    values = np.asarray(array[:])
    return values == LAST if path.rpartition("/")[2] == STEP_TYPE else values != 0


def _kind(array: Any, path: str, length: int, where: str) -> int | None:
    """Return what an array says, None if it is one number for all steps."""
    name = path.rpartition("/")[2]
    if name in SO_FAR:
        return COUNTS
    if LENGTH_NAME.search(name) and array.shape[0] != length:
        return LENGTHS
    if array.shape[0] == length:
        if name == STEP_TYPE:
            return FLAGS
        if name not in EACH_NUMBER and np.isin(np.asarray(array[:]), (0, 1)).all():
            return FLAGS
        return NUMBERS
    if name in (*EACH_NUMBER, *LAST_STEPS, *CUT_STEPS):
        if array.shape[0] == 1:
            return None
        checks.refuse(f"{where}, `{path}`", f"a row for each of {checks.counted(length, 'step')}", array.shape[0])
    return COUNTS


def _counted(values: np.ndarray, lengths: bool, path: str, length: int, where: str) -> np.ndarray:
    """Return the row after the last one of each episode; `values` are lengths, or should be such rows."""
    got = checks.few_of([*map(str, values.tolist())], 6)
    if lengths:
        if (values < 0).any() or values.sum() != length:
            expected = f"lengths of episodes in {path} that are {length} together"
            checks.refuse(where, expected, values.sum(), "Copy it again, or write the right ones.")
        return np.cumsum(values)
    stops = values[values != 0]
    if not len(stops) or min(stops) < 0 or max(stops) > length:
        shown = f"{min(stops)} to {max(stops)}" if len(stops) else "none"
        checks.refuse(where, f"ends of episodes in {path} from 1 to {length}", shown, "Copy it again.")
    expected = f"the row after the last one of each episode in {path}"
    if len(values) > 1 and values.sum() == length and max(values) < length:
        raise LattokError(f"{where}: expected {expected}, got lengths ({got}). Write numpy.cumsum of them there.")
    if (np.diff(values) < 0).any():
        checks.refuse(where, expected, f"rows that go back ({got})", "Write them in ascending order.")
    # with an empty first episode a few rows may follow the last end; starts leave a whole episode there
    if len(values) > 1 and values[0] == 0 and length - values[-1] >= np.diff(np.unique(values)).min(initial=length) / 2:
        ends = f"numpy.append(starts[1:], {length})"
        raise LattokError(f"{where}: expected {expected}, got the first one of each ({got}). Write {ends} there.")
    return stops
