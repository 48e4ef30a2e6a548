"""RLDS as TFDS writes it, without TensorFlow: an episode is one `tf.train.Example` of all its steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lattok.data.formats.rlds_meta import KEYS, LATTOK, REALS, TEMPLATE, WHOLE_NUMBERS, file_name
from lattok.data.formats.tfrecord import encode_example, framed
from lattok.data.image_writer import EpisodeFrames, Frames
from lattok.data.schema import Feature
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.utils.output import Output

VERSION = "1.0.0"
SHARD_BYTES = 200 * 2**20  # a file is closed once it is larger
CLASSES = "tensorflow_datasets.core.features."
INSTRUCTION = "language_instruction"
MARKS = ("is_first", "is_last", "is_terminal")
_THEIRS = {ours: theirs for theirs, ours in KEYS.items()}


class RLDSWriter:
    """Writes episodes into the new folder `root`, as version 1.0.0 of a dataset of its name; `LeRobotWriter` likewise.

    Cameras are stored as encoded images. What RLDS has no place for, the frame rate above all, is in lattok.json.
    """

    def __init__(self, root: str | Path, fps: float, features: Mapping[str, Feature]):
        self.root = Path(root)
        checks.frame_rate(fps=fps)
        for key, feature in features.items():
            if feature.dtype not in (*WHOLE_NUMBERS, *REALS, "string", "image"):
                checks.fail(key, "numbers, text or images", feature.dtype)
        self.name = re.sub(r"\W", "_", self.root.name, flags=re.ASCII).lower()  # as TFDS names datasets
        self._features, self._paths = dict(features), record_names(features)
        self._facts: dict[str, Any] = {"fps": fps}
        self._shards: list[list[int]] = []  # of each file: episodes, bytes
        self._stack = ExitStack()

    @property
    def _folder(self) -> Path:
        return self.root / VERSION

    def __enter__(self) -> RLDSWriter:
        self._stack.enter_context(Output(self.root).filled((VERSION,)))
        self._folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._finish()

    def add_episode(
        self, columns: Mapping[str, Any], frames: Mapping[str, Frames], task: str | Sequence[str], length: int
    ) -> None:
        """Append an episode of T steps: columns [T, *shape], frames as `LeRobotWriter.add_episode` takes images."""
        values: dict[str, list[bytes] | np.ndarray] = {}
        for key, column in columns.items():
            text = self._features[key].dtype == "string"
            values[self._paths[key]] = [str(each).encode() for each in column] if text else np.asarray(column)
        for key, given in frames.items():
            values[self._paths[key]] = EpisodeFrames(key, self._features[key].shape, given, length).images()
        steps = np.arange(length)
        values = dict(zip(MARKS, (steps == 0, steps == length - 1, steps == length - 1), strict=True)) | values
        texts = [task] * length if isinstance(task, str) else task
        values.setdefault(INSTRUCTION, [text.encode() for text in texts])
        data = encode_example({f"steps/{name}": value for name, value in values.items()})
        if not self._shards or self._shards[-1][1] > SHARD_BYTES:
            self._shards.append([0, 0])
        with open(self._folder / str(len(self._shards) - 1), "ab") as file:
            for piece in framed(data):
                file.write(piece)
        self._shards[-1][0] += 1
        self._shards[-1][1] += len(data)

    def write_meta(self, name: str, value: Mapping[str, Any]) -> None:
        """Put facts of your own into lattok.json, under the stem of `name`."""
        self._facts[Path(name).stem] = value

    def write_subtasks(self, texts: Sequence[str]) -> None:
        """List the texts that a column `subtask_index` counts."""
        self._facts["subtasks"] = list(texts)

    def _finish(self) -> None:
        if not self._shards:
            raise LattokError("nothing to write: call `add_episode` first.")
        count = len(self._shards)
        for number in range(count):
            name = file_name(self._folder, TEMPLATE, self.name, "train", number, count)
            (self._folder / str(number)).rename(self._folder / name)
        episodes, sizes = zip(*self._shards, strict=True)
        split = {"name": "train", "shardLengths": [str(n) for n in episodes], "numBytes": str(sum(sizes))}
        about = {"name": self.name, "version": VERSION, "fileFormat": "tfrecord"}
        files.write_json(
            self._folder / "dataset_info.json", {**about, "splits": [{**split, "filepathTemplate": TEMPLATE}]}
        )
        files.write_json(self._folder / "features.json", described(self._features, self._paths))
        files.write_json(self._folder / LATTOK, self._facts)
        files.sync_files(self._folder)


def record_names(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return where each feature is in a step, such as "observation/state"; `RLDS` reads it back under its own key."""
    dotted: dict[str, str] = {}
    for key in sorted(features, key=lambda key: features[key].dtype == "image"):
        name = _THEIRS.get(key, key).replace("/", "_")
        if features[key].dtype == "image":
            name = f"observation.{name.removeprefix('observation.').removeprefix('images.')}"
            while name in dotted.values():  # a camera and a column of one name, or two cameras
                name += "_image"
        dotted[key] = name
    found: dict[str, str] = {}
    for key, name in dotted.items():
        parts = name.split(".")
        leaf = next((i for i in range(1, len(parts)) if ".".join(parts[:i]) in dotted.values()), len(parts))
        path = "/".join([*parts[: leaf - 1], "_".join(parts[leaf - 1 :])])  # below no other feature
        if path in found.values():
            checks.fail("features", f"different names in RLDS, not {path!r} twice", f"{key!r} and another")
        found[key] = path
    return found


def described(features: Mapping[str, Feature], names: Mapping[str, str]) -> dict[str, Any]:
    """Return features.json."""
    flag, text = _tensor(Feature("bool", (1,), None)), _node("text_feature.Text", text={})
    tree: dict[str, Any] = {**dict.fromkeys(MARKS, flag), INSTRUCTION: text}
    for key, feature in features.items():
        *folders, leaf = names[key].split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = text if feature.dtype == "string" else _tensor(feature)
    steps = _node("dataset_feature.Dataset", sequence={"feature": _dict(tree), "length": "-1"})
    return _dict({"steps": steps})


def _dict(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: node if "pythonClassName" in node else _dict(node) for name, node in tree.items()}
    return _node("features_dict.FeaturesDict", featuresDict={"features": inner})


def _tensor(feature: Feature) -> dict[str, Any]:
    if feature.dtype == "image":
        image = {"shape": _shape(feature.shape), "dtype": "uint8", "encodingFormat": "png"}  # or JPEG: readers look
        return _node("image_feature.Image", image=image)
    if feature.shape in ((), (1,)):
        return _node("scalar.Scalar", tensor={"shape": {}, "dtype": feature.dtype, "encoding": "none"})
    tensor = {"shape": _shape(feature.shape), "dtype": feature.dtype, "encoding": "none"}
    return _node("tensor_feature.Tensor", tensor=tensor)


def _shape(sizes: Iterable[int]) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in sizes]}


def _node(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": CLASSES + kind, **content}
