"""A dataset with some of its cameras, under other names: so that datasets and models agree about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lattok import checks
from lattok.data.schema import FrameTransform, RobotDataset, View, camera_keys

PREFIX = "observation.images."
_NAME = re.compile(re.escape(PREFIX) + r"[\w-]+(\.[\w-]+)*")


def with_cameras(dataset: RobotDataset, cameras: Sequence[str] | Mapping[str, str]) -> RobotDataset:
    """Return the dataset with these cameras only, in this order; a mapping {"front": "image_0"} gives them new names.

    Short names are allowed, as everywhere. A view: nothing is copied, and all else is the dataset's own.
    """
    return _Cameras(dataset, cameras)


class _Cameras(View):
    def __init__(self, dataset: RobotDataset, cameras: Any):
        super().__init__(dataset)
        if not isinstance(cameras, Mapping | list | tuple) or not all(isinstance(name, str) for name in cameras):
            checks.fail("cameras", 'names, or {"new name": "name"}', repr(cameras))
        renamed = isinstance(cameras, Mapping)
        keys = camera_keys(dataset, [str(key) for key in (cameras.values() if renamed else cameras)])
        names = [name if name.startswith(PREFIX) else PREFIX + name for name in cameras] if renamed else keys
        if len(set(names)) != len(names) or not all(_NAME.fullmatch(name) for name in names if renamed):
            checks.fail("cameras", "different new names of letters, digits, _, - and .", repr(list(cameras)))
        self._key_of = dict(zip(names, keys, strict=True))
        self.cameras = tuple(names)
        others = {key: feature for key, feature in dataset.features.items() if key not in dataset.cameras}
        self.features = others | {name: dataset.features[key] for name, key in self._key_of.items()}

    def frames(
        self,
        episode_index: int,
        cameras: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform: FrameTransform | None = None,
    ) -> np.ndarray:
        keys = [self._key_of[name] for name in camera_keys(self, cameras)]
        return self.dataset.frames(episode_index, keys, indices, transform)

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        return self.dataset.blocks(episode_index, self._key_of[camera], indices)

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        return self.dataset.encoded_images(episode_index, self._key_of[camera])

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float] | None:
        return self.dataset.video_span(episode_index, self._key_of[camera])

    def original_camera(self, key: str) -> str:
        return self.dataset.original_camera(self._key_of[key])
