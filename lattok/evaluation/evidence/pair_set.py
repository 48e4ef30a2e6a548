"""Held-out and training pairs of frames with their features and latent actions, computed once, one episode at a time.

Controls see frames as the model does where it has frozen features, otherwise their pixels. Full features are never
kept: a grid of average-pooled ones stays for the probes, within a budget of memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.losses import block_flow
from lattok.image_lam.base.pair_model import FrozenFeaturesModel, PairModel
from lattok.image_lam.clips import ClipLAM
from lattok.labels import GivenLabels
from lattok.samples import FramePairs, PairLabels
from lattok.types import EncodesFeatures, LatentActions, PredictsFrames, VideoLabeller, join
from lattok.utils import checks
from lattok.utils.arrays import as_tensor

MAX_PAIRS = (4000, 2000)  # training, held-out; more of them move the figures less than the seed does
MAX_FRAME_NUMBERS = 32_768  # numbers per frame that the probes see
MAX_SPLIT_NUMBERS = 2**28  # numbers kept over all frames of a split: 1 GiB
BATCH = 64
PIXELS = 64  # side of the frames that controls see of a model without features
NOISE = np.random.default_rng(0).integers(0, 256, (1, 45, 60, 3), dtype=np.uint8)  # tells apart how models resize


@dataclass(frozen=True)
class Sight:
    """How controls see frames: as patches of a model's frozen features, or of pixels. `model` is None for pixels."""

    features: FrozenFeatures
    views: int
    model: FrozenFeaturesModel | None = None

    @classmethod
    def of(cls, model: VideoLabeller) -> "Sight":
        """See as a model does; raises `LattokError` for features that are no square of patches."""
        if not isinstance(model, FrozenFeaturesModel):
            return cls(FrozenFeatures("pixels", PIXELS), len(model.cameras))
        model.check_reads_video_alone()
        if model.features.count != model.features.side**2 + model.features.class_token:
            checks.fail("model", "one that looks at squares", f"{model.type} of {model.features.frame_size}")
        return cls(model.features, len(model.cameras), model)

    def __call__(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into features [..., V*N, D]."""
        if self.model is not None:
            return self.model.frame_features(frames)
        patches = self.features(frames.flatten(0, -4))
        return patches.reshape(*frames.shape[:-4], self.views * self.features.count, self.features.dim)

    def side(self, limit: int) -> int:
        """Find the largest side g of a grid with views x g x g x D at most `limit` numbers; at least 1."""
        fits = math.isqrt(limit // (self.views * self.features.dim))
        return max(1, min(fits, self.features.side))

    def pool(self, features: Tensor, side: int) -> Tensor:
        """Average features [T, V*N, D] over the grid to [T, V*side*side*D] on the CPU; the class token is left out."""
        full = self.features.side
        features = features.unflatten(1, (self.views, -1))[:, :, int(self.features.class_token) :].flatten(1, 2)
        if side < full:
            grid = rearrange(features, "t (v y x) d -> (t v) d y x", y=full, x=full)
            grid = F.adaptive_avg_pool2d(grid, side)
            features = rearrange(grid, "(t v) d y x -> t (v y x) d", v=self.views)
        return features.flatten(1).float().cpu()


@dataclass(frozen=True)
class PairSet:
    """n pairs of one split. `features` [F, D] holds each frame once; a pair is its rows `first` and `second`."""

    sight: Sight
    frames: FramePairs
    rows: np.ndarray  # [n] into `frames`
    features: Tensor
    first: Tensor
    second: Tensor
    state_change: Tensor | None  # [n, s], None without states
    flow: Tensor  # [n, V * 2 * cells], motion by block matching
    latents: LatentActions
    untrained: LatentActions | None  # None of a model that cannot start afresh

    @property
    def episode_of(self) -> np.ndarray:
        """Episode of each pair, [n]."""
        return self.frames.episode_of[self.rows]

    @property
    def text(self) -> str:
        spaced = ", evenly spaced" if len(self.rows) in MAX_PAIRS and len(self.rows) < len(self.frames) else ""
        return f"{out_of(len(self.rows), len(self.frames))}{spaced}"

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

    def targets(self, model: PredictsFrames, rows: Tensor) -> Tensor:
        """Compute what the decoder predicts, and what it predicts it from, [B, 2, N, D], of pairs `rows` [B]."""
        return model.frame_targets(self.pictures(rows))  # full features are too large to keep

    def encoded(self, model: EncodesFeatures) -> LatentActions:
        """Encode all pairs with another model of the same cameras and image size; the result is on the CPU."""
        parts = torch.arange(len(self.rows)).split(BATCH)
        with torch.no_grad():
            return join([to_cpu(model.encode_features(model.frame_features(self.pictures(rows)))) for rows in parts])

    @property
    def side(self) -> int:
        """Return the side of the grid over which the pooled features of a camera were averaged."""
        return self.sight.side(self.features.shape[1])

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
    def of(cls, case: Case, own_stride: int, decoded: dict[Any, np.ndarray] | None = None) -> "PairSource":
        """Return the pairs that a model is judged on, at its own stride and cameras where others are not given."""
        model, dataset, options = case.model, case.dataset, case.options
        stride = checks.stride_in_frames(options.stride, dataset.fps) if options.stride else own_stride
        action_key, state_key = options.action_key, options.state_of(dataset)
        if action_key == "action" and not own_vectors(dataset):
            action_key = None  # of video alone
        cameras = tuple(options.cameras or model.cameras)
        return cls(dataset, stride, action_key, state_key, cameras, options.folder, decoded)

    def pairs(self, model: VideoLabeller, episodes: list[int]) -> FramePairs:
        """Decode the frames of `episodes` at the model's size, or take those that are kept."""
        pairs = FramePairs(
            self.dataset,
            self.stride,
            self.cameras,
            PairLabels(self.action_key, labelled_fraction=0.0),
            state_key=self.state_key,
            episodes=episodes,
            transform=model.resize,
            cache_dir=self.cache_dir,
        )
        if self.decoded is None:
            return pairs
        sight = (pairs.cameras, model.resize(NOISE).tobytes())
        if any(kept[:2] != sight for kept in self.decoded):
            self.decoded.clear()
        key = (*sight, *episodes)
        pairs.frames = self.decoded[key] if key in self.decoded else self.decoded.setdefault(key, pairs.frames)
        return pairs


def read_pair_set(
    source: PairSource, model: VideoLabeller, fresh: Any, episodes: list[int], most: int, note: Progress
) -> PairSet:
    """Decode the episodes, compute features and both models' latent actions of at most `most` pairs, evenly spaced.

    `fresh` is the model untrained, or None.
    """
    sight, frames = Sight.of(model), source.pairs(model, episodes)
    kept = _labelled(model, frames)
    rows = kept[evenly(len(kept), most).numpy()]
    used = np.unique(np.concatenate([frames.first[rows], frames.second[rows]]))
    grid = sight.side(min(MAX_FRAME_NUMBERS, MAX_SPLIT_NUMBERS // len(used)))
    features = torch.empty(len(used), sight.views * grid**2 * sight.features.dim)
    labellers = [model] if fresh is None else [model, fresh]
    found, flow, row = [list[LatentActions]() for _ in labellers], list[Tensor](), 0
    for done, episode in enumerate(np.unique(frames.episode_of[rows])):
        pairs = rows[frames.episode_of[rows] == episode]
        here = np.unique(np.concatenate([frames.first[pairs], frames.second[pairs]]))
        blocks = (np.asarray(frames.frames[here[i : i + BATCH]]) for i in range(0, len(here), BATCH))
        full = torch.cat([sight(torch.from_numpy(block)) for block in blocks])
        features[row : row + len(here)] = sight.pool(full, grid)
        row += len(here)
        position = [torch.from_numpy(np.searchsorted(here, index[pairs])) for index in (frames.first, frames.second)]
        for each, parts in zip(labellers, found, strict=True):
            parts.append(_labels(each, frames, pairs, full, position))
        for i in range(0, len(pairs), BATCH):
            flow.append(block_flow(frames.batch(torch.from_numpy(pairs[i : i + BATCH])).frames))
        note(done + 1, len(episodes))
    first, second = (torch.from_numpy(np.searchsorted(used, index[rows])) for index in (frames.first, frames.second))
    change = None
    if source.state_key is not None:
        states = read_vectors(source.dataset, "state_key", source.state_key, select_episodes(source.dataset, episodes))
        change = torch.from_numpy(states[frames.second[rows]] - states[frames.first[rows]])
    latents, *untrained = (join(parts) for parts in found)
    moved = torch.cat(flow)
    return PairSet(sight, frames, rows, features, first, second, change, moved, latents, next(iter(untrained), None))


def _labelled(model: Any, frames: FramePairs) -> np.ndarray:
    """List the pairs [n] whose first frame has a label: of what labels video all."""
    if not isinstance(model, GivenLabels):
        return np.arange(len(frames))
    known = {index: model.labelled(index) for index in np.unique(frames.episode_of).tolist()}
    pairs = zip(frames.episode_of.tolist(), frames.frame_of.tolist(), strict=True)
    kept = np.flatnonzero([known[episode][frame] for episode, frame in pairs])
    if not len(kept):
        if not any(each.any() for each in known.values()):
            expected = f"labels in one of the episodes {checks.few_of([*known], 5)}"
            checks.fail("labels", expected, "none: all are NaN, infinite or below 0", "Choose others: episodes.")
        expected = f"labels of frames from which another is {frames.stride} later"
        checks.fail("labels", expected, "none", "Give a shorter stride.")
    if len(kept) < len(frames):
        checks.note(f"{model.source}: {len(frames) - len(kept)} of {len(frames)} pairs have no label and are left out")
    return kept


def _labels(
    model: Any, frames: FramePairs, pairs: np.ndarray, features: Tensor, position: Sequence[Tensor]
) -> LatentActions:
    """Label `pairs` of one episode: by features [F, N, D] of its frames, where both frames of pairs are at `position`,
    as clips, or out of the labels of its whole video."""
    starts = range(0, len(pairs), BATCH)
    if isinstance(model, ClipLAM):
        return join([to_cpu(_of_clips(model, frames, pairs[i : i + BATCH])) for i in starts])
    if isinstance(model, PairModel):
        both = (torch.stack([features[p[i : i + BATCH]] for p in position], 1) for i in starts)  # b 2 n d
        return join([to_cpu(model.encode_features(each)) for each in both])
    whole = np.flatnonzero(frames.episode_of == frames.episode_of[pairs[0]])
    first, last = int(frames.first[whole[0]]), int(frames.second[whole[-1]])
    inputs = {}
    if model.reads_task:
        moments = np.arange(last - first + 1).clip(max=len(whole) - 1)  # none of the last ones begins a pair
        inputs = {"task": [frames.tasks[i] for i in frames.task_of[whole[moments]]]}
    if isinstance(model, GivenLabels):
        labels = model.labels_of(int(frames.episode_of[pairs[0]]))
    else:
        labels = model.label_video(np.asarray(frames.frames[first : last + 1]), frames.stride, **inputs)
    what = f"labels of {model.type or type(model).__name__}"
    checked = _checked(labels, what, last - first + 1, model.codebook_size or 0)
    return to_cpu(checked[torch.from_numpy(frames.first[pairs] - first)])


def _of_clips(model: ClipLAM, frames: FramePairs, pairs: np.ndarray) -> LatentActions:
    """Label the clips between the frames of pairs, with the instructions at their beginning."""
    clips = frames.frames[frames.first[pairs][:, None] + np.array(model.config.gaps(frames.stride))]
    return model.encode(torch.from_numpy(np.asarray(clips)), [frames.tasks[i] for i in frames.task_of[pairs]])


def _checked(labels: LatentActions, what: str, count: int, size: int | None) -> LatentActions:
    """Return the labels of a video, arrays or tensors, as tensors; raises `LattokError` where they are no labels of
    `count` frames, or codes are not those of a codebook of `size`; None: of any."""
    codes, latents, quantized = (as_tensor(what, part) for part in (labels.codes, labels.latents, labels.quantized))
    for name, part, axes in (("codes", codes, "T P"), ("latents", latents, "T P d"), ("quantized", quantized, "T P d")):
        checks.rank(f"{what}, {name}", part, axes)
        checks.size(f"{what}, {name}", "rows, one for each frame", len(part), count)
    if codes.shape[1] and size is not None and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        got = f"{int(codes.min())} to {int(codes.max())}"
        checks.fail(f"{what}, codes", f"none from a codebook_size of {size}" if not size else f"0 to {size - 1}", got)
    checks.finite(f"{what}, latents", latents)
    env = None if labels.env is None else _checked(labels.env, f"{what}, env", count, None)
    return LatentActions(codes.long(), latents, quantized, env)


def to_cpu(latents: LatentActions) -> LatentActions:
    """Move latent actions to the CPU, in float32."""
    env = None if latents.env is None else to_cpu(latents.env)
    return LatentActions(latents.codes.cpu(), latents.latents.float().cpu(), latents.quantized.float().cpu(), env)


def exchange(
    latents: LatentActions, control: Tensor, env: Tensor, device: torch.device, keep: float = 1.0, keep_env: float = 1.0
) -> LatentActions:
    """Take vectors of the control stream from rows `control`, times `keep`, and the environment's from rows `env`."""
    other = None if latents.env is None else exchange(latents.env, env, env, device, keep_env)
    chosen = latents[control]
    return replace(chosen, quantized=chosen.quantized.to(device) * keep, env=other)


def derangement(groups: np.ndarray, generator: torch.Generator) -> Tensor:
    """Draw for each row [n] another row of its group; a row that is alone in its group keeps itself."""
    partner = torch.arange(len(groups))
    for group in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return partner
