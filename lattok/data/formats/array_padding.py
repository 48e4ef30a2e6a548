"""Rows that only fill arrays up to a common length, as a mask or a length beside them says."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import EACH_LENGTH
from lattok.data.formats.array_store import plain

MASKS = ("mask", "masks", "valid", "is_valid", "valid_mask", "attention_mask", "existence_mask")
MASKS += ("pad_mask", "padding_mask", "is_pad", "padding")
LENGTHS = ("length", "ep_len", "episode_len", "episode_length", "traj_len", "traj_length", "trajectory_length")
LENGTHS += ("lengths", "lens", *EACH_LENGTH)
LENGTHS += ("num_steps", "n_steps", "num_frames", "n_frames", "seq_len", "sequence_length")


def whole_rows(
    found: Mapping[str, Any], path: str, attributes: Mapping[str, Any], sure: bool = False
) -> tuple[int, str]:
    """Return how many rows of the array at `path` are an episode, and what says so: all rows and "" where nothing does.

    `found` are arrays by path, `attributes` those of their group. A mask that changes once, or a number of rows, is
    believed where the action is 0 in all further rows, or stays as it was, and is not so before; or where it is `sure`
    that all episodes have rows up to the longest.
    """
    rows = found[path].shape[0]
    told = [each for each in found if each != path and each.rpartition("/")[2] in (*MASKS, *LENGTHS)]
    told += [name for name in LENGTHS if name in attributes and name not in told]
    known = ((name, _end(found.get(name, attributes.get(name)), name, rows)) for name in told)
    ends = {name: end for name, end in known if 0 < end < rows}
    if ends:
        values = np.asarray(found[path][:]).reshape(rows, -1)
        for name, end in ends.items():
            tail, last = values[end:], values[end - 1]
            if sure or (tail == last).all() or (not tail.any() and values[:end].any()):
                return end, name
    return rows, ""


def is_plain_mask(array: Any, path: str, rows: int) -> bool:
    """Return whether a mask says that all rows count, or none."""
    if (
        path.rpartition("/")[2] not in MASKS
        or array.shape not in ((rows,), (rows, 1))
        or array.dtype.kind not in "biuf"
    ):
        return False
    values = np.asarray(array[:])
    return bool(np.all(values == values.flat[0]) and values.flat[0] in (0, 1))


def _end(told: Any, name: str, rows: int) -> int:
    """Return the row after the last one that counts, 0 where that is not told."""
    shape = getattr(told, "shape", ())
    if name.rpartition("/")[2] in LENGTHS:
        value = plain(np.asarray(told[()] if shape in ((), (1,)) and hasattr(told, "shape") else told).reshape(-1)[:1])
        number = value[0] if shape in ((), (1,)) and len(value) and value.dtype.kind in "iuf" else 0
        return int(number) if number == int(number) else 0
    if shape not in ((rows,), (rows, 1)) or getattr(told, "dtype", np.dtype("O")).kind not in "biuf":
        return 0
    values = np.asarray(told[:]).reshape(-1)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return int(changes[0]) if len(changes) == 1 and np.isin(values, (0, 1)).all() else 0
