"""Numeric columns of many episodes in one array, which may be filled while they are used."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from lattok.data.many import sample_of
from lattok.data.schema import RobotDataset, dimension_names, vector_key
from lattok.types import Episode
from lattok.utils import checks

REPAIR = "Repair it; training and evaluation can also leave the episode out with `episodes`."
INFER = "Infer them first: lattok annotate DATASET --model IDM --as actions --out DIR. Or leave it out: `episodes`."


class Vectors:
    """A numeric column of several episodes, one after the other, float32 [F, m]. NaN and infinity are errors.

    With `missing`, an episode in which every number is NaN has unknown values: it stays NaN. With `scattered`, so does
    each row in which every number is NaN. A caller that also decodes the images may leave the check of files to that
    (not `checked`): see `RobotDataset.columns_of`.

    Where a sample speaks for all (see `many`), only it is read at first, and other episodes when `at` asks for them. If
    values of the sample are unknown, all are read at once; if none are, an unknown episode is an error. `whole` tells
    whether all was read at once, `sampled` [F] which rows were.
    """

    def __init__(
        self,
        dataset: RobotDataset,
        argument: str,
        key: str,
        episodes: Sequence[Episode],
        checked: bool = True,
        missing: bool = False,
        scattered: bool = False,
    ):
        self._feature = vector_key(dataset, argument, key)
        self._dataset, self._key, self._episodes, self._checked = dataset, key, episodes, checked
        self._hint = INFER if argument == "action_key" else REPAIR
        self._ends = np.array([*accumulate(episode.length for episode in episodes)], dtype=np.int64)
        self._place = {episode.index: place for place, episode in enumerate(episodes)}
        checks.size("episodes", "different episodes", len(self._place), len(episodes))
        self._flat = np.empty((int(self._ends[-1]) if len(episodes) else 0, *self._feature.shape), dtype=np.float32)
        self._unread = np.ones(len(episodes), dtype=bool)
        sample, self._missing, self._scattered = sample_of(dataset, episodes), missing, scattered
        known = self._read(sample)
        self._missing = missing and not known
        if not known:
            self.all()
        self.whole = not self._unread.any()
        self.sampled = np.repeat(~self._unread, [episode.length for episode in episodes])

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [...] as [..., m]."""
        if self._unread.any():
            places = np.unique(np.searchsorted(self._ends, rows.reshape(-1), side="right"))
            self._read([self._episodes[place] for place in places[self._unread[places]].tolist()])
        return self._flat[rows]

    def all(self) -> np.ndarray:
        """Return all rows [F, m]."""
        self._read([self._episodes[place] for place in self._unread.nonzero()[0].tolist()])
        return self._flat

    def _read(self, episodes: Sequence[Episode]) -> bool:
        """Read episodes, and tell whether all of their values are known."""
        known = True
        for index, columns in self._dataset.columns_of(episodes, [self._key], self._checked):
            if isinstance(columns, checks.LattokError):
                raise columns
            place = self._place[index]
            end = int(self._ends[place])
            rows = self._flat[end - self._episodes[place].length : end]
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused
                rows[:] = columns[self._key].reshape(rows.shape)
            if not np.isfinite(rows).all():
                unknown = np.isnan(rows).all(1)
                whole = unknown.all() or (self._scattered and bool(np.isfinite(rows[~unknown]).all()))
                if not (self._missing and whole):
                    self._refuse(index, rows)
                known = False
            self._unread[place] = False
        return known

    def _refuse(self, index: int, rows: np.ndarray) -> None:
        values = self._dataset.columns(index, [self._key])[self._key].reshape(rows.shape)  # checked: is it damaged?
        if np.isnan(values).all():
            checks.fail(self._key, "numbers", f"NaN in all of episode {index}", self._hint)
        frame, dim = np.argwhere(~np.isfinite(rows))[0]
        place = f"episode {index}, frame {frame}, dimension {dim} ({dimension_names(self._feature)[dim]})"
        checks.fail(self._key, "finite numbers", f"{values[frame, dim]} in {place}", REPAIR)


def read_vectors(
    dataset: RobotDataset,
    argument: str,
    key: str,
    episodes: Sequence[Episode],
    checked: bool = True,
    missing: bool = False,
) -> np.ndarray:
    """Read a column of all these episodes, float32 [F, m]: see `Vectors`."""
    return Vectors(dataset, argument, key, episodes, checked, missing).all()
