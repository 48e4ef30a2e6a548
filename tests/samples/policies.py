"""A dataset in memory with everything that policies learn from, and labels that a test can compute itself."""

from pathlib import Path

import numpy as np
import torch

from lattok.data import Feature, RobotDataset
from lattok.types import ActionTokenizer, Episode, LatentActions

CAMERAS = ("images.front", "images.wrist")


class Demonstrations(RobotDataset):
    """Actions [2], expert actions, states [3] and two cameras of different size; frame t of episode e shows 10 e + t.

    Labels: `latent` of an image model (P = 2 codes below 50, one vector of 4), `tok` of a tokenizer of chunks of 4
    (one code and vector for each step), `few` of one with 3 codes a chunk and no vectors of theirs.
    """

    kind, name, robot, fps, damaged = "memory", "memory", None, 10.0, ()
    cameras = CAMERAS

    def __init__(self, root: Path, lengths: list[int], stride: int = 2):
        self.root, self.tasks = Path(root), ("lift", "push")
        self.episodes = tuple(Episode(i, n, (self.tasks[i % 2], "also")) for i, n in enumerate(lengths))
        self.features = {
            "action": Feature("float32", (2,), ("x", "grip")),
            "expert_action": Feature("float32", (2,), None),
            "observation.state": Feature("float32", (3,), ("a", "b", "c")),
            "latent.codes": Feature("int64", (2,), None),
            "latent.embedding": Feature("float32", (4,), None),
            "latent.valid": Feature("bool", (1,), None),
            "tok.codes": Feature("int64", (4,), None),
            "tok.embedding": Feature("float32", (12,), None),
            "tok.valid": Feature("bool", (1,), None),
            "few.codes": Feature("int64", (3,), None),
            "few.valid": Feature("bool", (1,), None),
            CAMERAS[0]: Feature("video", (6, 8, 3), None),
            CAMERAS[1]: Feature("video", (4, 4, 3), None),
        }
        rng = np.random.default_rng(0)
        self.values = [self._episode(rng, i, n, stride) for i, n in enumerate(lengths)]

    def _episode(self, rng: np.random.Generator, index: int, length: int, stride: int) -> dict[str, np.ndarray]:
        labelled = np.arange(length) + stride < length
        return {
            "action": rng.standard_normal((length, 2)).astype(np.float32),
            "expert_action": rng.standard_normal((length, 2)).astype(np.float32),
            "observation.state": rng.standard_normal((length, 3)).astype(np.float32),
            "latent.codes": np.where(labelled[:, None], rng.integers(0, 50, (length, 2)), -1),
            "latent.embedding": rng.standard_normal((length, 4)).astype(np.float32),
            "latent.valid": labelled,
            "tok.codes": rng.integers(0, 9, (length, 4)),
            "tok.embedding": rng.standard_normal((length, 12)).astype(np.float32),
            "tok.valid": np.full(length, index != 1),
            "few.codes": rng.integers(0, 9, (length, 3)),
            "few.valid": np.full(length, True),
        }

    def columns(self, index, keys):
        return {key: self.values[index][key] for key in keys}

    def frames(self, index, cameras=None, indices=None, transform=None):
        numbers = np.arange(self.episodes[index].length) if indices is None else np.asarray(indices)
        views = []
        for key in cameras or self.cameras:
            shape = self.features[key].shape
            block = np.empty((len(numbers), *shape), dtype=np.uint8)
            block[:] = (10 * index + numbers + 100 * CAMERAS.index(key))[:, None, None, None]
            views.append(block if transform is None else transform(block))
        return np.stack(views, 1)


class StepTokenizer(ActionTokenizer):
    """One code for each step: the rounded size of its first action, K = 8; vectors are the actions and their sum."""

    horizon, action_dim, vocab_size, tokens_per_chunk, fixed_length, per_step = 4, 2, 8, 4, True, True

    def __init__(self):
        self.calls = 0

    def latent_actions(self, chunks, valid=None):
        self.calls += 1
        codes = (chunks[..., 0].abs() * 3).round().long().clamp_max(7)
        latents = torch.cat([chunks, chunks.sum(-1, keepdim=True)], -1)
        return LatentActions(codes, latents, latents)

    def describe(self):
        return {"type": "step", "weights_sha256": "2"}


class WholeTokenizer(StepTokenizer):
    """Three codes for a chunk, and one vector for all of it."""

    tokens_per_chunk, vocab_size, per_step = 3, 5, False

    def latent_actions(self, chunks, valid=None):
        self.calls += 1
        codes = (chunks[:, :3, 0].abs() * 2).round().long().clamp_max(4)
        return LatentActions(codes, chunks.flatten(1)[:, None], chunks.flatten(1)[:, None])
