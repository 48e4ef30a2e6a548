"""Probes: ridge regression from inputs to actions, MLPs on top of it, exact PCA for wide inputs, bootstrap intervals.

y^ = ridge(x) + W2 relu(W1 x + b1) + b2        W2 = 0 at the start, so that an MLP begins as the linear probe
R^2 = 1 - sum (y - y^)^2 / sum (y - mean of the training y)^2          per dimension, on held-out rows
R^2* = 1 - sum_e w_e SSE_e / sum_e w_e SST_e        w: how often each of E episodes is drawn in E draws

Pairs of one episode resemble one another, so intervals draw whole episodes. Percentiles of so few draws are too near
(for the mean of 5 normal numbers they hold it in 84 % of cases, of 20 in 93 %), so they are moved apart, around the
median, by t(E - 1) / z * sqrt(E / (E - 1)): to where Student's interval of a mean has them. Ridge, and width and weight
decay of MLPs, "no hidden layer" among the choices, are chosen on training episodes left out.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.data.episodes import FEW_HELD_OUT
from lattok.evaluation import student
from lattok.evaluation.report import Interval
from lattok.nn.ridge import RIDGES, ridge_predictions, spread_of
from lattok.samples.policy import PolicyWindows
from lattok.utils import checks

COLUMNS = 4096
LEAVE_OUT_EVERY = 4  # every fourth training episode chooses the regularisation
DRAWS = 1000  # of episodes, for intervals
Z = 1.959964  # 97.5 % of a normal number is below
CHOICES = ((16, 0.1), (16, 1.0), (64, 0.1), (64, 1.0))  # of an MLP: hidden units, weight decay
STEPS, BATCH, LR = 300, 256, 0.01


class Probe(NamedTuple):
    """A fitted probe on N held-out rows."""

    predicted: Tensor  # [N, m] in the units of the actions
    errors: Tensor  # [N, m] squared
    deviations: Tensor  # [N, m] squared, from the mean of the training actions; NaN where they never leave it
    ridge: float
    validation: float  # mean R^2 on the training episodes left out, which chose `ridge`

    @property
    def r2(self) -> Tensor:
        """R^2 per dimension, [m]; NaN where there is nothing to explain."""
        return 1 - self.errors.sum(0) / self.deviations.sum(0)


class Fold(NamedTuple):
    """Training rows that a probe is fitted to, and held-out rows that it is judged on."""

    train: Tensor  # int64
    held_out: Tensor


class Components(NamedTuple):
    """Principal components of some rows."""

    mean: Tensor  # [D]
    basis: Tensor  # [D, k], orthonormal, by falling variance

    def project(self, rows: Tensor) -> Tensor:
        """Turn rows [N, D] into coordinates [N, k]."""
        return rows @ self.basis - self.mean @ self.basis


def score(predicted: Tensor, actual: Tensor, train: Tensor, ridge: float = 0.0, validation: float = 0.0) -> Probe:
    """Compare predictions [N, m] with what they should have been; the mean of training actions `train` [n, m] scores 0.
    There is nothing to explain where held-out actions leave that mean by less than a hundredth of the training
    deviation. Raises `LattokError` where predictions are not finite, as those from labels with NaN."""
    checks.finite("predictions of the actions", predicted, "Its labels may have NaN or infinity.")
    reference = train.double().mean(0)
    errors, squared = ((each - actual).double().square() for each in (predicted, reference))
    least = 1e-12 * (1 + reference.square()) + 1e-4 * train.double().var(0, unbiased=False)
    constant = squared.mean(0) <= least
    return Probe(predicted, errors, torch.where(constant, torch.nan, squared), ridge, validation)


def merge_folds(probes: Sequence[Probe], folds: Sequence[Fold]) -> Probe:
    """Make one probe of those of folds that share the held-out rows between them."""
    order = torch.cat([fold.held_out for fold in folds]).argsort()
    *rows, ridges, scores = zip(*probes, strict=True)
    predicted, errors, squares = (torch.cat(part)[order] for part in rows)
    return Probe(predicted, errors, squares, sum(ridges) / len(probes), sum(scores) / len(probes))


def validation_rows(groups: np.ndarray) -> Tensor:
    """Mark the rows [N] that choose hyperparameters: every fourth episode, or the last quarter of a single one."""
    episodes = np.unique(groups)
    if len(episodes) == 1:
        return torch.arange(len(groups)) >= len(groups) * 3 // 4
    kept = episodes[LEAVE_OUT_EVERY - 1 :: LEAVE_OUT_EVERY] if len(episodes) >= LEAVE_OUT_EVERY else episodes[-1:]
    return torch.from_numpy(np.isin(groups, kept))


def linear_probe(x: Tensor, y: Tensor, groups: np.ndarray, x_test: Tensor, y_test: Tensor) -> Probe:
    """Fit on x [n, d], y [n, m] (episodes `groups` [n]), judge on x_test, y_test; lambda by leaving out episodes."""
    x, y, x_test, y_test = x.double(), y.double(), x_test.double(), y_test.double()
    validation, ridge = choose_ridge(x, y, groups)
    return score(ridge_predictions(x, y, x_test, [ridge])[0], y_test, y, ridge, validation)


def choose_ridge(x: Tensor, y: Tensor, groups: np.ndarray) -> tuple[float, float]:
    """Return the best mean R^2 on episodes left out of x [n, d], y [n, m], and the lambda that has it; of equals the
    strongest."""
    x, y, left = x.double(), y.double(), validation_rows(groups)
    predicted = ridge_predictions(x[~left], y[~left], x[left], RIDGES)
    return max((validation_score(p, y[left], y[~left]), ridge) for p, ridge in zip(predicted, RIDGES, strict=True))


def validation_score(predicted: Tensor, actual: Tensor, train: Tensor) -> float:
    """Average R^2 over dimensions, of predictions for rows that were left out of `train` [n, m]."""
    return float(score(predicted, actual, train).r2.nan_to_num(0.0).mean())


def pca(rows: Tensor, k: int) -> Components:
    """Find the first `k` principal components of rows [N, D], exactly, by the smaller of Gram and covariance matrix."""
    mean = rows.mean(0)
    k = min(k, *rows.shape)
    if len(rows) >= rows.shape[1]:
        centred = rows - mean
        return Components(mean, _eigh(centred.T @ centred)[1][:, -k:].flip(1))
    blocks = torch.arange(rows.shape[1]).split(COLUMNS)  # a centred copy of everything would double the memory
    gram = torch.zeros(len(rows), len(rows), dtype=rows.dtype)
    for block in blocks:
        centred = rows[:, block] - mean[block]
        gram.addmm_(centred, centred.T)
    values, vectors = (part[..., -k:].flip(-1) for part in _eigh(gram))
    basis = torch.cat([(rows[:, block] - mean[block]).T @ vectors for block in blocks])
    return Components(mean, basis / values.clamp_min(1e-12).sqrt())


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose a symmetric matrix; where its rank is low, float32 may not converge or give NaN."""
    with suppress(RuntimeError):  # LinAlgError
        values, vectors = torch.linalg.eigh(matrix)
        if torch.isfinite(vectors).all():
            return values, vectors
    values, vectors = torch.linalg.eigh(matrix.double())
    return values.to(matrix.dtype), vectors.to(matrix.dtype)


def one_hot(codes: Tensor, train: Tensor) -> Tensor:
    """Turn codes [N, P] into float [N, d]: a column for each of the d codes that the training rows `train` [n, P] have
    at a position, so that a vocabulary of 65,536 costs no more than what is used of it. Others are zeros."""
    columns = (codes[:, p, None] == train[:, p].unique() for p in range(codes.shape[1]))
    return torch.cat(tuple(columns), 1).float()


def one_hot_tasks(*samples: PolicyWindows) -> list[Tensor]:
    """Turn the instruction of every sample into a row, float [n, tasks]; `samples` have the same columns."""
    tasks = {task: i for i, task in enumerate(dict.fromkeys(task for each in samples for task in each.tasks))}
    numbers = (torch.tensor([tasks[task] for task in each.tasks])[each.task_of] for each in samples)
    return [F.one_hot(each, len(tasks)).float() for each in numbers]


class Bootstrap:
    """The same draws for every probe on the same held-out rows, so that differences are paired."""

    def __init__(self, groups: np.ndarray, seed: int):
        """Draw episodes; `groups` [N] holds the episode of every held-out row."""
        episodes, index = np.unique(groups, return_inverse=True)
        self.episodes, self.count = tuple(episodes.tolist()), len(episodes)
        self.index = torch.from_numpy(index)
        drawn = torch.randint(self.count, (DRAWS, self.count), generator=torch.Generator().manual_seed(seed))
        self.weights = torch.zeros(DRAWS, self.count, dtype=torch.float64)
        self.weights.scatter_add_(1, drawn, torch.ones_like(self.weights))

    def r2(self, probe: Probe) -> Tensor:
        """Compute R^2 per draw and dimension, [draws, m]."""
        return 1 - self.sums(probe.errors) / self.sums(probe.deviations)

    def sums(self, rows: Tensor) -> Tensor:
        """Sum up the drawn episodes' rows [N, m], per draw: [draws, m]."""
        per_episode = torch.zeros(self.count, rows.shape[1], dtype=torch.float64).index_add(0, self.index, rows)
        return self.weights @ per_episode

    def mean(self, values: Tensor) -> Tensor:
        """Average one value per held-out row [N] over the drawn episodes, per draw: [draws]."""
        return (self.sums(values[:, None]) / self.sums(torch.ones(len(values), 1, dtype=torch.float64)))[:, 0]

    def interval(self, values: Tensor) -> Interval | None:
        """Compute the interval of one value per draw, [draws]; None where fewer than five judge."""
        values = values[values.isfinite()]
        if self.count < FEW_HELD_OUT or not len(values):
            return None
        low, middle, high = torch.quantile(values, torch.tensor((0.025, 0.5, 0.975), dtype=values.dtype)).tolist()
        apart = student.quantile(0.975, self.count - 1) / Z * math.sqrt(self.count / (self.count - 1))
        return middle + apart * (low - middle), middle + apart * (high - middle)


def above_zero(gain: float, interval: Interval | None) -> bool | None:
    """Return whether a gain is above zero; None where its interval includes zero, or where there is none."""
    return None if interval is None or interval[0] <= 0 <= interval[1] else gain > 0


def mlp_probe(
    x: Tensor, y: Tensor, groups: np.ndarray, x_test: Tensor, y_test: Tensor, linear: Probe, seed: int
) -> Probe:
    """Fit a hidden layer on top of `linear` on x [n, d], y [n, m] (episodes `groups` [n]); judge on x_test, y_test.
    Width and weight decay do best on training episodes left out; where no layer helps there, it is left out."""
    x, y, x_test, y_test = x.double(), y.double(), x_test.double(), y_test.double()

    def predictions(rows: Tensor, known: Tensor, asked: Tensor, choices: Sequence[tuple[int, float]]) -> list[Tensor]:
        """Predict for `asked` [N, d] by the linear probe alone, then with each network on top of it."""
        found = ridge_predictions(rows, known, torch.cat([rows, asked]), [linear.ridge])[0]
        (own, predicted), scale = found.split([len(rows), len(asked)]), spread_of(known)
        networks = train_networks(rows, (known - own) / scale, asked, choices, seed)
        return [predicted, *(predicted + output * scale for output in networks)]

    left = validation_rows(groups)
    scores = [validation_score(p, y[left], y[~left]) for p in predictions(x[~left], y[~left], x[left], CHOICES)]
    best = scores.index(max(scores))  # of equals the simplest
    predicted = predictions(x, y, x_test, CHOICES[best - 1 : best] if best else ())[-1]
    return score(predicted, y_test, y, linear.ridge, scores[best])


@torch.enable_grad()
def train_networks(
    x: Tensor, targets: Tensor, x_test: Tensor, choices: Sequence[tuple[int, float]], seed: int
) -> list[Tensor]:
    """Train a network for each choice on x [k, d], targets [k, m]; outputs [N, m] of each for x_test, float64. All see
    the same batches and begin with the same first weights, as many as they have hidden units."""
    shift, scale, targets = x.mean(0).float(), spread_of(x).float(), targets.float()
    rows, judged = ((each.float() - shift) / scale for each in (x, x_test))
    found = []
    for hidden, decay in choices:
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(x.shape[1], CHOICES[-1][0], generator=generator)[:, :hidden] / math.sqrt(x.shape[1])
        zeros = (torch.zeros(size) for size in ((hidden,), (hidden, targets.shape[1]), targets.shape[1:]))
        w1, b1, w2, b2 = weights = [part.requires_grad_() for part in (first.contiguous(), *zeros)]
        optimizer = torch.optim.Adam(weights, LR, fused=True)
        for step in range(STEPS):
            rate = optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
            drawn = (torch.rand(BATCH, generator=generator) * len(rows)).long()
            output = torch.addmm(b2, torch.addmm(b1, rows[drawn], w1).relu(), w2)
            optimizer.zero_grad()
            F.mse_loss(output, targets[drawn]).backward()
            optimizer.step()
            for part in weights:
                part.detach().mul_(1 - rate * decay)
        found.append(torch.addmm(b2, torch.addmm(b1, judged, w1).relu(), w2).detach().double())
    return found
