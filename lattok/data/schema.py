"""What lattok expects of a dataset, whatever its format: the protocol, its features, camera names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lattok import checks
from lattok.types import Episode

FrameTransform = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, 3] to uint8 [n, h, w, 3]
Progress = Callable[[int, int], None]  # frames done, frames in all

IMAGE_DTYPES = ("video", "image")
INDEX_KEYS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class Feature(NamedTuple):
    """One feature of a dataset, e.g. `Feature("float32", (4,), ("x", "y", "z", "gripper"))`."""

    dtype: str  # a numpy name, "string", "video" or "image"
    shape: tuple[int, ...]
    names: tuple[str, ...] | None  # one per dimension of a vector, where the dataset has them


class Damage(NamedTuple):
    """An episode that cannot be read at all, and why."""

    episode_index: int
    reason: str


class RobotDataset(Protocol):
    """Demonstrations: episodes of frames, each with numeric columns and camera images.

    Every format is one class of this protocol. Reading is safe from several threads, and a dataset can be pickled: a
    worker on another machine reads the same paths.
    """

    @property
    def kind(self) -> str:
        """Format: lerobot, rlds, video or hdf5."""
        ...

    @property
    def root(self) -> Path:
        """Folder of the dataset, or its only file."""
        ...

    @property
    def robot(self) -> str | None:
        """Kind of robot, where the dataset says."""
        ...

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Episodes that are not among `episodes` because their length cannot be told. Their indices stay free."""
        ...

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        """Files that the rows and frames of an episode are read from."""
        ...

    @property
    def name(self) -> str:
        """Short name for titles and messages."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second."""
        ...

    @property
    def features(self) -> dict[str, Feature]:
        """All features by key."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Language instructions; `task_index` counts in this order."""
        ...

    @property
    def episodes(self) -> Sequence[Episode]:
        """All episodes, by `episode_index`."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Full keys of the cameras."""
        ...

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of one episode: [T] for scalars (shape (1,)), else [T, *shape]."""
        ...

    def frames(
        self,
        episode_index: int,
        cameras: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform: FrameTransform | None = None,
    ) -> np.ndarray:
        """Images of one episode, uint8 [T, V, H, W, 3]; `transform` acts on blocks [n, H, W, 3] as they are decoded."""
        ...


def camera_keys(dataset: RobotDataset, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Full keys of the cameras called `names`, in that order; all cameras by default.

    A short name is the end of a key after a dot: "corner2" is "observation.images.corner2".
    """
    if not dataset.cameras:
        raise checks.LattokError(f"dataset `{dataset.name}` has no cameras. Choose a dataset with images.")
    if names is None:
        return dataset.cameras
    if isinstance(names, str):
        checks.fail("cameras", "a sequence of names", repr(names), f"Write ({names!r},).")
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        hint = "Frame indices come after the cameras: frames(episode_index, None, indices)."
        checks.fail("cameras", "names of cameras", f"{names!r:.60}", hint)
    keys = tuple(_camera_key(dataset, name) for name in names)
    if not keys or len(set(keys)) != len(keys):
        checks.fail("cameras", "one or more different names", repr(list(names)))
    return keys


def _camera_key(dataset: RobotDataset, name: str) -> str:
    found = [key for key in dataset.cameras if key == name] or [
        key for key in dataset.cameras if key.endswith("." + name)
    ]
    if len(found) != 1:
        short = ", ".join(key.rsplit(".", 1)[-1] for key in dataset.cameras)
        checks.fail("cameras", f"names among {short}", repr(name))
    return found[0]


def vector_key(dataset: RobotDataset, argument: str, key: str) -> Feature:
    """The feature `key`, which must be a numeric scalar or vector; otherwise an error that lists the candidates."""
    candidates = [
        name
        for name, feature in dataset.features.items()
        if feature.dtype.startswith(("float", "int")) and len(feature.shape) == 1 and name not in INDEX_KEYS
    ]
    if key not in candidates:
        checks.fail(argument, "one of " + (checks.listed(candidates) or "(no vector in this dataset)"), f"{key!r:.200}")
    return dataset.features[key]


def dimension_names(feature: Feature) -> tuple[str, ...]:
    """A name for each dimension of a vector: the dataset's own, or its number."""
    return feature.names or tuple(str(i) for i in range(feature.shape[0]))
