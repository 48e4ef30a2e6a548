"""Invertible per-dimension maps between physical units and the range models like; saved inside every artefact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lattok import checks

KINDS = ("mean_std", "quantile", "min_max", "identity")


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
    def fit(self, values: Tensor, kind: str = "mean_std") -> Normalizer:
        """Set the map from values [N, m]; returns self."""
        checks.one_of("kind", kind, KINDS)
        checks.rank("values", values, "N m")
        checks.size("values", "dimensions", values.shape[1], len(self.shift))
        if not torch.isfinite(values).all():
            checks.fail("values", "finite numbers", "NaN or infinity")
        x = values.double()
        if kind == "identity":
            shift, scale = torch.zeros_like(x[0]), torch.ones_like(x[0])
        elif kind == "mean_std":
            shift, scale = x.mean(0), x.std(0, unbiased=False)
        else:
            edges = (0.01, 0.99) if kind == "quantile" else (0.0, 1.0)
            low, high = torch.quantile(x, torch.tensor(edges, dtype=x.dtype), dim=0)
            shift, scale = (high + low) / 2, (high - low) / 2
        constant = scale < 1e-6 * (1 + x.abs().amax(0))
        self.shift.copy_(shift)
        self.scale.copy_(torch.where(constant, torch.ones_like(scale), scale))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Physical units to normalised, [..., m]."""
        return (x - self.shift) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised to physical units, [..., m]."""
        return x * self.scale + self.shift
