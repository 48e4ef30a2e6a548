"""Held-out and training pairs of frames with their features and latent actions, computed once, one episode at a time.

Full features are never kept: a grid of average-pooled ones stays for the probes, within a budget of memory.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lattok.data import Progress, RobotDataset, read_vectors, select_episodes
from lattok.data.schema import own_vectors
from lattok.evaluation.evidence import Case, evenly, out_of
from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.losses import block_flow
from lattok.samples import FramePairs
from lattok.types import LatentActions, join
from lattok.utils import checks

MAX_PAIRS = (4000, 2000)  # training, held-out; more of them move the figures less than the seed does
MAX_FRAME_NUMBERS = 32_768  # numbers per frame that the probes see
MAX_SPLIT_NUMBERS = 2**28  # numbers kept over all frames of a split: 1 GiB
BATCH = 64
NOISE = np.random.default_rng(0).integers(0, 256, (1, 45, 60, 3), dtype=np.uint8)  # tells apart how models resize


@dataclass(frozen=True)
class PairSet:
    """n pairs of one split. `features` [F, D] holds each frame once; a pair is its rows `first` and `second`."""

    frames: FramePairs
    rows: np.ndarray  # [n] into `frames`
    features: Tensor
    first: Tensor
    second: Tensor
    state_change: Tensor | None  # [n, s], None without states
    flow: Tensor  # [n, V * 2 * cells], motion by block matching
    latents: LatentActions
    untrained: LatentActions

    @property
    def episode_of(self) -> np.ndarray:
        """Episode of each pair, [n]."""
        return self.frames.episode_of[self.rows]

    @property
    def text(self) -> str:
        return out_of(len(self.rows), len(self.frames)) + ", evenly spaced" * (len(self.rows) < len(self.frames))

    @property
    def actions(self) -> Tensor:
        """Mean action over the gap, [n, m]."""
        return torch.from_numpy(self.frames.actions_of(self.rows))

    @property
    def states(self) -> Tensor:
        """Proprioception at t, [n, s]."""
        return torch.from_numpy(self.frames.states[self.rows])

    def pictures(self, rows: Tensor) -> Tensor:
        """Return both frames of pairs `rows` [B], uint8 [B, 2, V, h, w, 3]."""
        return torch.from_numpy(np.asarray(self.frames.frames[self.frames.frame_rows(self.rows[rows.numpy()])]))

    def targets(self, model: TrainedPairModel, rows: Tensor) -> Tensor:
        """Compute what the decoder predicts, and what it predicts it from, [B, 2, N, D], of pairs `rows` [B]."""
        pictures = self.pictures(rows)  # full features are too large to keep
        return model.frame_features(pictures) if model.pixels is None else model.frame_targets(pictures)

    def encoded(self, model: TrainedPairModel) -> LatentActions:
        """Encode all pairs with another model of the same cameras and image size; the result is on the CPU."""
        parts = torch.arange(len(self.rows)).split(BATCH)
        with torch.no_grad():
            return join([to_cpu(model.encode_features(model.frame_features(self.pictures(rows)))) for rows in parts])

    def side(self, model: TrainedPairModel) -> int:
        """Return the side of the grid over which the pooled features of a camera were averaged."""
        return pooled_side(model, self.features.shape[1])

    @property
    def now(self) -> Tensor:
        """Pooled features of the first frames, [n, D]."""
        return self.features[self.first]

    @property
    def change(self) -> Tensor:
        """Pooled features of the second frames minus those of the first, [n, D]."""
        return self.features[self.second].sub_(self.now)


@dataclass(frozen=True)
class PairSource:
    """Dataset, columns and cameras that pairs come from."""

    dataset: RobotDataset
    stride: int  # frames
    action_key: str | None
    state_key: str | None
    cameras: tuple[str, ...]
    cache_dir: Path | None  # keeps decoded frames in a file there instead of in memory
    decoded: dict[Any, np.ndarray] | None = None  # keeps frames for the next model that sees the same ones

    @classmethod
    def of(cls, case: Case, decoded: dict[Any, np.ndarray] | None = None) -> "PairSource":
        """Return the pairs that a model is judged on, at its own stride and cameras where others are not given."""
        model, dataset, options = case.model, case.dataset, case.options
        model.check_reads_video_alone()
        if model.features.count != model.features.side**2 + model.features.class_token:
            checks.fail("model", "one that looks at squares", f"{model.type} of {model.features.frame_size}")
        stride = checks.stride_in_frames(options.stride or model.config.stride, dataset.fps)
        action_key, state_key = options.action_key, options.state_of(dataset)
        if action_key == "action" and not own_vectors(dataset):
            action_key = None  # of video alone
        cameras = tuple(options.cameras or model.cameras)
        return cls(dataset, stride, action_key, state_key, cameras, options.folder, decoded)

    def pairs(self, model: TrainedPairModel, episodes: list[int]) -> FramePairs:
        """Decode the frames of `episodes` at the model's size, or take those that are kept."""
        source = self.dataset, self.stride, self.cameras, self.action_key, self.state_key
        pairs = FramePairs(*source, episodes, model.resize, labelled_fraction=0.0, cache_dir=self.cache_dir)
        if self.decoded is None:
            return pairs
        sight = (pairs.cameras, model.resize(NOISE).tobytes())
        if any(kept[:2] != sight for kept in self.decoded):
            self.decoded.clear()
        key = (*sight, *episodes)
        pairs.frames = self.decoded[key] if key in self.decoded else self.decoded.setdefault(key, pairs.frames)
        return pairs


def take_rows(latents: LatentActions, rows: Tensor) -> LatentActions:
    env = None if latents.env is None else take_rows(latents.env, rows)
    return LatentActions(latents.codes[rows], latents.latents[rows], latents.quantized[rows], env)


def read_pair_set(
    source: PairSource, model: TrainedPairModel, fresh: TrainedPairModel, episodes: list[int], most: int, note: Progress
) -> PairSet:
    """Decode the episodes, compute features and both models' latent actions of at most `most` pairs, evenly spaced."""
    frames = source.pairs(model, episodes)
    rows = evenly(len(frames), most).numpy()
    used = np.unique(np.concatenate([frames.first[rows], frames.second[rows]]))
    grid = pooled_side(model, min(MAX_FRAME_NUMBERS, MAX_SPLIT_NUMBERS // len(used)))
    features = torch.empty(len(used), len(model.cameras) * grid**2 * model.features.dim)
    own, untrained, flow, row = [], [], [], 0
    for done, episode in enumerate(np.unique(frames.episode_of[rows])):
        pairs = rows[frames.episode_of[rows] == episode]
        here = np.unique(np.concatenate([frames.first[pairs], frames.second[pairs]]))
        blocks = (np.asarray(frames.frames[here[i : i + BATCH]]) for i in range(0, len(here), BATCH))
        full = torch.cat([model.frame_features(torch.from_numpy(block)) for block in blocks])
        features[row : row + len(here)] = pool(full, model, grid)
        row += len(here)
        position = [torch.from_numpy(np.searchsorted(here, index[pairs])) for index in (frames.first, frames.second)]
        for i in range(0, len(pairs), BATCH):
            both = torch.stack([full[p[i : i + BATCH]] for p in position], 1)  # b 2 n d
            here = pairs[i : i + BATCH]
            own.append(to_cpu(_encoded(model, frames, here, both)))
            untrained.append(to_cpu(_encoded(fresh, frames, here, both)))
            flow.append(block_flow(frames.batch(torch.from_numpy(pairs[i : i + BATCH])).frames))
        note(done + 1, len(episodes))
    first, second = (torch.from_numpy(np.searchsorted(used, index[rows])) for index in (frames.first, frames.second))
    change = None
    if source.state_key is not None:
        states = read_vectors(source.dataset, "state_key", source.state_key, select_episodes(source.dataset, episodes))
        change = torch.from_numpy(states[frames.second[rows]] - states[frames.first[rows]])
    return PairSet(frames, rows, features, first, second, change, torch.cat(flow), join(own), join(untrained))


def _encoded(model: Any, frames: FramePairs, pairs: np.ndarray, features: Tensor) -> LatentActions:
    """Encode pairs by their features [B, 2, N, D], or the clips between their frames by a model that reads tasks."""
    if not model.reads_task:
        return model.encode_features(features)
    clips = frames.frames[frames.first[pairs][:, None] + np.array(model.config.gaps(frames.stride))]
    return model.encode(torch.from_numpy(np.asarray(clips)), [frames.tasks[i] for i in frames.task_of[pairs]])


def pooled_side(model: TrainedPairModel, limit: int) -> int:
    """Find the largest side g of a grid with cameras x g x g x D at most `limit` numbers; at least 1."""
    fits = math.isqrt(limit // (len(model.cameras) * model.features.dim))
    return max(1, min(fits, model.features.side))


def pool(features: Tensor, model: TrainedPairModel, side: int) -> Tensor:
    """Average features [T, V*N, D] over the grid to [T, V*side*side*D] on the CPU; the class token is left out."""
    full, views = model.features.side, len(model.cameras)
    features = features.unflatten(1, (views, -1))[:, :, int(model.features.class_token) :].flatten(1, 2)
    if side < full:
        grid = rearrange(features, "t (v y x) d -> (t v) d y x", y=full, x=full)
        features = rearrange(F.adaptive_avg_pool2d(grid, side), "(t v) d y x -> t (v y x) d", v=views)
    return features.flatten(1).float().cpu()


def to_cpu(latents: LatentActions) -> LatentActions:
    """Move latent actions to the CPU, in float32."""
    env = None if latents.env is None else to_cpu(latents.env)
    return LatentActions(latents.codes.cpu(), latents.latents.float().cpu(), latents.quantized.float().cpu(), env)


def exchange(
    latents: LatentActions, control: Tensor, env: Tensor, device: torch.device, keep: float = 1.0, keep_env: float = 1.0
) -> LatentActions:
    """Take vectors of the control stream from rows `control`, times `keep`, and the environment's from rows `env`."""
    other = None if latents.env is None else exchange(latents.env, env, env, device, keep_env)
    chosen = take_rows(latents, control)
    return chosen._replace(quantized=chosen.quantized.to(device) * keep, env=other)


def derangement(groups: np.ndarray, generator: torch.Generator) -> Tensor:
    """Draw for each row [n] another row of its group; a row that is alone in its group keeps itself."""
    partner = torch.arange(len(groups))
    for group in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return partner
