"""Mutual information between codes and the direction of the action.

direction     the axis along which the mean action departs most from its training mean, in standard deviations, and sign
per position  I = sum p(k, y) log2 p(k, y) / p(k) p(y), minus what codes shifted against the actions would show
usable        H - cross entropy of a linear classifier that reads all positions, fitted on the training episodes

Shifts move the actions along the pairs as a whole, so that both change as slowly as they do: a plain shuffle would
underestimate what chance shows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.evaluation.controls import Target
from lattok.evaluation.intervals import Bootstrap, jackknife
from lattok.evaluation.probes import left_out, one_hot
from lattok.evaluation.report import Interval

SHIFTS = 20
PENALTIES = (1e-4, 1e-3, 1e-2)


class Directions(NamedTuple):
    """Direction of every pair's action: [n] and [N] int64, below `len(names)`."""

    train: Tensor
    held_out: Tensor
    names: tuple[str, ...]


class Information(NamedTuple):
    """Bits that codes hold about the direction."""

    positions: list[float]
    intervals: list[Interval | None]
    usable: Tensor  # [N] per held-out pair; the mean is the figure

    @property
    def bits(self) -> float:
        """Usable bits from all positions."""
        return float(self.usable.mean())


def directions(target: Target, dims: list[int], names: tuple[str, ...]) -> Directions:
    """Over the dimensions `dims`, two directions each."""
    mean, spread = target.train[:, dims].mean(0), target.train[:, dims].std(0, unbiased=False).clamp_min(1e-9)

    def of(actions: Tensor) -> Tensor:
        scaled = (actions[:, dims] - mean) / spread
        axis = scaled.abs().argmax(1)
        return 2 * axis + (scaled.gather(1, axis[:, None])[:, 0] > 0).long()

    labels = tuple(f"{names[dim]}{sign}" for dim in dims for sign in "−+")
    return Directions(of(target.train), of(target.held_out), labels)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """Plug-in estimate in bits, from int64 [N] and [N]."""
    joint = torch.bincount(a * (int(b.max()) + 1) + b, minlength=(int(a.max()) + 1) * (int(b.max()) + 1))
    joint = joint.reshape(int(a.max()) + 1, -1).double() / len(a)
    chance = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / chance[seen]).log2()).sum())


def corrected_information(a: Tensor, b: Tensor) -> float:
    """Mutual information minus its mean over circular shifts of `b`: about 0 for what is independent."""
    count = len(b)
    offsets = np.unique(np.linspace(count * 0.1, count * 0.9, SHIFTS).round().astype(int))
    chance = [mutual_information(a, b.roll(int(offset))) for offset in offsets if 0 < offset < count]
    return mutual_information(a, b) - float(np.mean(chance or [0.0]))


def information(
    train: Tensor, held_out: Tensor, size: int, found: Directions, target: Target, bootstrap: Bootstrap
) -> Information:
    """What codes [n, P], [N, P] of `size` say about the direction of held-out pairs."""
    y, episodes = found.held_out, range(bootstrap.count)
    positions, intervals = [], []
    for column in held_out.T:
        value = corrected_information(column, y)
        parts = [bootstrap.index != e for e in episodes] if bootstrap.count > 1 else []
        positions.append(value)
        intervals.append(jackknife(value, [corrected_information(column[keep], y[keep]) for keep in parts]))
    return Information(positions, intervals, usable_bits(one_hot(train, size), one_hot(held_out, size), found, target))


def usable_bits(x: Tensor, x_test: Tensor, found: Directions, target: Target) -> Tensor:
    """Bits per held-out pair [N] that a linear classifier gains over the training split's frequencies."""
    classes, y = len(found.names), found.train
    left = left_out(target.episodes)
    scores = [float(F.cross_entropy(_logits(x[~left], y[~left], x[left], classes, p), y[left])) for p in PENALTIES]
    logits = _logits(x, y, x_test, classes, PENALTIES[scores.index(min(scores))])
    base = (torch.bincount(y, minlength=classes) + 1.0).log().log_softmax(0)  # + 1: none is impossible
    own = F.cross_entropy(logits, found.held_out, reduction="none")
    return ((-base[found.held_out] - own) / np.log(2)).double()


def _logits(x: Tensor, y: Tensor, x_test: Tensor, classes: int, penalty: float) -> Tensor:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS; deterministic."""
    weights = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    padded, padded_test = F.pad(x.float(), (0, 1), value=1.0), F.pad(x_test.float(), (0, 1), value=1.0)
    solver = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        with torch.enable_grad():
            value = F.cross_entropy(padded @ weights, y) + penalty * weights[:-1].square().sum()
            (weights.grad,) = torch.autograd.grad(value, weights)
        return value

    solver.step(loss)  # pyright: ignore[reportArgumentType]
    return (padded_test @ weights).detach()
