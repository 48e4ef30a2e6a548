"""Writes RLDS datasets without TensorFlow, as `tfds.builder_from_directory` reads them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data.formats import rlds_meta as meta
from lattok.data.formats.tfrecord import encode_example, framed
from lattok.data.image_writer import EpisodeFrames, Frames
from lattok.data.schema import Feature
from lattok.data.writers import DatasetWriter
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import sync_files, write_json
from lattok.utils.output import Output

VERSION = "1.0.0"
SHARD_BYTES = 200 * 2**20  # a file is closed once it is larger


class RLDSWriter(DatasetWriter):
    """Writes episodes into the new folder `root`, as version 1.0.0 of a dataset of its name.

    Cameras are stored as encoded images. What RLDS has no place for, the frame rate above all, is in lattok.json.
    """

    kind = "rlds"
    text = "RLDS"
    stores = ("image",)

    def __init__(self, root: str | Path, fps: float, features: Mapping[str, Feature]):
        """Use `create`, which makes the folder."""
        checks.frame_rate(fps=fps)
        for key, feature in features.items():
            if feature.dtype not in (*meta.WHOLE_NUMBERS, *meta.REALS, "string", "image"):
                checks.fail(key, "numbers, text or images", feature.dtype)
        self.name = re.sub(r"\W", "_", Path(root).name, flags=re.ASCII).lower()  # as TFDS names datasets
        self._features, self._paths = dict(features), meta.record_names(features)
        self._facts: dict[str, Any] = {"fps": fps}
        self._shards: list[list[int]] = []  # of each file: episodes, bytes
        self._folder = Path(root) / VERSION

    @classmethod
    def check_place(cls, out: Path) -> None:
        Output(out).check_new()

    @classmethod
    @contextmanager
    def create(
        cls, root: str | Path, fps: float, features: Mapping[str, Feature], **unused: Any
    ) -> Iterator["RLDSWriter"]:
        """Write at `root` as long as the `with` lasts; an error removes all of it."""
        writer = cls(root, fps, features)
        with Output(root).filled((VERSION,)):
            writer._folder.mkdir()
            yield writer
            writer._finish()

    def add_episode(
        self, columns: Mapping[str, Any], frames: Mapping[str, Frames], task: str | Sequence[str], length: int
    ) -> None:
        """Append an episode of T steps: columns [T, *shape], frames as `LeRobotWriter.add_episode` takes images."""
        values: dict[str, list[bytes] | np.ndarray] = {}
        for key, column in columns.items():
            values[self._paths[key]] = np.asarray(column)
            if self._features[key].dtype == "string":
                values[self._paths[key]] = [b"" if each is None else str(each).encode() for each in column]
        for key, given in frames.items():
            values[self._paths[key]] = EpisodeFrames(key, self._features[key].shape, given, length).images()
        steps = np.arange(length)
        values = dict(zip(meta.MARKS, (steps == 0, steps == length - 1, steps == length - 1), strict=True)) | values
        texts = [task] * length if isinstance(task, str) else task
        values.setdefault(meta.INSTRUCTION, [text.encode() for text in texts])
        data = encode_example({f"steps/{name}": value for name, value in values.items()})
        if not self._shards or self._shards[-1][1] > SHARD_BYTES:
            self._shards.append([0, 0])
        with open(self._folder / str(len(self._shards) - 1), "ab") as file:
            file.writelines(framed(data))
        self._shards[-1][0] += 1
        self._shards[-1][1] += len(data)

    def write_meta(self, name: str, value: Mapping[str, Any]) -> None:
        """Put facts of your own into lattok.json, under the stem of `name`."""
        self._facts[Path(name).stem] = value

    def write_subtasks(self, texts: Sequence[str]) -> None:
        self._facts["subtasks"] = list(texts)

    def _finish(self) -> None:
        if not self._shards:
            raise LattokError("nothing to write: call `add_episode` first.")
        count = len(self._shards)
        for number in range(count):
            name = meta.file_name(self._folder, meta.TEMPLATE, self.name, "train", number, count)
            (self._folder / str(number)).rename(self._folder / name)
        episodes, sizes = zip(*self._shards, strict=True)
        split = {"name": "train", "shardLengths": [str(n) for n in episodes], "numBytes": str(sum(sizes))}
        about: dict[str, Any] = {"name": self.name, "version": VERSION, "fileFormat": "tfrecord"}
        about["splits"] = [{**split, "filepathTemplate": meta.TEMPLATE}]
        write_json(self._folder / "dataset_info.json", about)
        write_json(self._folder / "features.json", meta.described(self._features, self._paths))
        write_json(self._folder / meta.LATTOK, self._facts)
        sync_files(self._folder)
