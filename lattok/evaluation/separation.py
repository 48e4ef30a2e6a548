"""Which stream sees a distractor: a coloured patch that moves over both frames of a pair, drawn by the evaluation.

Position and velocity are random for every pair and the same in all cameras; what is under the patch is hidden. Probes
read the robot's action, and the patch's motion, from latents of the frames with the patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.controls import Coordinates, Target
from lattok.evaluation.intervals import Bootstrap
from lattok.evaluation.latent import Evidence
from lattok.evaluation.mlp import mlp_probes
from lattok.evaluation.pairs import BATCH, PairSet, chosen_rows, pool, pooled_side, to_cpu
from lattok.evaluation.probes import Fold, Probe, one_hot
from lattok.evaluation.report import Interval
from lattok.evaluation.split import evenly
from lattok.training import mix
from lattok.types import LatentActions, join

MOST = (1200, 600)  # pairs of each split: their features are computed anew
SIZE = 0.25  # side of the patch as a share of the frame


class Overlay(NamedTuple):
    """A patch per pair: where it is in both frames, and its colour."""

    places: Tensor  # [n, 2, 2] upper left corner (y, x) as a share of the room there is
    colour: Tensor  # [n, 3] uint8

    @property
    def motion(self) -> Tensor:
        """Velocity (y, x) in frame widths, [n, 2]."""
        return (self.places[:, 1] - self.places[:, 0]) * (1 - SIZE)

    @classmethod
    def random(cls, count: int, seed: int) -> Overlay:
        """Patches for `count` pairs; the velocity is at most half the patch's own size in each direction."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.rand(count, 2, generator=generator)
        reach = SIZE / 2 / (1 - SIZE)
        second = first + (2 * torch.rand(count, 2, generator=generator) - 1) * reach
        second = torch.where((second < 0) | (second > 1), 2 * first - second, second)  # turns round at the edge
        colour = torch.randint(256, (count, 3), generator=generator, dtype=torch.uint8)
        return cls(torch.stack([first, second], 1), colour)

    def draw(self, frames: Tensor, rows: Tensor) -> Tensor:
        """A copy of frames uint8 [B, 2, V, h, w, 3] of pairs `rows` [B] with their patches."""
        frames = frames.clone()
        height, width = frames.shape[3:5]
        side = [max(1, round(SIZE * length)) for length in (height, width)]
        for i, row in enumerate(rows.tolist()):
            for moment in range(2):
                y, x = (
                    round(float(share) * (length - cut))
                    for share, length, cut in zip(self.places[row, moment], (height, width), side, strict=True)
                )
                frames[i, moment, :, y : y + side[0], x : x + side[1]] = self.colour[row]
        return frames


class Disturbed(NamedTuple):
    """Some pairs of a split with the patch over them."""

    rows: Tensor  # [k] into the split
    latents: LatentActions
    untrained: LatentActions
    change: Tensor  # [k, D] of pooled features
    motion: Tensor  # [k, 2]


class Carried(NamedTuple):
    """What an input carries, as probes; those of the action are None where there are no actions."""

    key: str
    name: str
    control: bool
    clean: Probe | None  # the action, without the patch, on the same pairs
    distracted: Probe | None  # the action, with it
    fixed: Probe | None  # the same, by the probe that was fitted without it
    distractor: Probe  # the motion of the patch, by an MLP
    changed: float | None = None  # squared change by the patch ÷ variance; 2 is as far as another pair

    @property
    def kept(self) -> float | None:
        """Share of the R^2 that is left."""
        if self.clean is None or self.distracted is None or mean_r2(self.clean) <= 0:
            return None
        return mean_r2(self.distracted) / mean_r2(self.clean)

    def kept_interval(self, bootstrap: Bootstrap) -> Interval | None:
        """Interval of that share."""
        if self.clean is None or self.distracted is None or mean_r2(self.clean) <= 0:
            return None
        shares = [bootstrap.r2(probe).nanmean(1) for probe in (self.distracted, self.clean)]
        return bootstrap.interval(shares[0] / shares[1])


def mean_r2(probe: Probe) -> float:
    """Over all dimensions."""
    return float(probe.r2.nanmean())


@torch.no_grad()
def disturbed(evidence: Evidence, pairs: PairSet, most: int, seed: int) -> Disturbed:
    """At most `most` pairs, evenly spaced, seen with the patch."""
    rows = torch.tensor(evenly(list(range(len(pairs.rows))), most))
    overlay = Overlay.random(len(rows), seed)
    model = evidence.model
    side = pooled_side(model, pairs.features.shape[1])  # the grid that the other controls see, too
    own, fresh, change = [], [], []
    for part in torch.arange(len(rows)).split(BATCH):
        frames = pairs.frames.batch(torch.from_numpy(pairs.rows)[rows[part]]).frames
        features = model.frame_features(overlay.draw(frames, part))
        own.append(to_cpu(model.encode_features(features)))
        fresh.append(to_cpu(evidence.untrained.encode_features(features)))
        now, later = (pool(frame, model, side) for frame in features.unbind(1))
        change.append(later - now)
    return Disturbed(rows, join(own), join(fresh), torch.cat(change), overlay.motion)


class Separation(NamedTuple):
    """What the model's streams and the controls carry, and the draws of held-out episodes for intervals."""

    carried: list[Carried]
    bootstrap: Bootstrap


class Targets(NamedTuple):
    """What is read from the same pairs."""

    action: Target | None
    motion: Target
    seed: int


def separation(evidence: Evidence) -> Separation:
    """What the model's streams carry of the action and of the patch, then the controls."""
    train = disturbed(evidence, evidence.train, MOST[0], mix(evidence.seed, 11))
    held_out = disturbed(evidence, evidence.held_out, MOST[1], mix(evidence.seed, 12))
    episodes, action = evidence.train.episode_of[train.rows.numpy()], None
    if evidence.target is not None:
        full = evidence.target
        action = Target(full.train[train.rows], episodes, full.held_out[held_out.rows])
    targets = Targets(action, Target(train.motion, episodes, held_out.motion), evidence.seed)
    size, env_size = evidence.size, evidence.env_size
    inputs: list[tuple[str, str, Callable[[Any], Tensor]]] = [
        ("codes", "one-hot codes", lambda x: one_hot(x.codes, size)),
        ("latents", "latents", lambda x: x.latents.flatten(1)),
        ("env_codes", "environment codes", lambda x: one_hot(x.env.codes, env_size)),
        ("env_latents", "environment latents", lambda x: x.env.latents.flatten(1)),
    ]
    found = []
    for key, name, pick in inputs:
        if ("codes" in key and evidence.codes is None) or ("env" in key and train.latents.env is None):
            continue
        clean = [
            pick(chosen_rows(pairs.latents, part.rows))
            for pairs, part in ((evidence.train, train), (evidence.held_out, held_out))
        ]
        found.append(_carried(key, name, targets, clean, [pick(train.latents), pick(held_out.latents)], False))
    found += _controls(evidence, train, held_out, targets)
    return Separation(found, Bootstrap(evidence.held_out.episode_of[held_out.rows.numpy()], evidence.seed))


def _controls(evidence: Evidence, train: Disturbed, held_out: Disturbed, targets: Targets) -> list[Carried]:
    """The raw frame change, its components fitted to either kind of frames, and the untrained model."""
    change = evidence.change
    clean = Coordinates(change.train[train.rows], change.held_out[held_out.rows])
    seen = Coordinates.fit(train.change, held_out.change)
    size = seen.best_size(targets.action or targets.motion)
    raw = _carried(
        "pca_change", f"raw frame change (PCA {size})", targets, clean.first(size), seen.first(size), fixed=False
    )
    before = [
        chosen_rows(pairs.untrained, part.rows).latents.flatten(1)
        for pairs, part in ((evidence.train, train), (evidence.held_out, held_out))
    ]
    now = [part.untrained.latents.flatten(1) for part in (train, held_out)]
    return [raw, _carried("untrained", "untrained model, latents", targets, before, now)]


def _carried(
    key: str,
    name: str,
    targets: Targets,
    clean: Sequence[Tensor],
    seen: Sequence[Tensor],
    control: bool = True,
    fixed: bool = True,
) -> Carried:
    """From inputs [k, d] of both splits without the patch, and with it; `fixed`: both have the same coordinates."""
    motion = targets.motion
    everything = (Fold(torch.arange(len(seen[0])), torch.arange(len(seen[1]))),)
    linear = [motion.probe(*seen)]  # a straight line hardly sees the motion of something that can be anywhere
    (distractor,) = mlp_probes(
        seen[0], motion.train, motion.episodes, seen[1], motion.held_out, everything, linear, targets.seed
    )
    changed = None
    if fixed:
        spread = (clean[1] - clean[1].mean(0)).square().sum().clamp_min(1e-12)
        changed = float((seen[1] - clean[1]).square().sum() / spread)
    if targets.action is None:
        return Carried(key, name, control, None, None, None, distractor, changed)
    probe = targets.action.probe
    unchanged = probe(clean[0], seen[1]) if fixed else None
    return Carried(key, name, control, probe(*clean), probe(*seen), unchanged, distractor, changed)
