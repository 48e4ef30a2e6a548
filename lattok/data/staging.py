"""A folder beside the output in which a run collects finished units, so that the next run can continue it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lattok.data.extend import Labels, Unit
from lattok.files import sync_folder, whole_file


class Staging:
    """The folder `.<out>.partial` with finished units and then the dataset; `plan` says what they belong to."""

    def __init__(self, out: Path, plan: str):
        self.out, self.plan = out, plan
        self.folder = out.with_name(f".{out.name}.partial")
        self.dataset = self.folder / "dataset"

    def finished(self) -> bool:
        """Whether a run of this plan was killed after it had moved the dataset to `out`."""
        return self.out.exists() and not self.dataset.exists() and self._stored("done")

    def prepare(self) -> None:
        """Keep what an interrupted run of the same plan left; drop what another plan left."""
        if not self._stored("plan"):
            shutil.rmtree(self.folder, ignore_errors=True)
        with whole_file(self.folder / "plan") as temporary:
            temporary.write_text(self.plan)

    def has(self, unit: Unit) -> bool:
        """Whether the labels of a unit are there."""
        return self._path(unit).exists()

    def store(self, unit: Unit, labels: Labels) -> None:
        """Keep the labels of a unit, whole or not at all."""
        with whole_file(self._path(unit)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **labels)  # type: ignore[arg-type]  # a column cannot be called `allow_pickle`

    def load(self, unit: Unit) -> Labels:
        """Labels of a unit."""
        with np.load(self._path(unit), allow_pickle=False) as stored:
            return dict(stored)

    def row_reader(self, units: list[Unit]) -> Callable[[int, int], Labels]:
        """`rows(first, last)` of one data file from the units that cover it; holds one unit in memory."""
        held: dict[int, Labels] = {}

        def rows(first: int, last: int) -> Labels:
            parts = []
            for unit in units:
                if unit.first < last and first < unit.last:
                    if unit.number not in held:
                        held.clear()
                        held[unit.number] = self.load(unit)
                    low, high = max(first, unit.first) - unit.first, min(last, unit.last) - unit.first
                    parts.append({name: values[low:high] for name, values in held[unit.number].items()})
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        return rows

    def publish(self) -> None:
        """Move the dataset to `out` and clean up. A kill at any point leaves a state that the next run finishes."""
        with whole_file(self.folder / "done") as temporary:
            temporary.write_text(self.plan)
        os.rename(self.dataset, self.out)
        sync_folder(self.out.parent)
        self.remove()

    def remove(self) -> None:
        """Delete the folder, its mark last."""
        for name in ("dataset", "units"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stored(self, name: str) -> bool:
        mark = self.folder / name
        return mark.is_file() and mark.read_text() == self.plan

    def _path(self, unit: Unit) -> Path:
        return self.folder / "units" / f"{unit.number:06d}.npz"
