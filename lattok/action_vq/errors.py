"""How far decoded chunks are from the actions, in the dataset's units: per dimension, with the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ErrorReport:
    """Errors over valid steps, per dimension [m], in physical units; NaN for a dimension without any.

    `drift` is the largest |sum of the errors up to a step| over a chunk: where the robot ends up off its way when the
    actions are increments. It is 0 for dimensions that are not.
    """

    names: tuple[str, ...]
    mse: Tensor
    l1: Tensor
    p99: Tensor  # 99th percentile of |error|
    worst: Tensor  # greatest |error|
    worst_at: tuple[tuple[int, int], ...]  # (chunk, step) of the worst error of each dimension
    drift: Tensor
    clipped: float = 0.0  # share of what is coded (actions; coefficients in FAST) that is clipped

    @property
    def worst_dimension(self) -> int:
        """Return the dimension with the greatest error."""
        return int(self.worst.nan_to_num(-1.0).argmax())

    def to_text(self) -> str:
        """Return a table, and the worst case in one sentence."""
        width = max(len(name) for name in ("dimension", *self.names))
        columns = {"rms": self.mse.sqrt(), "mean": self.l1, "p99": self.p99, "worst": self.worst}
        columns |= {"drift": self.drift} if bool((self.drift > 0).any()) else {}
        lines = [f"{'dimension':{width}}" + "".join(f"{name:>11}" for name in columns)]
        for i, name in enumerate(self.names):
            lines.append(f"{name:{width}}" + "".join(f"{float(value[i]):11.4g}" for value in columns.values()))
        worst = self.worst_dimension
        (chunk, step), size = self.worst_at[worst], float(self.worst[worst])
        lines.append(f"worst case: {self.names[worst]} off by {size:.4g} (chunk {chunk}, step {step})")
        if self.clipped:
            share = f"{self.clipped:.2%} of the coded numbers"
            lines.append(f"{share} lie outside what the tokenizer can express and are clipped")
        return "\n".join(lines)


def compare(
    actions: Tensor,
    decoded: Tensor,
    valid: Tensor,
    names: Sequence[str],
    relative: Sequence[int] = (),
    clipped: float = 0,
) -> ErrorReport:
    """Compare actions and decoded [N, H, m] where `valid` [N, H, m] holds; `relative` dimensions are increments."""
    gap = (decoded.double() - actions.double()).masked_fill(~valid, 0.0)
    size = gap.abs()
    count = valid.sum((0, 1)).double()
    drift = torch.zeros_like(count)
    if len(gap) and len(relative):
        drift[list(relative)] = gap.cumsum(1).abs().amax((0, 1))[list(relative)]
    flat = size.flatten(0, 1)
    at = flat.argmax(0).tolist() if len(flat) else [0] * len(names)
    steps = max(1, gap.shape[1])
    return ErrorReport(
        names=tuple(names),
        mse=gap.square().sum((0, 1)) / count,
        l1=size.sum((0, 1)) / count,
        p99=torch.stack([_quantile(flat[valid.flatten(0, 1)[:, i], i], 0.99) for i in range(len(names))]),
        worst=torch.where(count > 0, flat.amax(0), torch.nan) if len(flat) else torch.full_like(count, torch.nan),
        worst_at=tuple(divmod(index, steps) for index in at),
        drift=drift,
        clipped=clipped,
    )


def _quantile(values: Tensor, share: float) -> Tensor:
    """Compute quantiles of values [N]; NaN for none. torch.quantile refuses large inputs."""
    if not len(values):
        return values.new_tensor(torch.nan)
    return values.kthvalue(max(1, round(share * len(values))))[0]
