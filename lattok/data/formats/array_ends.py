"""Where episodes end in a file that has the steps of all of them, one after the other."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lattok.data.formats.array_layouts import (
    BARE_NUMBER,
    COUNTERS,
    CUT_STEPS,
    EACH_NUMBER,
    EACH_PLACE,
    FIRST_STEPS,
    LAST_STEPS,
    NOT_LAST,
    SO_FAR,
)
from lattok.utils import checks
from lattok.utils.checks import LattokError

LENGTH_NAME = re.compile(r"len(gth)?s?$")  # how an array with the length of each episode is called
STEP_TYPE, LAST = "step_type", 2  # of dm_env: FIRST, MID, LAST
COUNTS, LENGTHS, STARTS, NUMBERS, MARKS = range(5)  # what is taken first, where there are several
FEWEST_ROWS = 2  # of an episode on average, where numbers of each step tell


class Ends(NamedTuple):
    spans: list[tuple[int, int]]  # the first row of each episode and the one after its last
    told: tuple[str, ...] = ()  # paths of what says so, and nothing else
    held: str = ""  # flags that hold for several rows


def episode_ends(found: Mapping[str, Any], paths: Sequence[str], length: int, where: str) -> Ends:
    """Find the episodes in `length` rows by the arrays at `paths`.

    Of these count the steps so far at the end of each episode, else the lengths of all, else the rows where they begin,
    else the number of its episode at each step, else all marks of steps together: flags of first and last steps, and
    counters that begin again. No episode goes on in another scene, recording or clip, where such numbers are there.
    Flags that are true in several rows, as where a recorder waited for the scene to be reset, end one episode, with the
    last of them.

    Raises:
        LattokError: they do not fit the `length` steps, or are of another kind, such as starts.
    """
    kinds: dict[int, list[str]] = {}
    for path in (path for path in paths if path in found and found[path].shape):
        if (kind := _kind(found[path], path, length)) is not None:
            kinds.setdefault(kind, []).append(path)
    kind = min(kinds, default=MARKS)
    if kind in (NUMBERS, MARKS):
        _check_rows(found, paths, length, where)
        return _ends_of_rows(found, kinds, kind, length, where)
    path = kinds[kind][0]
    values = np.asarray(found[path][:]).reshape(-1).astype(np.int64)
    stops = _begun(values, path, length, where) if kind == STARTS else _counted(values, kind, path, length, where)
    return Ends(_spans(stops), (path,))


def _spans(stops: np.ndarray) -> list[tuple[int, int]]:
    stops = np.unique(stops[stops != 0])  # without episodes of no row
    return list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))


def _ends_of_rows(
    found: Mapping[str, Any], kinds: Mapping[int, Sequence[str]], kind: int, length: int, where: str
) -> Ends:
    """Find episodes by what each row says of itself."""
    begins = np.zeros(length + 1, bool)  # whether the row is the first one of an episode
    begins[-1] = True
    told, held, last = [*kinds.get(NUMBERS, ())], "", np.zeros(length, bool)
    for path in told:
        changes = _changes(found[path], length)
        comes_back = len(np.unique(np.asarray(found[path][:]))) <= changes.sum() / FEWEST_ROWS
        if comes_back and FEWEST_ROWS * changes.sum() > length:
            way_out = f"Sort all arrays by it: numpy.argsort({_name(path)}, kind='stable')."
            checks.refuse(f"{where}, `{path}`", "episodes one after the other", "rows of several in turn", way_out)
        begins[:-1] |= changes
    for path in kinds.get(MARKS, ()):
        name, array = _name(path), found[path]
        if name in EACH_PLACE:
            begins[:-1] |= _changes(array, length)
            told.append(path)
        elif kind == NUMBERS:
            continue
        elif name in COUNTERS:
            begins[:-1] |= _restarts(array, length)
        elif name in FIRST_STEPS:
            flags = _flags(array, name, length)
            begins[1:-1] |= flags[1:] & ~flags[:-1]
            told.append(path)
        else:
            last |= _flags(array, name, length)
            told.append(path)
            held = held or path
    ends = last & ~np.append(last[1:], False)
    begins[1:] |= ends
    return Ends(_spans(np.flatnonzero(begins)), tuple(told), held if (last & ~ends).any() else "")


def tells_ends(array: Any, path: str, length: int) -> bool:
    """Return whether the array at a path says of `length` rows where episodes end."""
    return bool(array.shape) and _kind(array, path, length) is not None


def _kind(array: Any, path: str, length: int) -> int | None:
    """Return what an array says; None if that is nothing about episodes, or one number for all steps."""
    name, rows = _name(path), array.shape[0]
    if rows == length and name in (*EACH_PLACE, *BARE_NUMBER, *COUNTERS):
        if not _is_readable(array) or array.shape[1:] not in ((), (1,)):
            return None
        if name in COUNTERS:
            return MARKS if _restarts(array, length).any() else None
        if not _in_parts(array, length):
            return None
        return NUMBERS if name in BARE_NUMBER else MARKS
    if rows == length and name not in EACH_NUMBER:
        if name in (STEP_TYPE, *FIRST_STEPS) or np.isin(np.asarray(array[:]), (0, 1)).all():
            return MARKS
        return COUNTS if name in SO_FAR else NUMBERS
    if rows == length:
        return NUMBERS if _is_readable(array) else None
    if LENGTH_NAME.search(name):
        return LENGTHS
    if name in FIRST_STEPS:
        return STARTS if rows > 1 else None
    of_rows = (*EACH_NUMBER, *EACH_PLACE, *BARE_NUMBER, *COUNTERS, *LAST_STEPS, *CUT_STEPS, *NOT_LAST)
    return None if name in of_rows else COUNTS


def _check_rows(found: Mapping[str, Any], paths: Sequence[str], length: int, where: str) -> None:
    """Refuse what should say something of each row but has others."""
    for path in (path for path in paths if path in found and _name(path) in (*EACH_NUMBER, *LAST_STEPS, *CUT_STEPS)):
        if found[path].shape[:1] not in ((), (1,), (length,)):
            expected = f"a row for each of {checks.counted(length, 'step')}"
            checks.refuse(f"{where}, `{path}`", expected, found[path].shape[0])


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_readable(array: Any) -> bool:
    """Return whether an array holds numbers or texts, rather than numpy's pickles, which are not read."""
    return array.dtype.kind in "biufSUT" or bool(array.dtype.kind == "O" and array.dtype.metadata)


def _rows(array: Any, length: int) -> np.ndarray:
    return np.asarray(array[:]).reshape(length, -1)


def _flags(array: Any, name: str, length: int) -> np.ndarray:
    """Return which rows have a flag [T]."""
    values = _rows(array, length)
    flags: np.ndarray = values == LAST if name == STEP_TYPE else (values == 0) == (name in NOT_LAST)
    return np.any(flags, axis=1)


def _changes(array: Any, length: int) -> np.ndarray:
    """Return whether each row differs from the one before [T]."""
    values = _rows(array, length)
    return np.append(False, (values[1:] != values[:-1]).any(1))


def _in_parts(array: Any, length: int) -> bool:
    """Return whether each value is that of several rows, one after the other."""
    parts = int(_changes(array, length).sum()) + 1
    return parts == len(np.unique(np.asarray(array[:]))) and (parts == 1 or parts * FEWEST_ROWS <= length)


def _restarts(array: Any, length: int) -> np.ndarray:
    """Return at which rows a counter, or a clock, begins again [T]: nowhere where it is none."""
    none = np.zeros(length, bool)
    if array.dtype.kind not in "iuf" or length < FEWEST_ROWS:
        return none
    values = np.asarray(array[:]).reshape(-1).astype(np.float64)
    steps = np.diff(values)
    again = np.append(False, steps < 0)
    begun = np.flatnonzero(again)
    if not len(begun) or not np.isfinite(values).all() or not (steps[steps >= 0] > 0).all():
        return none
    full = array.dtype.kind == "u" and values.max() == np.iinfo(array.dtype).max  # it has no room for more
    first = np.abs(values[begun] - values[0]) <= np.median(steps[steps > 0], keepdims=True)
    return none if full or not first.all() or (np.diff(np.append(0, begun)) < FEWEST_ROWS).any() else again


def _begun(values: np.ndarray, path: str, length: int, where: str) -> np.ndarray:
    """Return the row after the last one of each episode; `values` are the first rows of all."""
    if not len(values) or values[0] != 0 or (np.diff(values) <= 0).any() or values[-1] >= length:
        got = checks.few_of([*map(str, values.tolist())], 6)
        expected = f"the first row of each episode in {path}, from 0 on, of {checks.counted(length, 'row')}"
        checks.refuse(where, expected, got, "Copy it again, or write the right ones.")
    return np.append(values[1:], length)


def _counted(values: np.ndarray, kind: int, path: str, length: int, where: str) -> np.ndarray:
    """Return the row after the last one of each episode; `values` are lengths, or should be such rows."""
    got = checks.few_of([*map(str, values.tolist())], 6)
    if kind == LENGTHS:
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
