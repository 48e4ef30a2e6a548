"""A model whose labels tell the frame that they belong to, and the comparison of all values that two readers see."""

import numpy as np
import torch

from lattok.data import RobotDataset
from lattok.types import ActionTokenizer, LatentActions, VideoLabeller


class Labeller(ActionTokenizer, VideoLabeller):
    """Labels that can be told from the frame they belong to."""

    cameras = ("corner2",)
    horizon = 8
    action_dim = 4

    def __init__(self, source: str):
        self.label_source = source

    def stride_frames(self, fps):
        return 16

    def resize(self, frames):
        return frames[:, ::8, ::8]

    def label_video(self, frames, stride):
        frames = np.concatenate(list(frames))  # an episode comes in pieces
        return self._labels(torch.from_numpy(frames.astype(np.float32)).mean((1, 2, 3, 4)))

    def latent_actions(self, chunks, valid=None):
        return self._labels(chunks[:, 0, 0])

    def describe(self):
        return {"type": "test"}

    def _labels(self, value):
        latents = value[:, None, None].repeat(1, 4, 3)
        return LatentActions((value[:, None] * 10).round().long().repeat(1, 4), latents, latents)


def same_values(ours: RobotDataset, theirs, per_episode: int) -> None:
    """All columns of all rows, and some frames of every episode."""
    assert len(theirs) == sum(e.length for e in ours.episodes)
    assert theirs.fps == ours.fps
    columns = [key for key in ours.features if key not in ours.cameras]
    table = theirs.hf_dataset.with_format("arrow")[:]
    start = 0
    for episode in ours.episodes:
        rows = slice(start, start + episode.length)
        for key, values in ours.columns(episode.index, columns).items():
            expected = np.array(table[key][rows].to_pylist(), dtype=values.dtype)
            np.testing.assert_array_equal(values, expected, err_msg=key)
        chosen = np.unique(np.linspace(0, episode.length - 1, per_episode).astype(int))
        frames = ours.frames(episode.index, indices=chosen) if ours.cameras else ()
        for i, t in enumerate(chosen.tolist()):
            item = theirs[start + t]
            assert item["task"] == episode.tasks[0]
            for v, key in enumerate(ours.cameras):
                image = (item[key] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(image, frames[i, v])
        start += episode.length
