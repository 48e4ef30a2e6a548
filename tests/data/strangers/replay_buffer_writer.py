"""Writes Diffusion Policy's replay buffers: an uncompressed zarr v2 store, an array in one chunk.

Written for the contract test of writers, as a package of somebody else would be.
"""

import json

import numpy as np

from lattok.data.writers import DatasetWriter


class ReplayBufferWriter(DatasetWriter):
    kind = "zarr"
    text = "replay buffers of Diffusion Policy"

    def __init__(self):
        self.arrays, self.ends = {}, [0]

    def add_episode(self, columns, frames, task, length):
        pixels = {key: np.concatenate([*blocks]) for key, blocks in frames.items()}
        for key, values in {**columns, **pixels}.items():
            self.append(f"data/{key}", np.asarray(values))
        self.ends.append(self.ends[-1] + length)
        self.append("meta/episode_ends", np.array(self.ends[-1:]))

    def append(self, name, values):
        shape = self.arrays.setdefault(name, [0, *values.shape[1:]])
        shape[0] += len(values)
        chunk = self.folder / name / ".".join("0" * len(shape))
        chunk.parent.mkdir(parents=True, exist_ok=True)
        with chunk.open("ab") as file:
            file.write(np.ascontiguousarray(values).tobytes())
        facts = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": values.dtype.str, "order": "C"}
        facts |= {"compressor": None, "filters": None, "fill_value": 0}
        (self.folder / name / ".zarray").write_text(json.dumps(facts))

    def close(self):
        for folder in (self.folder, self.folder / "data", self.folder / "meta"):
            (folder / ".zgroup").write_text('{"zarr_format": 2}')
