"""MLP probes: what a hidden layer reads beyond the linear probe.

y^ = ridge(x) + W2 relu(W1 x + b1) + b2        W2 = 0 at the start, so that the probe begins as the linear one

Width and weight decay are chosen on training episodes left out, "no hidden layer" among the choices. All choices of
all folds train side by side in batched matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.evaluation.evidence.probes import (
    Fold,
    Probe,
    judged,
    left_out,
    ridge_predictions,
    spread_of,
    validation_score,
)

CHOICES = ((16, 0.1), (16, 1.0), (64, 0.1), (64, 1.0))  # hidden units, weight decay
STEPS, BATCH, LR = 300, 256, 0.01


class Task(NamedTuple):
    """One network to train: rows of x, what the linear probe left of their targets, and a choice."""

    rows: Tensor  # [k]
    targets: Tensor  # [k, m], standardised
    hidden: int
    decay: float


class Base(NamedTuple):
    """The linear probe under a network."""

    predicted: Tensor  # [N, m]
    left: Tensor  # [k, m] of its own training targets, standardised
    scale: Tensor  # [m]

    def add(self, output: Tensor) -> Tensor:
        """Add a network's output [N, m]."""
        return self.predicted + output * self.scale

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, x_test: Tensor, ridge: float) -> Base:
        """Fit the linear probe on x [k, d], y [k, m], and predict for x_test [N, d]."""
        own, predicted = ridge_predictions(x, y, torch.cat([x, x_test]), [ridge])[0].split([len(x), len(x_test)])
        scale = spread_of(y)
        return cls(predicted, (y - own) / scale, scale)


def mlp_probes(
    x: Tensor,
    y: Tensor,
    groups: np.ndarray,
    x_test: Tensor,
    y_test: Tensor,
    folds: Sequence[Fold],
    linear: Sequence[Probe],
    seed: int,
) -> list[Probe]:
    """Fit one probe per fold on x [n, d], y [n, m], judge it on x_test, y_test; `linear` are the linear ones."""
    x, y, x_test, y_test = x.double(), y.double(), x_test.double(), y_test.double()
    chosen = _choose(x, y, groups, folds, linear, seed)
    bases = [Base.fit(x[f.train], y[f.train], x_test[f.held_out], p.ridge) for f, p in zip(folds, linear, strict=True)]
    hidden = [i for i, (choice, _) in enumerate(chosen) if choice is not None]
    tasks = [Task(folds[i].train, bases[i].left, *(chosen[i][0] or CHOICES[0])) for i in hidden]
    outputs = train_networks(x, tasks, [x_test[folds[i].held_out] for i in hidden], seed)
    predicted = [base.predicted for base in bases]
    for i, output in zip(hidden, outputs, strict=True):
        predicted[i] = bases[i].add(output)
    return [
        judged(predicted[i], y_test[fold.held_out], y[fold.train].mean(0), linear[i].ridge, chosen[i][1])
        for i, fold in enumerate(folds)
    ]


def _choose(
    x: Tensor, y: Tensor, groups: np.ndarray, folds: Sequence[Fold], linear: Sequence[Probe], seed: int
) -> list[tuple[tuple[int, float] | None, float]]:
    """Pick per fold what does best on its training episodes left out (None: no hidden layer); also its score."""
    fits, rests, bases = [], [], []
    for fold, found in zip(folds, linear, strict=True):
        left = left_out(groups[fold.train.numpy()])
        fits.append(fold.train[~left])
        rests.append(fold.train[left])
        bases.append(Base.fit(x[fits[-1]], y[fits[-1]], x[rests[-1]], found.ridge))
    tasks = [Task(fit, base.left, *choice) for fit, base in zip(fits, bases, strict=True) for choice in CHOICES]
    outputs = train_networks(x, tasks, [x[rest] for rest in rests for _ in CHOICES], seed)
    chosen = []
    for i, base in enumerate(bases):
        own = outputs[i * len(CHOICES) : (i + 1) * len(CHOICES)]
        options = [base.predicted, *map(base.add, own)]
        scores = [validation_score(option, y[rests[i]], y[fits[i]]) for option in options]
        best = scores.index(max(scores))  # of equals the simplest
        chosen.append((None if best == 0 else CHOICES[best - 1], scores[best]))
    return chosen


def train_networks(x: Tensor, tasks: Sequence[Task], x_test: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Train the networks of all tasks; each one's outputs [N, m] for its own x_test, float64."""
    if not tasks:
        return []
    generator = torch.Generator().manual_seed(seed)
    shape = Shape(x.shape[1], max(hidden for hidden, _ in CHOICES), tasks[0].targets.shape[1])
    weights = shape.start(generator).repeat(len(tasks), 1)  # c w
    shift = torch.stack([x[task.rows].mean(0) for task in tasks])[:, None].float()  # c 1 d
    scale = torch.stack([spread_of(x[task.rows]) for task in tasks])[:, None].float()
    active = (torch.arange(shape.hidden) < torch.tensor([[task.hidden] for task in tasks])).float()[:, None]  # c 1 h
    decay = torch.tensor([[task.decay] for task in tasks])
    optimizer = torch.optim.Adam([weights])
    numbers, targets = x.float(), [task.targets.float() for task in tasks]
    for step in range(STEPS):
        rate = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        drawn = torch.rand(BATCH, generator=generator)  # the same for all, so that no network depends on another
        picks = [(drawn * len(task.rows)).long() for task in tasks]
        rows = numbers[torch.stack([task.rows[p] for task, p in zip(tasks, picks, strict=True)])]  # c b d
        wanted = torch.stack([t[p] for t, p in zip(targets, picks, strict=True)])
        with torch.enable_grad():
            loss = shape.output(weights.requires_grad_(), active, (rows - shift) / scale).sub(wanted).square()
            (weights.grad,) = torch.autograd.grad(loss.mean((1, 2)).sum(), weights)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            weights.mul_(1 - rate * decay)
    with torch.no_grad():
        scaled = ((rows.float() - shift[i]) / scale[i] for i, rows in enumerate(x_test))
        return [shape.output(weights[i], active[i], rows).double() for i, rows in enumerate(scaled)]


class Shape(NamedTuple):
    """A network whose weights are one row of numbers: one tensor to optimise is quicker than four."""

    inputs: int
    hidden: int
    outputs: int

    def start(self, generator: torch.Generator) -> Tensor:
        """Draw a random first layer, with zeros after it."""
        first = torch.randn(self.inputs * self.hidden, generator=generator) / math.sqrt(self.inputs)
        return F.pad(first, (0, self.hidden + self.hidden * self.outputs + self.outputs))

    def output(self, weights: Tensor, active: Tensor, rows: Tensor) -> Tensor:
        """Apply weights [..., w] to rows [..., N, d]; `active` [..., 1, h] switches hidden units off."""
        d, h, m = self
        first, bias, second, last = weights.split([d * h, h, h * m, m], -1)
        hidden = (rows @ first.unflatten(-1, (d, h)) + bias[..., None, :]).relu() * active
        return hidden @ second.unflatten(-1, (h, m)) + last[..., None, :]
