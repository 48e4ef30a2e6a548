"""Pictures of a camera that are an array each, `rgb/0`, `rgb/1`, ...: they are read as one array."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lattok.data.images import BEGINNINGS

NUMBERED = re.compile(r"(?:(?:frame|im|img|image|rgb|color|step|t)_?)?(\d+)", re.I)
FEWEST = 5  # pictures of a camera: fewer may be pictures of several cameras
MOST_AXES = 3


class PictureArrays:
    """Arrays of one picture each, encoded or of pixels, as one array of all."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts
        first = parts[0]
        pixels = len(first.shape) == MOST_AXES
        self.dtype = first.dtype if pixels else np.dtype(object)
        self.shape = (len(parts), *(first.shape if pixels else ()))

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows, *inner = rows if isinstance(rows, tuple) else (rows,)
        chosen = [self.parts[row] for row in np.arange(len(self.parts))[rows]]
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for i, part in enumerate(chosen):
            found[i] = bytes(part[()]) if self.dtype.kind == "O" else part[()]
        return found[(slice(None), *inner)]


def with_frames(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays by path, of which pictures that are an array each are one."""
    groups: dict[str, dict[int, str]] = {}
    for path in found:
        group, _, name = path.rpartition("/")
        if group and (match := NUMBERED.fullmatch(name)) is not None:
            groups.setdefault(group, {})[int(match[1])] = path
    frames = {
        group: paths for group, paths in groups.items() if _are_pictures([found[each] for each in paths.values()])
    }
    if not frames:
        return dict(found)
    gone = {path for paths in frames.values() for path in paths.values()}
    made = {group: PictureArrays([found[paths[number]] for number in sorted(paths)]) for group, paths in frames.items()}
    return {path: array for path, array in found.items() if path not in gone} | made


def _are_pictures(arrays: Sequence[Any]) -> bool:
    """Return whether arrays are a picture each: of pixels of one shape, or a JPEG or PNG."""
    first = arrays[0]
    if len(arrays) < FEWEST or len({(array.dtype.kind, len(array.shape)) for array in arrays}) > 1:
        return False
    if first.dtype == np.uint8 and len(first.shape) == MOST_AXES:
        return first.shape[-1] == 3 and len({array.shape for array in arrays}) == 1
    encoded = (first.dtype == np.uint8 and len(first.shape) == 1) or (first.dtype.kind in "SV" and first.shape == ())
    return bool(encoded and first.shape != (0,) and bytes(first[()]).startswith(BEGINNINGS))
