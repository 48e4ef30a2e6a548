"""Diffusion Policy's replay buffers, as somebody else's package: zarr v2 without compression, all episodes in a row."""

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np

from lattok.data import Feature, RobotDataset
from lattok.types import Episode

KEYS = {"state": "observation.state", "img": "observation.images.img"}  # other arrays keep their names


class Array:
    """An array of a store, cut into chunks along its first axis alone."""

    def __init__(self, folder: Path):
        facts = json.loads((folder / ".zarray").read_text())
        self.folder, self.shape, self.chunks = folder, tuple(facts["shape"]), tuple(facts["chunks"])
        self.dtype = np.dtype(facts["dtype"])

    def __getitem__(self, rows: slice) -> np.ndarray:
        size, inner = self.chunks[0], ["0"] * (len(self.shape) - 1)
        numbers = range(rows.start // size, -(-rows.stop // size))
        read = [np.fromfile(self.folder / ".".join([str(i), *inner]), self.dtype) for i in numbers]
        first = numbers.start * size
        return np.concatenate(read).reshape(-1, *self.shape[1:])[rows.start - first : rows.stop - first]


class ReplayBuffer(RobotDataset):
    kind = "zarr"
    text = "zarr replay buffers (meta/episode_ends)"
    options = MappingProxyType({"fps": float})

    @classmethod
    def recognise(cls, folder: Path):
        return [folder] if (folder / "meta/episode_ends/.zarray").is_file() else []

    def __init__(self, root: Path, name: str | None = None, *, fps: float = 10.0):
        self.root, self.name, self.fps, self.tasks = root, name or root.stem, fps, ("push the block",)
        ends = Array(root / "meta/episode_ends")
        self.ends = [0, *ends[0 : ends.shape[0]].tolist()]
        folders = [path for path in sorted((root / "data").iterdir()) if (path / ".zarray").is_file()]
        self.arrays = {KEYS.get(path.name, path.name): Array(path) for path in folders}
        shapes = {key: array.shape[1:] or (1,) for key, array in self.arrays.items()}
        self.cameras = tuple(key for key, shape in shapes.items() if len(shape) == 3)
        dtypes = {key: "image" if key in self.cameras else array.dtype.name for key, array in self.arrays.items()}
        self.features = {key: Feature(dtypes[key], shape, None) for key, shape in shapes.items()}
        self.episodes = [Episode(i, stop - start, self.tasks) for i, (start, stop) in enumerate(self.spans())]

    def spans(self):
        return list(zip(self.ends, self.ends[1:], strict=False))

    def columns(self, episode_index, keys):
        self.check_columns(keys)
        return {key: self.arrays[key][slice(*self.spans()[episode_index])] for key in keys}

    def blocks(self, episode_index, camera, indices):
        yield self.arrays[camera][slice(*self.spans()[episode_index])][indices]
