"""Bootstrap intervals over episodes: pairs of one episode resemble one another, so whole episodes are drawn.

R^2* = 1 - sum_e w_e SSE_e / sum_e w_e SST_e        w: how often each of E episodes is drawn in E draws
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence.probes import Probe
from lattok.evaluation.report import Interval

DRAWS = 1000
ENDS = (0.025, 0.975)


class Bootstrap:
    """The same draws for every probe on the same held-out rows, so that differences are paired."""

    def __init__(self, groups: np.ndarray, seed: int):
        """Draw episodes; `groups` [N] holds the episode of every held-out row."""
        episodes, index = np.unique(groups, return_inverse=True)
        self.count = len(episodes)
        self.index = torch.from_numpy(index)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.count, (DRAWS, self.count), generator=generator)
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
        """Compute the percentile interval of one value per draw, [draws]; None where there is a single episode."""
        values = values[values.isfinite()]
        if self.count < 2 or not len(values):
            return None
        low, high = torch.quantile(values, torch.tensor(ENDS, dtype=values.dtype)).tolist()
        return low, high


def decided(gain: float, interval: Interval | None) -> bool | None:
    """Tell whether a gain is above zero; None where its interval includes zero, or where there is none."""
    return None if interval is None or interval[0] <= 0 <= interval[1] else gain > 0


def jackknife(estimate: float, without: Sequence[float]) -> Interval | None:
    """Compute a normal interval from estimates without one episode each; None for a single episode."""
    if len(without) < 2:
        return None
    left = np.asarray(without)
    error = float(np.sqrt((len(left) - 1) * left.var()))
    return estimate - 1.96 * error, estimate + 1.96 * error
