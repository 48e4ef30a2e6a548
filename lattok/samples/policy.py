"""Training samples of policies: what is seen at frame t, the actions that follow, and the latent actions of the labels.

    images [V, h, w, 3], proprioception [s] and instruction of t; actions of t .. t + H - 1; see `LatentTarget`

Everything is read once; a batch is one gather. Beyond the end of an episode nothing is valid.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data.episodes import EpisodeSpec, read_vectors, select_episodes
from lattok.data.pixels import resize_pixels
from lattok.data.schema import Progress, RobotDataset, camera_keys, dimension_names, vector_key
from lattok.labels import LatentSpec, read_rows, target_of, tokenizer_spec
from lattok.labels.spec import PARTS
from lattok.samples.frames import FrameReader
from lattok.samples.mixture import Mixed
from lattok.samples.windows import ActionWindows, acted_episodes, instructions
from lattok.types import ActionTokenizer, Episode, LatentTarget, PolicyBatch
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.prefetch import Stopped


class PolicyWindows:
    """Every frame of the chosen episodes as a sample, N = F of them.

    `actions` [F, m] and `states` [F, s] (or None) in physical units with `action_names` and `state_names`; `known` [m],
    the action dimensions that the robot has; `cameras` and their stored `camera_sizes` (H, W); `frames` uint8
    [F, V, h, w, 3], decoded when first asked for; for each sample `episode_of`, `frame_of` and `task_of` [N], an index
    into `tasks` (the first instruction of an episode with several); `latent`, what supervises.
    """

    weights: Sequence[float] = (1.0,)

    def __init__(
        self,
        dataset: RobotDataset,
        horizon: int,
        *,
        cameras: Sequence[str] | None = None,
        size: int,
        interpolation: str = "bicubic",
        action_key: str = "action",
        state_key: str | None = "observation.state",
        episodes: EpisodeSpec = None,
        action_episodes: EpisodeSpec = None,
        gaps: Sequence[int] = (),
        latent: LatentSpec | None = None,
        labeller: ActionTokenizer | None = None,
        extra_keys: Sequence[str] = (),
        parts: Sequence[str] = PARTS,
        subtasks: bool = False,
        progress: Progress | None = None,
    ):
        """Images are resized to `size` x `size`. Latent actions come from the columns that `latent` (of `latent_spec`)
        describes, `parts` of them, or from `labeller`, an action tokenizer that sees the chunks of every batch. Of
        episodes that are not among `action_episodes` (none given: all) no action is known: they teach through labels.
        `gaps`: so many frames later a batch looks again. `extra_keys`: other columns like actions that `targets` gives.
        `subtasks`: batches have the text of each frame's sub-task, where the dataset has such.
        Numbers that are not finite raise `LattokError`, as do missing columns.
        """
        checks.counts(size=size, **{f"gaps[{number}]": gap for number, gap in enumerate(gaps)})
        self.horizon, self.size, self.interpolation = horizon, size, interpolation
        self.cameras = () if cameras is not None and not len(cameras) else camera_keys(dataset, cameras)
        self.episodes = chosen = select_episodes(dataset, episodes)
        unseen = not self.cameras  # otherwise files are checked as a whole where their pictures are read
        self._windows = ActionWindows(dataset, horizon, action_key, [e.index for e in chosen], checked=unseen)
        self.actions, self.action_names = self._windows.actions, self._windows.action_names
        self.episode_of, self.frame_of = self._windows.episode_of, self._windows.frame_of
        lengths = np.array([e.length for e in chosen], dtype=np.int64)
        self.acted = torch.from_numpy(acted_episodes(dataset, chosen, action_episodes).repeat(lengths))
        absent = torch.tensor(dataset.absent.get(action_key, ()), dtype=torch.long)
        self.known = torch.ones(self.actions.shape[1], dtype=torch.bool).index_fill(0, absent, False)
        self.gaps = tuple(gaps)
        self.tasks, self.task_of = instructions(chosen, lengths, np.ones(len(self), dtype=bool))
        self.subtasks = _subtasks(dataset, chosen) if subtasks else None
        self.states, self.state_names = _states(dataset, state_key, chosen, unseen)
        self._vectors = {action_key: self.actions}
        for key in extra_keys:
            values = read_vectors(dataset, "extra_keys", key, chosen, unseen)
            checks.size(key, f"numbers, as many as `{action_key}` has", values.shape[1], self.actions.shape[1])
            self._vectors[key] = torch.from_numpy(values)
        self._labeller, self.latent = labeller, _chosen_spec(latent, labeller, horizon, self.actions.shape[1])
        self._labels: dict[str, Tensor] = {}
        if self.latent is not None and labeller is None:
            self._labels = read_rows(dataset, self.latent, chosen, parts)
            if not self._labels["valid"].any():
                what = f"none of the {len(self.actions)} frames of the chosen episodes has a label"
                way_out = "Choose other episodes, or annotate again."
                raise LattokError(f"`{self.latent.column('valid')}`: {what}. {way_out}")
        self.camera_sizes = camera_sizes(dataset, chosen[0], self.cameras)
        self.reader = FrameReader(dataset, chosen, self.cameras, Resize(size, interpolation))
        self._progress = progress

    def __len__(self) -> int:
        return len(self.episode_of)

    @property
    def parts(self) -> Sequence[PolicyWindows]:
        """These samples, as a mixture of one."""
        return [self]

    @cached_property
    def frames(self) -> np.ndarray:
        """Decode all frames, when they are first asked for."""
        if not self.cameras:
            return np.empty((len(self), 0, self.size, self.size, 3), dtype=np.uint8)
        return self.reader.all(progress=self._progress)

    def decode(self, indices: Tensor, stopped: Stopped = lambda: False) -> Tensor:
        """Decode the frames [B, 1 + gaps, V, h, w, 3] of samples `indices` [B], and no others."""
        rows = self.frame_rows(indices.numpy())
        different, place = np.unique(rows, return_inverse=True)
        frames, _, errors = self.reader.rows(different, stopped)
        for error in errors.values():
            raise error
        return torch.from_numpy(frames[place.reshape(rows.shape)])

    def frame_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows [B, 1 + gaps] of the frames of samples `indices` [B]."""
        return np.minimum(indices[:, None] + np.array([0, *self.gaps]), self._windows.last.numpy()[indices, None])

    def batch(self, indices: Tensor, frames: Tensor | None = None) -> PolicyBatch:
        """Return samples `indices` [B]; `frames` [B, 1 + gaps, V, h, w, 3] where they are known already."""
        rows, inside = self._windows.rows(indices)  # b h
        chosen = indices.numpy()
        actions, known = self.actions[rows], self.acted[indices, None]
        if frames is None:
            frames = torch.from_numpy(np.asarray(self.frames[self.frame_rows(chosen)]))
        return PolicyBatch(
            images=frames[:, 0],
            texts=[self.tasks[i] for i in self.task_of[chosen].tolist()],
            proprio=None if self.states is None else self.states[indices],
            actions=actions,
            valid=inside & known,
            latent=self._target(indices, rows, inside, actions),
            later=frames[:, 1:] if frames.shape[1] > 1 else None,
            subtasks=None if self.subtasks is None else self.subtasks[chosen].tolist(),
            known=None if self.known.all() else self.known.repeat(len(chosen), 1),
        )

    @cached_property
    def reach(self) -> Tensor:
        """Which of the later frames of each sample lie inside the episode, bool [N, gaps]."""
        rows = torch.arange(len(self))[:, None] + torch.tensor(self.gaps, dtype=torch.long)
        return rows <= self._windows.last[:, None]

    @property
    def has_subtask(self) -> Tensor | None:
        """Which samples have the text of a sub-task, bool [N]; none where the dataset has none."""
        return None if self.subtasks is None else torch.from_numpy(self.subtasks != "")

    @property
    def known_actions(self) -> Tensor:
        """The actions [n, m] that are known, each once: what normalisers and scales are fitted to."""
        return self.actions[self.acted]

    @property
    def labels_hash(self) -> str | None:
        """SHA-256 of the labels that were read; none where none were."""
        if not self._labels:
            return None
        digest = hashlib.sha256()
        for part in ("valid", *PARTS):
            digest.update(self._labels[part].numpy().data if part in self._labels else b"")
        return digest.hexdigest()

    @cached_property
    def labelled(self) -> Tensor | None:
        """Which samples have a latent action that supervises, bool [N]; none where nothing does."""
        if self.latent is None:
            return None
        if not self._labels:
            return self.acted  # made from actions
        valid = self._labels["valid"][:, 0]
        rows, inside = self._windows.rows(torch.arange(len(self)))
        return valid if self.latent.target == "chunk" else (valid[rows] & inside).any(1)

    def targets(self, key: str) -> Tensor:
        """Chunks [N, H, m] of `action_key` or of one of `extra_keys`, such as what an expert would have done."""
        checks.one_of("key", key, self._vectors)
        rows, _ = self._windows.rows(torch.arange(len(self)))
        return self._vectors[key][rows]

    def _target(self, indices: Tensor, rows: Tensor, inside: Tensor, actions: Tensor) -> LatentTarget | None:
        spec = self.latent
        if spec is None:
            return None
        if self._labeller is not None:
            with torch.no_grad():
                found = self._labeller.latent_actions(actions, inside)  # one call for the batch
            labels = {"codes": found.codes.cpu()[:, None], "embedding": found.latents.float().cpu().flatten(1)[:, None]}
            labels |= {"valid": self.acted[indices, None]}
            return target_of(spec, {part: labels[part] for part in spec.widths()}, inside)
        pick = rows if spec.target == "steps" else indices[:, None]  # b s, or b 1
        labels = {part: values[pick] for part, values in self._labels.items()}
        return target_of(spec, labels | {"valid": labels["valid"][..., 0]}, inside)


class MixedPolicyWindows(Mixed):
    """Samples of several datasets; actions and proprio are normalised, those of each dataset by maps of its own."""

    def __init__(self, parts: Sequence[PolicyWindows], weights: Sequence[float], maps: Sequence[Any]):
        """`maps` of each dataset: its `Normalizer` of "action" and, where there is proprio, of "proprio"."""
        self.parts, self.weights = list(parts), list(weights)
        own = copy.deepcopy(list(maps))  # the model's move to its device
        partly = not all(part.known.all() for part in parts)
        self.acted = torch.cat([part.acted for part in parts])
        self.reach = torch.cat([part.reach for part in parts])
        known = [part.has_subtask for part in parts]
        none = [torch.zeros(len(part), dtype=torch.bool) for part in parts]
        flags = [zeros if has is None else has for has, zeros in zip(known, none, strict=True)]
        self.has_subtask = None if all(has is None for has in known) else torch.cat(flags)
        labelled = [part.labelled for part in parts if part.labelled is not None]
        self.labelled = torch.cat(labelled) if labelled else None

        def batch(part: PolicyWindows, maps: Any, indices: Tensor, frames: Tensor | None = None) -> PolicyBatch:
            given = part.batch(indices, frames)
            proprio = None if given.proprio is None else maps["proprio"](given.proprio)
            known = part.known.repeat(len(given.actions), 1) if partly else None
            texts = given.subtasks or ([""] * len(given.actions) if self.has_subtask is not None else None)
            actions = maps["action"](given.actions)
            return given._replace(actions=actions, proprio=proprio, known=known, subtasks=texts)

        batches = [partial(batch, *both) for both in zip(parts, own, strict=True)]
        super().__init__([len(part) for part in parts], batches)


def camera_sizes(dataset: RobotDataset, episode: Episode, cameras: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(H, W) of each camera's images as they are stored, from the first frame of an episode."""
    frames = (dataset.frames(episode.index, [key], [0]) for key in cameras)
    return tuple((image.shape[2], image.shape[3]) for image in frames)


class Resize(NamedTuple):
    """Resize frames uint8 [n, H, W, 3] of one camera to [n, size, size, 3]."""

    size: int
    interpolation: str

    def __call__(self, block: np.ndarray) -> np.ndarray:
        writable = block if block.flags.writeable else block.copy()  # torch warns of others
        return resize_pixels(torch.from_numpy(writable), self.size, self.interpolation).numpy()


def _subtasks(dataset: RobotDataset, episodes: Sequence[Episode]) -> np.ndarray | None:
    """Read the text of each frame's sub-task, [F] of objects: most are the same; none where no episode has any."""
    found = [dataset.subtasks(episode.index) for episode in episodes]
    if all(texts is None for texts in found):
        return None
    each = [[""] * episode.length if texts is None else texts for texts, episode in zip(found, episodes, strict=True)]
    return np.array([text.strip() for texts in each for text in texts], dtype=object)


def _states(
    dataset: RobotDataset, key: str | None, episodes: Sequence[Episode], checked: bool
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Read proprioception [F, s] and the names of its dimensions."""
    if key is None:
        return None, ()
    names = dimension_names(vector_key(dataset, "state_key", key, "None leaves it out."))
    return torch.from_numpy(read_vectors(dataset, "state_key", key, episodes, checked)), names


def _chosen_spec(
    latent: LatentSpec | None, labeller: ActionTokenizer | None, horizon: int, action_dim: int
) -> LatentSpec | None:
    if labeller is None:
        if latent is not None and latent.target == "steps" and latent.steps != horizon:
            checks.fail("latent", f"latent actions of {horizon} steps, the horizon", f"{latent.steps}")
        return latent
    if latent is not None:
        raise LattokError("`labeller` and label columns were both given. Give one of them.")
    checks.size("labeller", "action dimensions, as the dataset has", labeller.action_dim, action_dim)
    return tokenizer_spec(labeller, horizon)
