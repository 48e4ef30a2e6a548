"""Training samples from episodes: pairs of frames, with the actions between them.

Everything is indexed once and kept in memory, frames too unless batches bring theirs, so that a batch is one gather.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from lattok.data import FrameTransform, Progress, RobotDataset, camera_keys
from lattok.data.episodes import EpisodeSpec, check_stride, select_episodes
from lattok.data.instructions import frame_instructions, task_group
from lattok.data.vectors import Vectors
from lattok.nn.normalize import Normalizer
from lattok.samples.frames import FrameReader, MixedSamples, Reader, Samples
from lattok.samples.windows import acted_episodes, frame_positions
from lattok.types import Episode, PairBatch
from lattok.utils import checks

LabelUnit = Literal["pairs", "episodes"]
LEAST_FITTED = 1024  # pairs that normalisers are fitted to, if there are as many


def check_action_target(target: str, steps: int) -> None:
    """Check that there is such a target; more than one step is for chunks."""
    checks.one_of("action_target", target, ("mean", "first", "chunk"))
    checks.counts(action_steps=steps)
    if steps > 1 and target != "chunk":
        checks.fail("action_steps", f"1 with action_target={target}", steps, "A chunk of actions: action_target=chunk.")


@dataclass(frozen=True)
class PairLabels:
    """What the actions of frame pairs are, and which of them may supervise.

    Attributes:
        action_key: column with the actions; None: video without actions
        action_target: by pair, the "mean" over the gap [m], the "first" action a_t [m], or a "chunk" of `action_steps`
            actions a_t .. a_{t+n-1} [n, m], which repeats the episode's last one where that ends
        action_steps: n of a chunk
        action_episodes: episodes whose actions are known (None: all); those whose actions are all NaN are not
        labelled_fraction: share of the pairs (or of the episodes) of every task that may supervise, at least one per
            task, drawn by a hash of seed, episode and frame among those whose actions are known
        labelled: what is drawn: "pairs", or whole "episodes"
        seed: of the draw
    """

    action_key: str | None = "action"
    action_target: Literal["mean", "first", "chunk"] = "mean"
    action_steps: int = 1
    action_episodes: EpisodeSpec = None
    labelled_fraction: float = 0.05
    labelled: LabelUnit = "pairs"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("labelled", self.labelled, ("pairs", "episodes"))
        check_action_target(self.action_target, self.action_steps)
        if not 0 <= self.labelled_fraction <= 1:
            checks.fail("labelled_fraction", "a number from 0 to 1", repr(self.labelled_fraction))


class FramePairs(Samples):
    """Pairs of frames (t, t + stride) inside one episode, with the actions between them.

    `frames` uint8 [F, V, h, w, 3], decoded when first asked for, holds every frame of `episodes` once. For each of the
    N pairs: rows `first` and `second` in it, `episode_of`, `frame_of`, `actions` as `PairLabels` says (0 where they are
    not known), `states` [N, s] at t, `labelled`: whether the action may supervise, and `task_of` [N]: index into
    `tasks`, of the instruction at t.
    """

    # rows [...] of frames to their features [..., V*N, D]: where these are known, batches carry them
    features: Callable[[np.ndarray], Tensor] | None = None

    def __init__(
        self,
        dataset: RobotDataset,
        stride: int | str,
        cameras: Sequence[str] | None = None,
        labels: PairLabels = PairLabels(),
        *,
        state_key: str | None = None,
        episodes: EpisodeSpec = None,
        transform: FrameTransform | None = None,
        extra_strides: Sequence[int | str] = (),
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
    ):
        """`stride` is the gap of a pair, in frames or "0.2s"; with `extra_strides` every sample has further frames
        t + s, all of them inside the episode. `transform` maps blocks uint8 [n, H, W, 3] to one size, e.g. a model's
        `resize`. Beyond 4 GiB the frames go into a temporary file in `cache_dir`, if it is given. Raises `LattokError`
        where a gap fits into no episode, a column is missing, or no action is known but some are to supervise.
        """
        self.episodes = chosen = select_episodes(dataset, episodes)
        lengths = np.array([e.length for e in chosen], dtype=np.int64)
        self.gaps = _gaps(stride, extra_strides, lengths, dataset.fps)
        self.stride = self.gaps[0]
        self.cameras = camera_keys(dataset, cameras)
        episode, frame, row, last = frame_positions(chosen)
        keep = row + max(self.gaps) <= last
        self.episode_of, self.frame_of = episode[keep], frame[keep]
        self.first, self._last = row[keep], last[keep]
        self.second = self.first + self.stride
        self.tasks, task_of = frame_instructions(dataset, chosen)
        self.task_of = task_of[keep]
        self._steps = labels.action_steps if labels.action_target == "chunk" else 0
        self._target, self._column = labels.action_target, _vectors(dataset, "action_key", labels.action_key, chosen)
        there = np.ones(len(row), dtype=bool)
        if self._column is None or self._column.whole:
            flat = np.empty((len(row), 0), dtype=np.float32) if self._column is None else self._column.all()
            there = np.all(np.isfinite(flat), axis=1)
            self._actions = self._targets(np.where(there[:, None], flat, np.float32(0)), labels.action_target)
            self._column = None
        states = _vectors(dataset, "state_key", state_key, chosen, missing=False)
        self.states = np.empty((len(self), 0), dtype=np.float32) if states is None else states.all()[self.first]
        self.labelled = np.zeros(len(self), dtype=bool)
        if labels.action_key is not None:
            acted = acted_episodes(dataset, chosen, labels.action_episodes, labels.action_key).repeat(lengths) & there
            if labels.labelled_fraction and not acted.any():
                _fail_without_actions(labels.action_key, labels.action_episodes)
            self.draw(acted[keep], labels.labelled_fraction, labels.labelled, labels.seed)
        self.frame_reader = FrameReader(dataset, chosen, self.cameras, transform)
        self.reader: Reader = self.frame_reader  # or one of features
        self._all_frames = partial(self.frame_reader.all, cache_dir, progress)

    def draw(self, known: np.ndarray, fraction: float, unit: LabelUnit, seed: int) -> None:
        """Draw which pairs are `labelled`, among those whose actions are `known` [N]."""
        self.labelled = np.zeros(len(self), dtype=bool)
        tasks = {episode.index: task_group(episode) for episode in self.episodes}
        self.labelled[known] = draw_labelled(self.episode_of[known], self.frame_of[known], tasks, fraction, unit, seed)

    def __len__(self) -> int:
        return len(self.first)

    def frame_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows [B, 2 + extra strides] of the frames of pairs `indices` [B]."""
        return self.first[indices][:, None] + np.array([0, *self.gaps])

    def batch(self, indices: Tensor | Sequence[int], frames: Tensor | None = None) -> PairBatch:
        """Pairs `indices` [B]: frames [B, 2 + extra strides, V, h, w, 3], actions [B, m] or [B, n, m], labelled [B].

        `frames` may be known already, or in their place features [B, 2 + extra strides, V*N, D], floats.
        """
        chosen = np.asarray(indices)
        rows, features = self.frame_rows(chosen), None
        if frames is not None and frames.is_floating_point():
            frames, features = torch.empty(*rows.shape, 0, dtype=torch.uint8), frames
        elif self.features is not None:
            features = self.features(rows)
        frames = torch.from_numpy(np.asarray(self.frames[rows])) if frames is None else frames
        actions, labelled = torch.from_numpy(self.actions_of(chosen)), torch.from_numpy(self.labelled[chosen])
        return PairBatch(frames, actions, labelled, features=features)

    @property
    def actions(self) -> np.ndarray:
        """Actions of all pairs, as `actions_of` gives them: chunks overlap, and take n times as much as the data."""
        return self._actions if self._column is None and not self._steps else self.actions_of(np.arange(len(self)))

    def actions_of(self, pairs: np.ndarray) -> np.ndarray:
        """Return what `action_target` names, of pairs [B]: float32 [B, m], or [B, n, m] for a chunk."""
        if self._steps:
            rows = np.minimum(self.first[pairs, None] + np.arange(self._steps), self._last[pairs, None])
            return self._actions[rows] if self._column is None else self._column.at(rows)
        if self._column is None:
            return self._actions[pairs]
        if self._target == "first":
            return self._column.at(self.first[pairs])
        return self._column.at(self.first[pairs, None] + np.arange(self.stride)).mean(1, np.float64).astype(np.float32)

    @property
    def fitted_actions(self) -> np.ndarray:
        """Actions that may supervise, as `actions_of` gives them: of very many files those of a sample (`data.many`),
        or where it has too few, some of all, drawn at random."""
        pairs = self.labelled.nonzero()[0]
        if self._column is not None:
            sampled = pairs[self._column.sampled[self.first[pairs]]]
            few = len(sampled) < min(LEAST_FITTED, len(pairs))
            count = min(LEAST_FITTED, len(pairs))
            pairs = np.random.default_rng(0).choice(pairs, count, replace=False) if few else sampled
        return self.actions_of(pairs)

    def _targets(self, flat: np.ndarray, target: str) -> np.ndarray:
        """Return actions by pair, float32 [N, m]; for chunks those of all frames [F, m], which they are cut from."""
        if target == "first":
            return flat[self.first]
        if target == "chunk":
            return flat
        total = np.concatenate([np.zeros((1, flat.shape[1])), np.cumsum(flat.astype(np.float64), axis=0)])
        return ((total[self.second] - total[self.first]) / self.stride).astype(np.float32)


class MixedPairs(MixedSamples):
    """Frame pairs of several datasets with `labelled`, `tasks` and `task_of` as `FramePairs` has them. Actions are
    normalised by their dataset's labelled pairs, zeros if it has none; `action_dim` is 0 where no dataset has any."""

    def __init__(self, parts: Sequence[FramePairs], weights: Sequence[float]):
        super().__init__(parts)
        self.weights = list(weights)
        self.labelled = np.concatenate([part.labelled for part in parts])
        self.tasks = tuple(task for part in parts for task in part.tasks)
        firsts = [0, *accumulate(len(part.tasks) for part in parts[:-1])]
        self.task_of = np.concatenate([first + part.task_of for first, part in zip(firsts, parts, strict=True)])
        shape = next((part.actions_of(np.arange(1)).shape[1:] for part in parts if part.labelled.any()), (0,))
        self._shape, self.action_dim = shape, shape[-1]
        self._normalizers: list[Normalizer | None] = [None] * len(parts)
        for number, part in enumerate(parts):
            if self.action_dim and part.labelled.any():
                known = torch.from_numpy(part.fitted_actions).flatten(0, -2)
                self._normalizers[number] = Normalizer(self.action_dim).fit(known)

    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> PairBatch:
        pairs, normalizer = self.parts[part].batch(indices, *frames), self._normalizers[part]
        actions = torch.zeros(len(indices), *self._shape) if normalizer is None else normalizer(pairs.actions)
        return pairs._replace(actions=actions)


def _vectors(
    dataset: RobotDataset, argument: str, key: str | None, episodes: Sequence[Episode], missing: bool = True
) -> Vectors | None:
    """Open a column of vectors, if there is one. Files are checked as a whole where their pictures are read."""
    return None if key is None else Vectors(dataset, argument, key, episodes, checked=False, missing=missing)


def draw_labelled(
    episode_of: np.ndarray,
    frame_of: np.ndarray,
    tasks: dict[int, tuple[str, ...]],
    fraction: float,
    unit: LabelUnit,
    seed: int,
) -> np.ndarray:
    """Return which pairs are labelled, bool [N]: of every task the `fraction` with the lowest hashes, at least one. The
    hash sees the seed, the episode and (for pairs) the frame, so the order of the pairs does not matter."""
    chosen = np.zeros(len(episode_of), dtype=bool)
    if fraction == 0:
        return chosen
    if not len(chosen):
        checks.fail("labelled_fraction", "at least one labelled pair", "none", "The chosen episodes hold no pairs.")
    value = _hash(seed, episode_of, frame_of if unit == "pairs" else np.zeros_like(frame_of))
    names = {task: i for i, task in enumerate(sorted(set(tasks.values())))}
    different, place = np.unique(episode_of, return_inverse=True)
    task_of = np.array([names[tasks[e]] for e in different.tolist()], dtype=np.int64)[place]
    order = np.argsort(task_of, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(task_of[order])) + 1):  # the pairs of one task
        candidates = np.sort(value[rows])
        candidates = candidates[np.append(True, candidates[1:] != candidates[:-1])]  # one per pair or per episode
        count = max(1, round(fraction * len(candidates)))
        chosen[rows] = value[rows] <= candidates[count - 1]
    return chosen


def _hash(seed: int, episode: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Hash the seed and the two numbers by splitmix64, uint64 like them."""
    state = np.full(len(episode), seed % 2**64, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in (np.zeros_like(episode), episode, frame):
            state = (state ^ key.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def _gaps(stride: int | str, extra: Sequence[int | str], lengths: np.ndarray, fps: float) -> Sequence[int]:
    """Return the gaps of a pair in frames; each must fit into an episode."""
    named = [("stride", stride), *(("extra_strides", gap) for gap in extra)]
    gaps = [checks.stride_in_frames(gap, fps, name) for name, gap in named]
    for (name, _), gap in zip(named, gaps, strict=True):
        check_stride(gap, lengths, fps, name)
    return gaps


def _fail_without_actions(key: str, episodes: EpisodeSpec) -> NoReturn:
    chosen = f"episodes{'' if episodes is None else f' {episodes!r}'}"
    hint = "Video without actions needs labelled_fraction=0."
    checks.fail(key, f"known actions in one of the {chosen}", "NaN in all of them", hint)
