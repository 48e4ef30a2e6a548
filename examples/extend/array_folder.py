"""A folder of .npz files, an episode in each: `action` [T, m] and `image` uint8 [T, H, W, 3]."""

import zipfile
from pathlib import Path

import numpy as np

from lattok import LattokError
from lattok.data import Damage, Feature, RobotDataset
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
        self.episodes, broken = [], []
        for i, file in enumerate(self._files):
            try:
                with np.load(file) as arrays:
                    action, image = arrays["action"], arrays["image"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # the other episodes are still good
                broken.append(Damage(i, f"{file} has no `action` and `image` that can be read. Copy it again."))
                continue
            self.episodes.append(Episode(i, len(action), self.tasks))
            self.features = {"action": Feature("float32", action.shape[1:], None)}
            self.features[CAMERA] = Feature("image", image.shape[1:], None)
        if not self.episodes:
            raise LattokError(broken[0].reason)
        self.damaged = tuple(broken)  # `inspect` names them, nothing trains on them

    def files_of(self, episode_index):  # labels and caches are made again where one of them changes
        return (self._files[episode_index],)

    def columns(self, episode_index, keys):
        return {key: np.load(self._files[episode_index])[key] for key in keys}

    def blocks(self, episode_index, camera, indices):  # of frames, so that long episodes need not be in memory
        yield np.load(self._files[episode_index])["image"][indices]
