"""Invertible per-dimension maps between physical units and the range models like; saved inside every artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lattok import checks

KINDS = ("mean_std", "quantile", "min_max", "identity")
STATISTICS = (("mean", "std"), ("q01", "q99"), ("min", "max"))


class Normalizer(nn.Module):
    """normalised = (x - shift) / scale, per dimension. The buffers travel with the weights of the owner.

    `mean_std` gives zero mean and unit deviation; `quantile` maps the 1st and 99th percentile to -1 and 1, `min_max`
    the extremes. A dimension that never moves keeps scale 1, so that noise is not blown up.
    """

    def __init__(self, dim: int):
        super().__init__()
        checks.positive(dim=dim)
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.shift: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit(self, values: Tensor, kind: str | Sequence[str] = "mean_std", valid: Tensor | None = None) -> Normalizer:
        """Set the map from values [N, m]; returns self. `kind` for all dimensions or one per dimension.

        Only values where `valid` [N, m] holds count; a dimension without any keeps the identity.
        """
        checks.rank("values", values, "N m")
        checks.size("values", "dimensions", values.shape[1], len(self.shift))
        kinds = [kind] * len(self.shift) if isinstance(kind, str) else list(kind)
        checks.size("kind", "kinds, one per dimension", len(kinds), len(self.shift))
        for dim, one in enumerate(kinds):
            checks.one_of("kind", one, KINDS)
            column = values[:, dim] if valid is None else values[valid[:, dim], dim]
            if not torch.isfinite(column).all():
                checks.fail("values", "finite numbers", "NaN or infinity")
            self._set(dim, *_map(column.double().cpu().numpy(), one))
        return self

    @torch.no_grad()
    def set(self, statistics: Mapping[str, Sequence[float]]) -> Normalizer:
        """Set the map from known statistics, one number per dimension: mean and std, q01 and q99, or min and max.

        Other entries are ignored where one of these pairs is there (LeRobot's stats.json has several: the first
        pair counts).
        """
        pair = next((p for p in STATISTICS if all(name in statistics for name in p)), None)
        if pair is None:
            expected = "mean and std, q01 and q99, or min and max"
            checks.fail("statistics", expected, ", ".join(map(str, statistics)) or "nothing")
        first, second = (_numbers(name, statistics[name]) for name in pair)
        for name, values in zip(pair, (first, second), strict=True):
            checks.size(f"statistics[{name!r}]", "numbers", len(values), len(self.shift))
            if not np.isfinite(values).all():
                checks.fail(f"statistics[{name!r}]", "finite numbers", "NaN or infinity")
        if (second < (0 if pair[1] == "std" else first)).any():
            checks.fail(f"statistics[{pair[1]!r}]", "a spread of at least 0 in every dimension", "a negative one")
        for dim, (a, b) in enumerate(zip(first, second, strict=True)):
            self._set(dim, *((a, b, abs(a)) if pair[1] == "std" else ((a + b) / 2, (b - a) / 2, max(abs(a), abs(b)))))
        return self

    def _set(self, dim: int, shift: float, scale: float, largest: float) -> None:
        self.shift[dim] = shift
        self.scale[dim] = 1.0 if scale < 1e-6 * (1 + largest) else scale

    def forward(self, x: Tensor) -> Tensor:
        """Physical units to normalised, [..., m]."""
        return (x - self.shift) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised to physical units, [..., m]."""
        return x * self.scale + self.shift


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        checks.fail(f"statistics[{name!r}]", "numbers", f"{values!r:.60}")


def _map(column: np.ndarray, kind: str) -> tuple[float, float, float]:
    """Shift, scale and largest size of values [N]."""
    if kind == "identity" or not len(column):
        return 0.0, 1.0, 0.0
    largest = float(np.abs(column).max())
    if kind == "mean_std":
        return float(column.mean()), float(column.std()), largest
    low, high = np.quantile(column, (0.01, 0.99) if kind == "quantile" else (0.0, 1.0))
    return float(high + low) / 2, float(high - low) / 2, largest
