"""Ridge regression for many strengths at once.

W = argmin |XW - Y|^2 + lambda n |W|^2        X, Y standardised on the n training rows
"""

from collections.abc import Iterable

import torch
from torch import Tensor

RIDGES = tuple(10.0**i for i in range(-6, 3))


def ridge_weights(x: Tensor, y: Tensor, ridges: Iterable[float]) -> list[Tensor]:
    """Solve for weights [d, m] for every lambda from x [n, d], y [n, m] float64, by one eigendecomposition."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    target = vectors.T @ (y if wide else x.T @ y)
    weights = [vectors @ (target / (values.clamp_min(0) + ridge * len(x))[:, None]) for ridge in ridges]
    return [x.T @ weight for weight in weights] if wide else weights


def ridge_predictions(x: Tensor, y: Tensor, x_test: Tensor, ridges: Iterable[float]) -> list[Tensor]:
    """Predict for x_test [N, d] from x [n, d], y [n, m], for every lambda."""
    shift, scale, mean, spread = x.mean(0), spread_of(x), y.mean(0), spread_of(y)
    x, x_test = (x - shift) / scale, (x_test - shift) / scale
    return [x_test @ weight * spread + mean for weight in ridge_weights(x, (y - mean) / spread, ridges)]


def ridge_map(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return weights [d] and bias in the units of x [n, d] and y [n, 1], for one lambda."""
    shift, scale, mean, spread = x.mean(0), spread_of(x), y.mean(0), spread_of(y)
    (weight,) = ridge_weights((x - shift) / scale, (y - mean) / spread, [ridge])
    found = weight[:, 0] / scale * spread
    return found, (mean - shift @ found)[0]


def spread_of(x: Tensor) -> Tensor:
    """Compute the standard deviation [d]; 1 for columns that never change."""
    spread = x.std(0, unbiased=False)
    return torch.where(spread > 1e-9, spread, 1.0)
