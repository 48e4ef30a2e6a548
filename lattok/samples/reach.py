"""Whether a tokenizer can say the actions of a dataset: some chunks are encoded, decoded and compared."""

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset
from lattok.data.alike import called
from lattok.samples.windows import ActionWindows
from lattok.types import ActionBatch, ActionTokenizer
from lattok.utils import checks
from lattok.utils.spread import evenly_spread

EPISODES, CHUNKS = 8, 64  # evenly spaced ones that are looked at, and of each so many
REACH = {"mean_std": 3.0, "quantile": 1.0, "min_max": 1.0, "bounded": 1.0}  # of normalised values, by kind
FAR, OFTEN = 4.0, 0.05  # so many times as far is far outside, if so large a share of the values is; as near, narrow
LOST = 0.1  # share of the variance that is lost where values cannot be said
USELESS = 0.9  # mean share that is lost where codes say no more than the mean action


class Reach(NamedTuple):
    """How a tokenizer says some chunks, by dimension of those that move."""

    lost: dict[str, float]  # share of the variance that is lost
    outside: dict[str, float]  # how far values lie outside, in times of what the tokenizer was fitted to
    span: float | None  # of what it was fitted to, the largest of all dimensions; None where nobody knows that

    @property
    def error(self) -> float:
        """Return the mean share that is lost; of a dimension no more than all, as one that hardly moves here may be."""
        return float(np.minimum([*self.lost.values()], 1.0).mean()) if self.lost else 0.0

    @property
    def beyond(self) -> list[str]:
        """Return the dimensions that lie far outside of what the tokenizer was fitted to, and cannot be said."""
        return [name for name in self.outside if self.lost.get(name, 0.0) > LOST]

    def text(self, tokenizer: str, whose: str) -> str | None:
        """Say what is wrong; None where nothing is."""
        if self.beyond:
            each = checks.listed(f"{name} {self.outside[name]:.3g} times" for name in self.beyond)
            what = f"values lie beyond the range that {tokenizer} was fitted to ({each})"
            return f"{whose}: {what}. Are their units the same? Codes lose {self.error:.0%} of the variance"
        if self.span is not None and self.span < 1 / FAR and self.error > LOST:
            what = f"values span {self.span:.2g} of the range that {tokenizer} was fitted to"
            return f"{whose}: {what}. Are their units the same? Codes lose {self.error:.0%} of the variance"
        if self.error >= USELESS:
            what = f"what {tokenizer} decodes is no nearer than the mean action"
            return f"{whose}: {what}: codes lose {self.error:.0%} of the variance"
        return None


@torch.no_grad()
def reach_of(tokenizer: Any, batch: ActionBatch, names: tuple[str, ...], decoded: Tensor | None = None) -> Reach:
    """Encode and decode chunks [B, H, m], or compare with those that were `decoded`."""
    if decoded is None:
        decoded = torch.as_tensor(tokenizer.decode(tokenizer.encode(*batch))).float().cpu()
    steps = batch.chunks[batch.valid].double()  # s m
    errors, variance = (decoded[batch.valid].double() - steps).square().mean(0), steps.var(0, correction=0)
    lost = {name: float(errors[i] / variance[i]) for i, name in enumerate(names) if variance[i] > 0}
    outside, spans = dict[str, float](), list[float]()
    if (normalizer := getattr(tokenizer, "normalizer", None)) is not None:
        values = (steps - normalizer.shift.cpu()) / normalizer.scale.cpu()  # without clipping
        for i, kind in enumerate(tokenizer.config.action_kinds):
            if kind not in REACH:
                continue
            if (far := float(values[:, i].abs().quantile(1 - OFTEN)) / REACH[kind]) > FAR:
                outside[names[i]] = far
            low, high = values[:, i].quantile(torch.tensor([OFTEN, 1 - OFTEN], dtype=values.dtype)).tolist()
            spans.append((high - low) / 2 / REACH[kind])
    return Reach(lost, outside, max(spans, default=None))


def note_reach(tokenizer: ActionTokenizer, dataset: RobotDataset, key: str) -> None:
    """Note, once, that a tokenizer cannot say the actions of a dataset; what cannot be read is said elsewhere."""
    parts, names = list[ActionBatch](), ()
    for episode in evenly_spread(dataset.episodes, EPISODES):
        with suppress(checks.LattokError):  # damaged, or without actions
            windows = ActionWindows(dataset, tokenizer.horizon, key, [episode.index])
            rows = torch.linspace(0, len(windows) - 1, min(CHUNKS, len(windows))).long()
            parts, names = [*parts, windows.batch(rows)], windows.action_names
    if parts:
        batch = ActionBatch(*(torch.cat(each) for each in zip(*parts, strict=True)))
        with suppress(NotImplementedError):  # of another package, which only labels
            if told := reach_of(tokenizer, batch, names).text(called(tokenizer), f"`{key}` of {dataset.name}"):
                checks.note(told)
