"""Actions of films whose numbers lie beside them: `action` of 7.npz, a row for each frame of 7.mp4."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np

from lattok.data.formats.array_layouts import NAMED_ARRAYS
from lattok.data.formats.array_listing import Demo, list_contents
from lattok.data.formats.array_rows import REALS, StoredArray
from lattok.data.formats.npz import NpzDataset
from lattok.utils.checks import LattokError, counted, listed, note, refuse

ACTION = "action"


class FilmNumbers(NamedTuple):
    """The files with known actions, by episode, and how many numbers an action has."""

    files: dict[int, Path]
    width: int = 0
    dtype: str = "float32"

    @classmethod
    def beside(cls, films: Mapping[int, Path], lengths: Mapping[int, int]) -> "FilmNumbers":
        """Find them; films are files by episode, and `lengths` counts their frames. A file whose actions have another
        width than most, or not a row for each frame, has none."""
        places = ((index, film.with_suffix(".npz")) for index, film in films.items())
        found = {index: (place, _actions(place, lengths[index])) for index, place in places if place.is_file()}
        if not (known := {index: (place, array) for index, (place, array) in found.items() if array is not None}):
            return cls({})
        width = mode(array.shape[0] for _, array in known.values())
        known = {index: each for index, each in known.items() if each[1].shape[0] == width}
        if others := [str(place) for index, (place, _) in found.items() if index not in known]:
            note(
                f"{counted(len(others), 'file')} beside films not read, so these actions count as unknown: "
                f"{listed(others)}. Each needs an array `{ACTION}` with a row of {width} for each frame of its film."
            )
        dtype = np.result_type(*(array.dtype for _, array in known.values())).name
        return cls({index: place for index, (place, _) in known.items()}, width, dtype)

    def read(self, episode: int, length: int) -> np.ndarray:
        """Return the actions [T, m] of an episode; NaN where they are unknown."""
        if episode not in self.files:
            return np.full((length, self.width), np.nan, self.dtype)
        with NpzDataset.opened(self.files[episode], f" (episode {episode})") as store:
            (array,) = (store.array(name) for name in store.nodes() if NAMED_ARRAYS.column(name) == ACTION)
            rows = np.asarray(array[:])
        if rows.shape != (length, self.width):
            refuse(self.files[episode], f"`{ACTION}` [{length}, {self.width}]", list(rows.shape), "Open it again.")
        return rows.astype(self.dtype, copy=False)


def _actions(place: Path, length: int) -> StoredArray | None:
    """Return the array of actions of a file, where it can be read and has a row for each frame."""
    try:
        with NpzDataset.opened(place) as store:
            content = list_contents(store, (NAMED_ARRAYS,), place.parent)
    except LattokError:
        return None
    whole = [isinstance(demo, Demo) and demo.length == length for demo in content.demos] == [True]
    found = [each for each in content.arrays if each.column == ACTION and each.dtype in REALS and len(each.shape) == 1]
    return found[0] if whole and len(found) == 1 else None
