"""A new robot for an encoder that others trained: a head of its own, in closed form, from a few known actions.

    a = W z + b         of each member, by ridge regression; z: latents of clips, as the frozen encoder gives them

Of each number of the action, known episodes that are left out choose the strength.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lattok.data import RobotDataset, camera_keys
from lattok.evaluation.evidence import evenly
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.image_lam.inverse.proprio_map import folds_of
from lattok.nn.ridge import RIDGES, ridge_map, ridge_predictions
from lattok.recipes.policy_sources import cameras_for
from lattok.recipes.several_robots import Placed
from lattok.samples.frames import FrameReader
from lattok.samples.policy import PolicyWindows
from lattok.utils import checks

FEWEST = 8  # known actions
COUNTS = (8, 16, 32, 64, 128)  # known actions at which it is said how right fewer would be
SURE = 2.0  # standard errors by which a head has to be better than the mean
ENCODER = ("projections.", "encoder.", "project.", "bottleneck.", "flow_head.", "ahead.")


class HeadFit(NamedTuple):
    rows: int  # known actions
    folds: int  # parts of them that were left out once
    r2: float  # of those that were left out, mean over the numbers that vary
    curve: dict[int, float]  # the same from fewer known actions, evenly spaced


class LeftOut(NamedTuple):
    """What is predicted of known actions that are left out, of each number by the strength that is best for it."""

    errors: Tensor  # [n, m] squared
    best: Tensor  # [m] places in `RIDGES`


def seen_by(dataset: RobotDataset, cameras: Sequence[str] | None, known: InverseDynamicsConfig) -> Placed:
    """Put a dataset's cameras into the places of those that an encoder knows: by name, else in their order."""
    if cameras is None:
        camera_keys(dataset)  # refuses one without any
        shown = [*cameras_for(dataset, known.cameras).values()]
    else:
        shown = [*camera_keys(dataset, cameras)]
        checks.counts(1, len(known.cameras), **{"number of cameras": len(shown)})
    places = known.places or range(len(known.cameras))
    own = {place: key for place, key in zip(places, shown, strict=False) if key is not None}
    views, keys = known.views or len(known.cameras), tuple(own.values())
    return Placed(dataset, keys, keys, tuple(own), views if [*own] != [*range(views)] else 0)


def start_from(model: InverseDynamics, before: InverseDynamics) -> None:
    """Copy the encoder of an earlier model, of the same architecture."""
    ours, theirs = model.state_dict(), before.state_dict()
    shared = {name for name in ours if any(part in name for part in ENCODER) and name in theirs}
    model.load_state_dict({name: theirs[name] for name in shared}, strict=False)


@torch.no_grad()
def fit_head(model: InverseDynamics, dataset: RobotDataset, samples: PolicyWindows) -> HeadFit:
    """Fit the heads to the known actions of samples. Raises `LattokError` where they are no better than the mean."""
    acted = samples.acted
    if (rows := int(acted.sum())) < FEWEST:
        checks.fail("action_episodes", f"at least {FEWEST} known actions", rows)
    stride = model.config.span * model.unit_frames(dataset.fps)
    parts = list[Tensor]()
    for episode in samples.episodes:
        frames = FrameReader(dataset, [episode], model.cameras, model.resize).all()
        parts.append(torch.as_tensor(model.label_video(frames, stride).quantized))
    x = torch.cat(parts)[acted].double()  # n e d
    y = model.action_normalizer(samples.actions[acted]).double()
    lengths = [int(part.sum()) for part in acted.split([episode.length for episode in samples.episodes])]
    folds = folds_of([length for length in lengths if length])
    mean = torch.zeros_like(y)
    for out in folds:
        mean[out] = y[~out].mean(0)
    left = _left_out(x, y, folds)
    r2 = _check_helps(y, left.errors, (mean - y).square())
    most = min(int((~out).sum()) for out in folds)
    counts = [count for count in COUNTS if 2 * count <= most]
    curve = {count: _r2(y, _left_out(x, y, folds, count).errors) for count in counts}
    for number, member in enumerate(x.unbind(1)):
        head = model.members[number].head
        for dim, place in enumerate(left.best.tolist()):
            weight, bias = ridge_map(member, y[:, [dim]], RIDGES[place])
            head.weight[dim].copy_(weight)
            head.bias[dim].copy_(bias)
    return HeadFit(rows, len(folds), r2, curve)


def _left_out(x: Tensor, y: Tensor, folds: Sequence[Tensor], count: int | None = None) -> LeftOut:
    """Predict y [n, m] of each fold from the others, or from `count` of their rows, by members' latents [n, e, d]."""
    predicted = y.new_zeros(len(RIDGES), *y.shape)
    for out in folds:
        rows = (~out).nonzero().flatten()
        if count is not None:
            rows = rows[evenly(len(rows), count)]
        for member in x.unbind(1):
            found = ridge_predictions(member[rows], y[rows], member[out], RIDGES)
            predicted[:, out] += torch.stack(found) / x.shape[1]
    errors = (predicted - y).square()  # r n m
    best = errors.sum(1).argmin(0)
    return LeftOut(errors[best, :, torch.arange(y.shape[1])].T, best)


def _r2(y: Tensor, errors: Tensor) -> float:
    """Return the mean R² of the numbers that vary, from squared errors [n, m]; NaN where none does."""
    return float((1 - _shares(y, errors).sum(0)).mean())


def _shares(y: Tensor, errors: Tensor) -> Tensor:
    """Return squared errors of the numbers that vary as shares of all their squares around the mean."""
    varies = y.std(0) > 1e-6
    return errors[:, varies] / (y - y.mean(0)).square().sum(0)[varies]


def _check_helps(y: Tensor, error: Tensor, of_mean: Tensor) -> float:
    """Return R² of the numbers that vary; require squared errors [n, m] that are surely less than those of the mean."""
    r2 = _r2(y, error)
    gains = (_shares(y, of_mean) - _shares(y, error)).mean(1)
    if not gains.mean() > SURE * gains.std() / len(gains) ** 0.5:
        got = "numbers that never vary" if math.isnan(r2) else f"R² {r2:.2f}, which is no better than their mean"
        hint = "Give more known actions, or train the encoder too: leave freeze out."
        checks.fail("init", f"an encoder from which {len(y)} known actions can be read", got, hint)
    return r2


def head_text(found: HeadFit, key: str) -> str:
    """Say how good the heads are."""
    how = f"({found.folds} parts, each left out once)"
    fewer = ", ".join(f"{r2:.2f} from {count}" for count, r2 in found.curve.items())
    fewer = f"; {fewer}" if fewer else ""
    return f"head: reads `{key}` with R² {found.r2:.2f} from {found.rows} known actions {how}{fewer}"
