"""A dataset with what others of a mixture have and it lacks: columns of one value, and black pictures for cameras.

Completed(films, {"action": (Feature("float32", (4,), names), nan)}, {"observation.images.front": None, ...})
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lattok.data.schema import Feature, RobotDataset
from lattok.data.views import ColumnsView


class Completed(ColumnsView):
    """A dataset with further `columns`, each of one value in all rows, also in place of its own; and with `cameras`: of
    each the dataset's own that is shown, or None for black pictures."""

    def __init__(
        self,
        dataset: RobotDataset,
        columns: Mapping[str, tuple[Feature, float]],
        cameras: Mapping[str, str | None],
    ):
        super().__init__(dataset)
        self._values = dict(columns)
        own = {key: feature for key, feature in dataset.features.items() if key not in dataset.cameras}
        self.features = own | {key: feature for key, (feature, _) in columns.items()}
        if cameras:
            self._shown, self.cameras = dict(cameras), tuple(cameras)
            size = dataset.features[next(key for key in cameras.values() if key)]
            self.features |= {name: dataset.features[key] if key else size for name, key in cameras.items()}
        else:
            self._shown = {key: key for key in dataset.cameras}
            self.features |= {key: dataset.features[key] for key in dataset.cameras}

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key not in self._values]

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: self._column(episode_index, key) if key in self._values else read[key] for key in keys}

    def _column(self, episode_index: int, key: str) -> np.ndarray:
        feature, value = self._values[key]
        shape = () if feature.shape == (1,) else feature.shape
        return np.full((self.length(episode_index), *shape), value, dtype=feature.dtype)

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        if (key := self._shown[camera]) is not None:
            yield from self.dataset.blocks(episode_index, key, indices)
            return
        seen = next(key for key in self._shown.values() if key)
        for block in self.dataset.blocks(episode_index, seen, indices[:1]):
            black = np.zeros(block.shape[1:], np.uint8)
            for _ in indices:  # a film may be long
                yield black[None]

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        key = self._shown[camera]
        return None if key is None else self.dataset.encoded_images(episode_index, key)

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float] | None:
        key = self._shown[camera]
        return None if key is None else self.dataset.video_span(episode_index, key)

    def shared_spans(self, camera: str) -> Mapping[int, int]:
        key = self._shown[camera]
        return {} if key is None else self.dataset.shared_spans(key)

    def original_camera(self, key: str) -> str:
        own = self._shown[key]
        return key if own is None else self.dataset.original_camera(own)
