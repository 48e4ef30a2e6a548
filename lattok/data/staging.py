"""A folder beside the output in which a run collects finished units, so that the next run can continue it.

.<out>.partial/lock        held by the process that works here
.<out>.partial/request     what was asked for: models, options, episodes
.<out>.partial/units/      labels of the finished units
.<out>.partial/dataset/    the output while it is put together; after an exchange what it replaced
.<out>.partial/done        written when the output is complete, before it takes its place
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattok.checks import LattokError
from lattok.data.extend import Labels, Rows, Shapes, Unit
from lattok.files import exchange, lock, read_json, sync_folder, whole_file, write_json

FAILED, REASONS = "failed episodes", "reasons"  # beside the columns of a unit; no column has a space in its name


class Stored(NamedTuple):
    """A unit as it lies in the folder."""

    rows: Labels  # of the episodes that have labels, in order
    failures: dict[int, str]  # episode -> reason


class Busy(LattokError):
    """Somebody else is at work."""


class Staging:
    """The folder; `request` says what its contents belong to."""

    def __init__(self, out: Path, request: str):
        self.out, self.request = out, request
        self.folder = out.with_name(f".{out.name}.partial")
        self.dataset = self.folder / "dataset"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            if not lock(file, wait=False):
                raise Busy(
                    f"`out`: expected a folder that nobody else annotates, got {self.out}: another process is at it."
                )
            yield

    def prepare(self) -> None:
        """Keep what an interrupted run of the same request left; drop what another one left."""
        if not self._holds("request", self.request):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != "lock":
                    path.unlink()
        with whole_file(self.folder / "request") as temporary:
            temporary.write_text(self.request)

    def has(self, unit: Unit, key: str) -> bool:
        """Whether all labels of a unit are there; one with failures is worth another try."""
        return self._path(unit, key).exists() and not self.failures(unit, key)

    def store(self, unit: Unit, key: str, rows: Labels, failures: dict[int, str]) -> None:
        """Keep the labels of a unit, whole or not at all."""
        failed = {
            FAILED: np.array(list(failures), dtype=np.int64),
            REASONS: np.array(list(failures.values()), dtype=str),
        }
        with whole_file(self._path(unit, key)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **rows, **failed)  # type: ignore[arg-type]  # a column cannot be called `allow_pickle`

    def load(self, unit: Unit, key: str) -> Stored:
        """What was stored of a unit."""
        with np.load(self._path(unit, key), allow_pickle=False) as stored:
            return Stored({name: stored[name] for name in stored if name not in (FAILED, REASONS)}, _failures(stored))

    def failures(self, unit: Unit, key: str) -> dict[int, str]:
        """Episodes of a unit without labels, and why; reads nothing else."""
        with np.load(self._path(unit, key), allow_pickle=False) as stored:
            return _failures(stored)

    def row_reader(self, units: Sequence[Unit], keys: Sequence[str], shapes: Shapes) -> Rows:
        """`rows(first, last)` of one file from the units that cover it; holds one unit in memory."""
        held: dict[int, Labels] = {}

        def rows(first: int, last: int) -> Labels:
            parts = []
            for unit, key in zip(units, keys, strict=True):
                if unit.first < last and first < unit.last:
                    if unit.number not in held:
                        held.clear()
                        held[unit.number] = filled(unit, self.load(unit, key), shapes)
                    low, high = max(first, unit.first) - unit.first, min(last, unit.last) - unit.first
                    parts.append({name: values[low:high] for name, values in held[unit.number].items()})
            return {name: np.concatenate([part[name] for part in parts]) for name in shapes}

        return rows

    def begin_assembly(self, state: str) -> None:
        """Keep files that were put together from this same state of source and labels, and only those."""
        if not self._holds("assembled", state):
            shutil.rmtree(self.dataset, ignore_errors=True)
            with whole_file(self.folder / "assembled") as temporary:
                temporary.write_text(state)

    def publish(self, mark: str, replaces: str | None, in_place: bool) -> None:
        """Move the dataset to `out`, or let them change places: in place, or where it replaces an earlier result.

        `mark` tells it from others, `replaces` is the earlier result's. A kill at any point leaves a state that the
        next run finishes.
        """
        marks = [mark] if replaces is None or in_place else [mark, replaces]
        write_json(self.folder / "done", {"request": self.request, "marks": marks})
        if in_place or replaces is not None:
            exchange(self.dataset, self.out)
        else:
            os.rename(self.dataset, self.out)
        sync_folder(self.out.parent)

    def published(self, mark: str | None) -> bool:
        """Whether what lies at `out`, with this mark, is the result of an earlier run of this request."""
        if mark is None or not (self.folder / "done").is_file():
            return False
        done = read_json(self.folder / "done")
        return done["request"] == self.request and mark in done["marks"]

    def remove(self, but_units: bool = False) -> None:
        """Delete the folder, its marks last; with `but_units` labels stay, for a run that fills gaps."""
        shutil.rmtree(self.dataset, ignore_errors=True)
        with suppress(OSError):  # not there, or a disk that refuses
            (self.folder / "assembled").unlink()
        if not but_units:
            shutil.rmtree(self.folder / "units", ignore_errors=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def holds_labels(self) -> bool:
        """Whether any unit is there."""
        return any((self.folder / "units").glob("*.npz"))

    def _holds(self, name: str, text: str) -> bool:
        mark = self.folder / name
        return mark.is_file() and mark.read_text() == text

    def _path(self, unit: Unit, key: str) -> Path:
        return self.folder / "units" / f"{unit.number:06d}-{key}.npz"


def filled(unit: Unit, stored: Stored, shapes: Shapes) -> Labels:
    """Labels of all rows of a unit: where there are none, codes are -1, vectors 0, and nothing is valid."""
    labelled = np.repeat([index not in stored.failures for index in unit.episodes], unit.lengths)
    rows: Labels = {}
    for name, (dtype, shape) in shapes.items():
        rows[name] = np.full((len(labelled), *shape), -1 if name.endswith(".codes") else 0, dtype=dtype)
        if labelled.any():
            rows[name][labelled] = stored.rows[name].reshape(-1, *shape)
    return rows


def _failures(stored: Mapping[str, np.ndarray]) -> dict[int, str]:
    return dict(zip(stored[FAILED].tolist(), stored[REASONS].tolist(), strict=True))


def shapes_of(rows: Labels) -> Shapes:
    """Dtype and shape of one row of every column."""
    return {name: (str(values.dtype), values.shape[1:] or (1,)) for name, values in rows.items()}
