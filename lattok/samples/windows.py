"""Training samples from episodes: chunks of actions.

Everything is indexed once and kept in memory, so that a batch is one gather.
"""

import copy
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lattok.data import RobotDataset, dimension_names
from lattok.data.episodes import EpisodeSpec, select_acting, select_episodes
from lattok.data.schema import vector_key
from lattok.data.vectors import Vectors
from lattok.nn.normalize import Normalizer
from lattok.samples.frames import MixedSamples, SampleSet
from lattok.types import ActionBatch, Episode
from lattok.utils import checks


class ActionWindows(SampleSet):
    """Chunks of `horizon` actions, one starting at every `step`-th frame of the chosen episodes.

    `actions` [F, m] float32 in physical units, `known` [F], whether they are known (the others are zeros), `sampled`
    [F], which of them normalisers are fitted to, `action_names`, and for each of the N windows `episode_of`, `frame_of`
    and `last` [N], the row of the episode's last action. Beyond the end of an episode a chunk repeats the last action,
    which is then not valid.
    """

    def __init__(
        self,
        dataset: RobotDataset,
        horizon: int,
        action_key: str = "action",
        episodes: EpisodeSpec = None,
        step: int = 1,
        checked: bool = True,
        missing: bool = False,
        scattered: bool = False,
    ):
        """`checked`, `missing` and `scattered`: see `Vectors`."""
        checks.counts(horizon=horizon, step=step)
        chosen = select_episodes(dataset, episodes)
        self.horizon = horizon
        self.action_names = dimension_names(vector_key(dataset, "action_key", action_key))
        self._column = Vectors(dataset, "action_key", action_key, chosen, checked, missing, scattered)
        self._missing = missing
        self.sampled = torch.from_numpy(self._column.sampled)
        self.known = torch.ones(len(self.sampled), dtype=torch.bool)
        if self._column.whole:
            self.known = ~torch.from_numpy(self._column.all()).isnan().any(1)
        episode, frame, row, last = frame_positions(chosen)
        keep = frame % step == 0
        self.episode_of, self.frame_of = episode[keep], frame[keep]
        self._row = torch.from_numpy(row[keep])  # [N] row of the first action
        self.last = torch.from_numpy(last[keep])

    def of_known(self) -> Self:
        """Leave out the rows and windows of episodes whose actions are unknown."""
        if self.known.all():
            return self
        keep, place = self.known[self._row], self.known.cumsum(0) - 1  # of each row among those that stay
        found = copy.copy(self)
        found.actions, found.known = self.actions[self.known], self.known[self.known]
        found.sampled = self.sampled[self.known]
        found.episode_of, found.frame_of = self.episode_of[keep.numpy()], self.frame_of[keep.numpy()]
        found._row, found.last = place[self._row[keep]], place[self.last[keep]]
        return found

    def __len__(self) -> int:
        return len(self._row)

    def batch(self, indices: Tensor | Sequence[int]) -> ActionBatch:
        """Windows `indices` [B] as chunks [B, H, m] and their mask [B, H]."""
        rows, inside = self.rows(torch.as_tensor(indices))
        return ActionBatch(self.actions_at(rows), inside)

    @cached_property
    def actions(self) -> Tensor:
        """Actions of all frames [F, m], which are read if they have not been."""
        actions = torch.from_numpy(self._column.all())
        return actions.nan_to_num(0.0) if self._missing else actions

    def actions_at(self, rows: Tensor) -> Tensor:
        """Return rows [...] of `actions`, without reading all others."""
        return self.actions[rows] if self._column.whole else torch.from_numpy(self._column.at(rows.numpy()))

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, H] of `actions` that windows `indices` [B] consist of, and which are inside the episode [B, H]."""
        rows = self._row[indices][:, None] + torch.arange(self.horizon)  # b h
        last = self.last[indices][:, None]
        return torch.minimum(rows, last), rows <= last

    def all(self) -> ActionBatch:
        return self.batch(torch.arange(len(self)))


class MixedWindows(MixedSamples):
    """Windows of several datasets; every chunk is normalised with its own dataset's normaliser."""

    def __init__(self, windows: Sequence[ActionWindows], normalizers: Sequence[Normalizer]):
        super().__init__(windows)
        self._normalizers = copy.deepcopy(list(normalizers))  # the model's move to its device
        self._widths = [len(part.action_names) for part in windows]

    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> ActionBatch:
        chunks, valid = self.parts[part].batch(indices)
        chunks, width = self._normalizers[part](chunks), max(self._widths)
        if min(self._widths) < width:  # other datasets have numbers that this one has not
            valid = valid[..., None] & (torch.arange(width) < chunks.shape[2])
        return ActionBatch(torch.nn.functional.pad(chunks, (0, width - chunks.shape[2])), valid)


def acted_episodes(
    dataset: RobotDataset, chosen: Sequence[Episode], action_episodes: EpisodeSpec, key: str | None = None
) -> np.ndarray:
    """Return which of the chosen episodes have known actions, bool [E]; at least one."""
    known = select_acting(dataset, action_episodes, key)
    found = np.array([episode.index in known for episode in chosen])
    if not found.any():
        checks.fail("action_episodes", "at least one of the episodes that are trained on", repr(action_episodes))
    return found


def frame_positions(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return of every frame its episode, its index there, its flat row and that of the last frame there, all [F]."""
    indices, lengths = np.array([episode[:2] for episode in episodes], dtype=np.int64).reshape(-1, 2).T
    ends, row = np.cumsum(lengths), np.arange(lengths.sum(), dtype=np.int64)
    return np.repeat(indices, lengths), row - np.repeat(ends - lengths, lengths), row, np.repeat(ends - 1, lengths)
