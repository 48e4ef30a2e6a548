"""Flow matching (Lipman et al., 2023), as in π0 and GR00T: which times are learned, and what is drawn for it.

x_t = (1 - t) ε + t a,    v = a - ε           ε ~ N(0, 1),  t = s (1 - Beta(1.5, 1)),  s = 0.999
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lattok.types import FlowDraws

LATEST = 0.999  # s: the greatest time that is learned
SHAPE = 1.5  # a of Beta(a, 1): early times, where most is decided, come more often
TICKS = 1000  # of the time that sines tell apart
MOST_FLOW_STEPS = 1000


def draw_flow(
    shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | None = None
) -> FlowDraws:
    """Draw noise of `shape` [B, H, m] and times [B]; a variable of Beta(a, 1) is a uniform one to the power 1 / a."""
    noise = torch.randn(*shape, generator=generator, device=device)
    uniform = torch.rand(shape[0], generator=generator, device=device)
    return FlowDraws(noise, LATEST * (1 - uniform ** (1 / SHAPE)))
