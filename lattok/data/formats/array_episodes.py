"""Files whose arrays are of all episodes: the first axis counts them, or each episode has arrays with its number."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import ALL_EPISODES, Layout
from lattok.data.formats.array_padding import LENGTHS, MASKS
from lattok.data.formats.array_rows import FEWEST_STEPS, in_episodes
from lattok.data.formats.array_store import Store, known

NUMBERED = re.compile(r"(.+)[/_](\d+)")  # actions/3 or actions_3, of episode 3


class RowOfArray:
    """The array [T, ...] that one row of an array [N, T, ...] is."""

    def __init__(self, array: Any, row: int):
        self.whole, self._row = array, row
        of_row = getattr(array, "shape_of", None)  # of arrays whose rows differ in length
        self.shape, self.dtype = of_row(row) if of_row else tuple(array.shape[1:]), array.dtype

    def __getitem__(self, rows: Any) -> Any:
        return self.whole[(self._row, *(rows if isinstance(rows, tuple) else (rows,)))]


class EpisodeStore(Store):
    """A store seen as groups "[0]", "[1]", ... of the arrays of each episode."""

    def __init__(self, store: Store):
        self.path, self._store = store.path, store

    @cached_property
    def _found(self) -> dict[str, Any]:
        return self._store.arrays("")

    def check(self) -> None:
        self._store.check()

    def reading(self, where: str) -> AbstractContextManager[None]:
        return self._store.reading(where)

    @property
    def name(self) -> str:
        return self._store.name

    def members(self, group: str) -> list[str]:
        return [] if group else [f"[{number}]" for number in numbers_of(self._found)]

    def is_group(self, path: str) -> bool:
        return not path or path.startswith("[")

    def single_arrays(self, group: str) -> dict[str, Any]:
        return arrays_of(self._found, int(group.strip("[]")))

    def array(self, path: str) -> Any:
        group, _, inner = path.partition("/")
        return known(self.arrays(group), inner, self.path)

    def attributes(self, path: str) -> Mapping[str, Any]:
        return self._store.attributes("")

    def stored_bytes(self, array: Any, where: str) -> int:
        if isinstance(array, RowOfArray):
            return self._store.stored_bytes(array.whole, where) // array.whole.shape[0]
        return self._store.stored_bytes(array, where)


def array_of(store: Store, group: str, path: str) -> Any:
    """Return the array at a path below a group, either of which may be made of others."""
    place = f"{group}/{path}".lstrip("/")
    if group.startswith("["):
        return EpisodeStore(store).array(place)
    return known(store.arrays(group), path, store.path) if store.is_group(place) else store.array(place)


def numbers_of(found: Mapping[str, Any]) -> Sequence[int]:
    """Return the numbers of the episodes in arrays of all."""
    matches = (NUMBERED.fullmatch(path) for path in found)
    return sorted({int(match[2]) for match in matches if match}) or range(_count(found))


def arrays_of(found: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the arrays of one episode out of those of all."""
    matches = [(match, array) for path, array in found.items() if (match := NUMBERED.fullmatch(path))]
    if matches:
        return {match[1]: array for match, array in matches if int(match[2]) == number}
    of_all = ((path, array) for path, array in found.items() if array.shape[:1] == (_count(found),))
    return {path: RowOfArray(array, number) for path, array in of_all}


def _count(found: Mapping[str, Any]) -> int:
    counts = Counter(array.shape[0] for array in found.values() if len(array.shape) > 1)
    return counts.most_common(1)[0][0] if counts else 0


def is_told(found: Mapping[str, Any], path: str) -> bool:
    """Return whether lengths, or a mask, say that the first axis of the array at `path` [N, T, D] counts episodes."""
    if len(found[path].shape) != 3:
        return False
    count, steps = found[path].shape[:2]
    for name, array in ((each.rpartition("/")[2], array) for each, array in found.items()):
        if name in LENGTHS and array.shape == (count,) and array.dtype.kind in "iuf":
            lengths = np.asarray(array[:])
            return bool(np.all((lengths > 0) & (lengths <= steps)))
        if name in MASKS and array.shape == (count, steps) and array.dtype.kind in "biuf":
            changes = np.diff(np.asarray(array[:]).astype(np.int8), axis=1) != 0
            return bool(np.all(np.sum(changes, axis=1) <= 1))
    return False


def is_likely(found: Mapping[str, Any], path: str) -> bool:
    """Return whether the array at `path` may have episodes and steps as its first axes [N, T, D]: others have them,
    too, or there is no other one with such rows."""
    shape = found[path].shape
    if len(shape) != 3 or shape[1] < FEWEST_STEPS or not shape[0]:
        return False
    alone = not any(name != path and array.shape[:1] == shape[:1] for name, array in found.items())
    return alone or in_episodes(found, path) is not None


def are_numbered(found: Mapping[str, Any], actions: Sequence[str]) -> bool:
    """Return whether each episode has an array of actions with its number."""
    matches = [(NUMBERED.fullmatch(path), found[path].shape) for path in actions]
    lengths = {shape[0] for match, shape in matches if match and len(shape) == 2}
    return len(matches) > 1 and all(match for match, _ in matches) and (len(lengths) > 1 or len(matches) > 2)


def by_episode(store: Store, layout: Layout) -> Store:
    """Return a store as a layout sees it."""
    return EpisodeStore(store) if layout.episodes == ALL_EPISODES else store
