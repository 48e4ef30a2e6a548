"""CALVIN as it is published: a file of numpy for every step, and which of them follow each other.

training/episode_0358482.npz                   one step: rel_actions [7], robot_obs [15], rgb_static [200, 200, 3], ...
training/ep_start_end_ids.npy                  first and last step of every recording [n, 2]
training/lang_annotations/auto_lang_ann.npy    instructions, in a pickle, which is never opened here
training/lang_annotations/auto_lang_ann.json   the same as JSON: {"indx": [[358482, 358546], ...], "ann": ["...", ...]}
validation/...                                 the same again
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from lattok.data.formats.array_layouts import CALVIN, CALVIN_ABSOLUTE
from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import Store
from lattok.data.formats.npz import NpzDataset, NpzStore
from lattok.utils.checks import LattokError, refuse
from lattok.utils.files import read_json
from lattok.utils.untrusted import COPY, MISSING, inside, safe_path, typed

ENDS = "ep_start_end_ids.npy"
PARTS = ("training", "validation")
LANGUAGE = Path("lang_annotations") / "auto_lang_ann.json"
STEP = re.compile(r"episode_(\d{7})\.npz")
RATE = 30.0  # steps a second, of all of CALVIN
PICKLE = "instructions in a pickle, which may run anything; as JSON they are read: docs/howto/own_dataset.md#calvin"


class Language(TypedDict, total=False):
    indx: list[tuple[int, int]]
    ann: list[str]


class Row(NamedTuple):  # what one step of an array is
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    stored: int  # bytes


class StepsArray:
    """An array of consecutive steps, a row in each file."""

    def __init__(self, folder: Path, first: int, last: int, name: str, row: Row):
        self.dtype, self.shape = row.dtype, (last - first + 1, *row.shape)
        self.stored = row.stored * self.shape[0]
        self._folder, self._first, self._name, self._row = folder, first, name, row
        self._known: set[str] = set()

    def __getitem__(self, rows: Any) -> np.ndarray:
        steps = np.arange(self._first, self._first + self.shape[0])[rows]
        return np.stack([self._of(int(step)) for step in steps])

    def _of(self, step: int) -> np.ndarray:
        with opened_step(self._folder, step, self._known) as store:
            array = store.array(self._name) if self._name in store.nodes() else None
            if array is None or (array.dtype, array.shape) != self._row[:2]:
                expected = f"`{self._name}` as {self.dtype} {list(self.shape[1:])}, as before"
                got = "none" if array is None else f"{array.dtype} {list(array.shape)}"
                refuse(store.path, expected, got, COPY)
            return array[...]


class StepsStore(Store):
    """A folder of steps. A group is what is one episode, called by its first and last step."""

    def __init__(self, path: Path):
        self.path, self.folder = path, path.parent  # ENDS, and where it is
        self._rows: dict[str, Row] = {}

    def check(self) -> None:
        """Each file is looked at when it is read."""

    @property
    def name(self) -> str:
        return ""  # which would be an instruction

    def members(self, group: str) -> list[str]:
        return [*self._texts]

    def is_group(self, path: str) -> bool:
        return not path or path in self._texts

    def single_arrays(self, group: str) -> dict[str, Any]:
        first, last = _span(group)
        start, end = np.searchsorted(self._steps, [first, last + 1])
        if end - start != last - first + 1:
            there = {*self._steps[start:end].tolist()}
            missing = next(step for step in range(first, last + 1) if step not in there)
            raise LattokError(f"missing data file {self.folder / _file(missing)}. {MISSING}")
        return {name: StepsArray(self.folder, first, last, name, row) for name, row in self._rows_of(first).items()}

    def array(self, path: str) -> Any:
        group, name = path.split("/")
        first, last = _span(group)
        if name not in (rows := self._rows_of(first)):
            refuse(self.folder / _file(first), f"an array `{name}`", "none", COPY)
        return StepsArray(self.folder, first, last, name, rows[name])

    def attributes(self, path: str) -> Mapping[str, Any]:
        return {"instruction": self._texts[path]} if path else {}

    def stored_bytes(self, array: Any, where: str) -> int:
        return array.stored

    def _rows_of(self, step: int) -> dict[str, Row]:
        """Return what is in a step, which is what is in the others, too: this is checked where they are read."""
        if not self._rows:
            with opened_step(self.folder, step) as store:
                self._rows = {name: Row(each.dtype, each.shape, each.stored) for name, each in store.arrays("").items()}
        return self._rows

    @cached_property
    def _steps(self) -> np.ndarray:
        """The numbers of the steps that are there, ascending."""
        with os.scandir(self.folder) as entries:
            found = (STEP.fullmatch(entry.name) for entry in entries)
            return np.sort(np.fromiter((int(match[1]) for match in found if match), np.int64))

    @cached_property
    def _texts(self) -> dict[str, str]:
        """Instructions by group: of the parts that have one, else none of whole recordings."""
        place = safe_path(self.folder, self.folder / LANGUAGE, str(self.folder / LANGUAGE))
        if place.is_file():
            found: Language = typed(read_json(place), Language, "", str(place))
            spans, texts = found.get("indx", []), found.get("ann", [])
        else:
            place, ends = self.path, np.load(self.path, mmap_mode="r", allow_pickle=False)
            if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
                refuse(place, "first and last steps, whole numbers [n, 2]", f"{ends.dtype} {list(ends.shape)}", COPY)
            spans = sorted((int(first), int(last)) for first, last in ends)
            texts = [""] * len(spans)
        if len(spans) != len(texts):
            refuse(place, f"an `ann` for each of {len(spans)} `indx`", len(texts), "Write it again.")
        if wrong := [span for span in spans if not 0 <= span[0] <= span[1]]:
            refuse(place, "steps from 0 on, the first before the last", list(wrong[0]), "Correct it.")
        each = enumerate(zip(spans, texts, strict=True))  # several may have the same steps
        return {f"{first:07d}-{last:07d}-{i}": text for i, ((first, last), text) in each}


class Calvin(ArrayDataset):
    """CALVIN's folders; `training` and `validation` are one dataset, of which the second judges.

    `action` is `rel_actions`, `action.absolute` is `actions`. Where there is LANGUAGE, episodes are the parts of
    recordings that have an instruction, which may overlap; without it they are the recordings, without one.
    """

    kind = "calvin"
    text = f"CALVIN (a folder with {ENDS} and a file for every step)"
    marked = True
    options = MappingProxyType({"fps": float})
    layouts = (CALVIN, CALVIN_ABSOLUTE)

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        super().__init__(path, name, fps=RATE if fps is None else fps)
        pickle = LANGUAGE.with_suffix(".npy")
        places = {file.parent for file in self.files_in(self.root)}
        if any((place / pickle).is_file() and not (place / LANGUAGE).is_file() for place in places):
            self.left_out = {**self.left_out, str(pickle): PICKLE}

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.files_in(folder) else ()

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        return [path for path in (folder / ENDS, *(folder / name / ENDS for name in PARTS)) if path.is_file()]

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        with StepsStore.guarded(path, where):
            yield StepsStore(path)

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        demo = self._demo(episode_index)
        first, last = _span(demo.name)
        return tuple(demo.file.parent / _file(step) for step in range(first, last + 1))


def opened_step(folder: Path, step: int, known: set[str] | None = None) -> AbstractContextManager[NpzStore]:
    """Open the file of a step; `known` are folders that lead nowhere else."""
    return NpzDataset.opened(inside(folder, _file(step), str(folder / _file(step)), known))


def _file(step: int) -> str:
    return f"episode_{step:07d}.npz"


def _span(group: str) -> tuple[int, int]:
    """Return the first and the last step of a group."""
    first, last, *_ = group.split("-")
    return int(first), int(last)
