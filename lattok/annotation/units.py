"""Units of work, runs of whole episodes whose labels go into one file, and where finished ones wait for the next run.

.<out>.partial/lock                held by the process that works here
.<out>.partial/units/<request>/    labels of the finished units, by what was asked for
.<out>.partial/dataset/            the output while it is put together; after an exchange what it replaced
.<out>.partial/done                written when the output is complete, before it takes its place
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from lattok.data.content import facts_of, fingerprint
from lattok.data.schema import RobotDataset
from lattok.data.table_dataset import tables_of
from lattok.utils.checks import LattokError
from lattok.utils.files import json_hash, read_json, whole_file, write_json
from lattok.utils.output import DONE, MARK, Output

Labels = dict[str, np.ndarray]  # column name -> [F, *shape]
Failures = dict[str, dict[int, str]]  # prefix -> episode -> why it has no labels
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # column name -> dtype and shape of one row
Rows = Callable[[int, int], Labels]  # rows [first, last) of a file
SIDECAR_PATH = "labels/file-{:03d}.parquet"
SIDECAR_ROWS = 2**20  # per file
FAILED = "failed"  # next to the columns of a unit, all of which have a dot in their names
DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, KeyError)  # what reading a damaged unit raises
UNITS = "units"
HEADERS = Lock()  # numpy parses them as Python, which fails at times in two threads of Python 3.11


class Unit(NamedTuple):  # a run of whole episodes whose labels go into one file: the unit of work
    number: int
    file: str  # relative to the dataset: the data file with these rows, or the sidecar's
    first: int  # rows [first, last) of the file
    last: int
    episodes: tuple[int, ...]  # in the file's order
    lengths: tuple[int, ...]  # frames of each


class UnitLabels(NamedTuple):
    """Labels of a unit: by column the rows of the episodes that could be labelled, and why others were not."""

    rows: Labels
    failures: Failures
    strange: int = 0  # failures that say nothing about the data, such as a lost device


def plan_units(dataset: RobotDataset, frames: int) -> list[Unit]:
    """Return runs of whole episodes of at most `frames` (a longer one is a unit of its own), file by file."""
    source = tables_of(dataset)
    layout = _sidecar_layout(dataset) if source is None else source.label_layout()
    units: list[Unit] = []
    for file, rows in layout:
        groups: list[list[tuple[int, int, int]]] = []  # of episode, first row, last row
        for index, first, last in rows:
            if not groups or last - groups[-1][0][1] > frames:
                groups.append([])
            groups[-1].append((index, first, last))
        for group in groups:
            episodes, starts, ends = zip(*group, strict=True)
            lengths = tuple(end - start for start, end in zip(starts, ends, strict=True))
            units.append(Unit(len(units), file, starts[0], ends[-1], episodes, lengths))
    return units


def _sidecar_layout(dataset: RobotDataset) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield files of about a million rows with their episodes, in order."""
    number, end, rows = 0, 0, []
    for episode in dataset.episodes:
        if end >= SIDECAR_ROWS:
            yield SIDECAR_PATH.format(number), rows
            number, end, rows = number + 1, 0, []
        rows.append((episode.index, end, end + episode.length))
        end += episode.length
    yield SIDECAR_PATH.format(number), rows


def unit_keys(dataset: RobotDataset, units: Sequence[Unit]) -> list[str]:
    """Hash the episodes of each unit, and size and modification time of the files they are read from. A file that is
    repaired changes the keys of its own units only, wherever their rows then are."""
    facts, keys = cache(partial(facts_of, dataset)), []
    for unit in units:
        files = dict.fromkeys(path for index in unit.episodes for path in dataset.files_of(index))
        parts = [unit.episodes, unit.lengths, *map(facts, files)]
        keys.append(json_hash(parts)[:16])
    return keys


class Staging(Output):
    """The folder for the output `out`; `request` is the hash of what was asked for."""

    def __init__(self, out: Path, request: str):
        super().__init__(out)
        self.request = request
        self.units = self.work / UNITS / request[:16]

    def has(self, key: str) -> bool:
        """Return whether all labels of a unit are there; one with failures is worth another try."""
        failures = self.failures(key)
        return failures is not None and not any(failures.values())

    def store(self, key: str, rows: Labels, failures: Failures) -> None:
        flat = [(prefix, str(index), why) for prefix, part in failures.items() for index, why in part.items()]
        failed = np.array(flat, dtype=str).reshape(-1, 3)
        with whole_file(self._path(key)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{FAILED: failed, **rows})  # type: ignore[arg-type]

    def load(self, key: str) -> UnitLabels:
        try:
            with HEADERS, open(self._path(key), "rb") as file, np.load(file, allow_pickle=False) as stored:
                return UnitLabels({name: stored[name] for name in stored if name != FAILED}, _failures(stored))
        except DAMAGED:
            self._path(key).unlink()
            message = f"{self._path(key)} was damaged since it was written, and is removed. Run the same command again."
            raise LattokError(message) from None

    def failures(self, key: str) -> Failures | None:
        """Return what is missing in a unit, and why; None where the unit is not there. Reads nothing else."""
        try:
            with open(self._path(key), "rb") as file, np.load(file, allow_pickle=False) as stored:
                return _failures(stored)
        except (FileNotFoundError, *DAMAGED):
            return None

    def row_reader(self, units: Sequence[Unit], keys: Sequence[str], shapes: Shapes) -> Rows:
        """Return `rows(first, last)` of one file from the units that cover it; it holds one unit in memory."""
        held: dict[int, Labels] = {}

        def rows(first: int, last: int) -> Labels:
            parts = []
            for unit, key in zip(units, keys, strict=True):
                if unit.first < last and first < unit.last:
                    if unit.number not in held:
                        held.clear()
                        held[unit.number] = _filled(unit, self.load(key), shapes)
                    low, high = max(first, unit.first) - unit.first, min(last, unit.last) - unit.first
                    parts.append({name: values[low:high] for name, values in held[unit.number].items()})
            return {name: np.concatenate([part[name] for part in parts]) for name in shapes}

        return rows

    def publish_as(self, record: Mapping[str, Any]) -> None:
        """Publish the dataset, about which `record` says more. After a kill at any point the next run finishes it."""
        mark, replaced = fingerprint(self.made, linked=True), self.published()
        done = {"made_by": MARK.strip(), "request": self.request, "mark": mark, **record}
        if replaced is not None:  # which still lies there if the process is killed now
            done["replaced"] = {name: value for name, value in replaced.items() if name != "replaced"}
        write_json(self.work / DONE, done)
        self.publish()

    def published(self) -> dict[str, Any] | None:
        """Return the record of what lies at `out`, if it is the untouched result of an earlier run of this request."""
        if not (self.work / DONE).is_file() or not self.place.exists():
            return None
        done, mark = read_json(self.work / DONE), fingerprint(self.place, linked=True)
        records = [done, *([done["replaced"]] if "replaced" in done else [])] if done["request"] == self.request else []
        return next((record for record in records if record["mark"] == mark), None)

    def holds_labels(self) -> bool:
        return any(self.units.glob("*.npz"))

    def is_new(self) -> bool:
        """Return whether nothing here is worth keeping: no labels of any request, no record of an output."""
        return not any((self.work / UNITS).glob("*/*.npz")) and not (self.work / DONE).exists()

    def _path(self, key: str) -> Path:
        return self.units / f"{key}.npz"


def _filled(unit: Unit, stored: UnitLabels, shapes: Shapes) -> Labels:
    """Return labels of all rows of a unit: where there are none, codes are -1, vectors 0, and nothing is valid."""
    rows: Labels = {}
    for name, (dtype, shape) in shapes.items():
        failed = next((part for prefix, part in stored.failures.items() if name.startswith(prefix + ".")), {})
        labelled = np.repeat([index not in failed for index in unit.episodes], unit.lengths)
        rows[name] = np.full((len(labelled), *shape), -1 if name.endswith(".codes") else 0, dtype=dtype)
        if labelled.any():
            found = stored.rows[name]
            if (str(found.dtype), found.shape[1:] or (1,)) != (dtype, shape):
                got, wanted = f"{found.dtype} {list(found.shape[1:])}", f"{dtype} {list(shape)} as in other episodes"
                raise LattokError(f"`{name}`: expected {wanted}, got {got} in episode {unit.episodes[0]} or after it.")
            rows[name][labelled] = found.reshape(-1, *shape)
    return rows


def _failures(stored: Mapping[str, np.ndarray]) -> Failures:
    failures: Failures = {}
    for prefix, index, why in stored[FAILED].tolist():
        failures.setdefault(prefix, {})[int(index)] = why
    return failures
