"""A folder of .npz files, an episode in each: `action` [T, m] and `image` uint8 [T, H, W, 3]."""

from pathlib import Path

import numpy as np

from lattok.data import Feature, RobotDataset
from lattok.types import Episode

CAMERA = "observation.images.main"


class ArrayFolder(RobotDataset):
    kind = "npz"
    text = "arrays (.npz files with `action` and `image`)"
    options = {"fps": float}
    cameras = (CAMERA,)

    @classmethod
    def recognise(cls, folder: Path):
        return [folder] if any(folder.glob("*.npz")) else []

    def __init__(self, root: Path, name: str | None = None, *, fps: float = 10.0):
        self.root, self.name, self.fps, self.tasks = root, name or root.name, fps, ("",)
        self._files = sorted(root.glob("*.npz"))
        arrays = [np.load(file) for file in self._files]
        self.episodes = [Episode(i, len(each["action"]), self.tasks) for i, each in enumerate(arrays)]
        action, image = arrays[0]["action"], arrays[0]["image"]
        self.features = {"action": Feature("float32", action.shape[1:], None)}
        self.features[CAMERA] = Feature("image", image.shape[1:], None)

    def files_of(self, episode_index):
        return (self._files[episode_index],)

    def columns(self, episode_index, keys):
        return {key: np.load(self._files[episode_index])[key] for key in keys}

    def blocks(self, episode_index, camera, indices):  # of frames, so that long episodes need not be in memory
        yield np.load(self._files[episode_index])["image"][indices]
