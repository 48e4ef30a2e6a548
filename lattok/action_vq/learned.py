"""Base of families that learn by gradients: one `fit`, and two measures for codes that a policy can learn, both off.

After ProAct (Chen et al., 2026, arXiv 2610.09170), whose rates and preconditioner are not public; these are ours:

    perturb    L(D(C'), A) beside L(D(C), A)     C': a share of the codes are near ones; gradients go straight through
    balance    dL/dW ((1-b) I + b S / mean S_ii)^-1      S: second moments of what a linear layer reads in a batch

Decoding from near codes makes a policy's slip a small one. Where directions are learned at one speed, none that hardly
moves is left to the last codes.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer
from lattok.action_vq.chunks import Arrays, TrainedFit, examine, held_from_neighbours
from lattok.samples.order import Batches, Passes
from lattok.training import LoopOptions
from lattok.training import fit as run_loop
from lattok.types import ActionBatch, LossTerms
from lattok.utils import checks
from lattok.utils.arrays import Values
from lattok.utils.options import ADDED
from lattok.utils.signals import Interrupted, restate

NEAR = 4  # rows of a codebook that are neighbours of one


@dataclass(frozen=True)
class TrainedConfig(ChunkConfig):
    """What is trained besides reconstruction.

    Attributes:
        perturb: share of codes that a second reconstruction loss replaces by near ones; 0: no such loss
        balance: how strongly gradients are balanced over the directions of each layer's input, from 0 (not at all) to
            below 1
    """

    perturb: float = field(default=0.0, metadata=ADDED)
    balance: float = field(default=0.0, metadata=ADDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.below_one(perturb=self.perturb, balance=self.balance)

    @property
    def loss_weights(self) -> dict[str, float]:
        return self.weighted(reconstruction=1.0)

    def weighted(self, **weights: float) -> dict[str, float]:
        """Return these weights, and that of the second reconstruction, which is the first one's."""
        return weights | ({"perturbed": weights["reconstruction"]} if self.perturb else {})


class TrainedTokenizer(ChunkTokenizer, ABC):
    """Base of these families: one gives `_terms`, with `_shift` for what `perturb` asks for."""

    config: Any
    fit_options = TrainedFit
    loop_options: ClassVar[Mapping[str, Any]] = {}  # of the training loop, besides those of `fit`
    quick_options: ClassVar[Mapping[str, Any]] = {}  # of the configuration, where `fit` has other defaults

    @classmethod
    def fit(
        cls,
        chunks: Arrays,
        valid: Values | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        lr: float | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> Self:
        """Train on chunks [N, H, m] in physical units, or a list of such arrays; `options` are config fields.

        What is None is as in `fit_options` of the family, whose other fields are options, too.
        """
        given = {"steps": steps, "seed": seed, "lr": lr, "batch_size": batch_size, "device": device}
        given |= {f.name: options.pop(f.name) for f in fields(cls.fit_options) if f.name in options}
        how: Any = cls.fit_options(**{name: value for name, value in given.items() if value is not None})
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(how.seed)  # the CPU's only: nothing else is drawn from, or forked
            model, batch = cls._begin(chunks, valid, options, how)
        return model._train(batch, how)

    @classmethod
    def _begin(
        cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], how: Any
    ) -> tuple[Self, ActionBatch]:
        """Make the model and what it is trained on; random numbers follow from the seed."""
        return cls._from_chunks(chunks, valid, {**cls.quick_options, **options})

    def _train(self, batch: ActionBatch, how: TrainedFit) -> Self:
        """Train on all of `batch` with the one training loop. Nothing is left on disk."""
        own = {name: getattr(how, name) for name in ("seed", "lr", "batch_size", "device")}
        shape = {"log_every": how.steps, "schedule": "one_cycle", "threads": 1}
        loop = LoopOptions(steps=how.steps, **shape, **own, **self.loop_options)
        draw = Batches([Passes(len(batch.chunks), loop.seed)], loop.batch_size)

        def batches(step: int, process: int, processes: int) -> ActionBatch:
            rows = draw(step)[process::processes]
            return ActionBatch(batch.chunks[rows], batch.valid[rows])

        with tempfile.TemporaryDirectory() as scratch:
            try:
                place = Path(scratch) / type(self).__name__
                run_loop(self, batches, loop, place, loss_weights=self.config.loss_weights)
            except Interrupted as stop:
                text = "fit was interrupted and kept nothing; a recipe with lattok.train can be resumed"
                raise restate(stop, text) from None
        return self.cpu().eval()

    def forward(self, batch: ActionBatch, *given: Any, **named: Any) -> LossTerms:
        """Return the loss terms of a batch, over what is valid; `config.loss_weights` weights them."""
        if not isinstance(batch, ActionBatch):
            return super().forward(batch)
        with balanced(self, self.config.balance):
            return self._terms(*self._of_windows(batch), *given, **named)

    @abstractmethod
    def _terms(self, actions: Tensor, valid: Tensor) -> LossTerms:
        """Return the loss terms of normalised actions [B, H, m] where `valid` [B, H, m]."""

    def _held(self, codes: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """Let codes [B, L] that are missing or out of range repeat their neighbours: `examine`, and legal codes."""
        codes, bad, notes = examine(codes, self.tokens_per_chunk, self.vocab_size)
        held = held_from_neighbours(codes, bad).clamp(0, self.vocab_size - 1) if notes else codes
        return held, bad, notes

    def _shift(self, rows: Tensor, near: Tensor) -> Tensor:
        """Draw what moves a share of `rows` [..., d] to `near` ones, of the same shape; zero for the others."""
        hit = torch.rand(rows.shape[:-1], device=rows.device) < self.config.perturb
        return torch.where(hit[..., None], near - rows, 0.0).detach()


def near_codes(codes: Tensor, book: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw for each of codes [...] one of the rows nearest to its own in a codebook [K, d]."""
    apart = torch.cdist(book, book).fill_diagonal_(torch.inf)
    near = apart.topk(min(NEAR, len(book) - 1), largest=False).indices.to(codes.device)  # K n
    return near[codes, torch.randint(near.shape[1], codes.shape, device=codes.device, generator=generator)]


def near_levels(levels: Tensor, top: Tensor) -> Tensor:
    """Draw for each of levels [..., d], whole numbers from 0 to `top` [d], the one above or below it."""
    other = levels + 2.0 * torch.randint(2, levels.shape, device=levels.device) - 1
    return torch.where(other < 0, 1.0, torch.where(other > top, top - 1, other))


@contextmanager
def balanced(model: nn.Module, share: float) -> Iterator[None]:
    """Precondition the gradients of all linear layers that are called meanwhile: see the top of the file."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear] if share else []
    hooks = [layer.register_forward_hook(partial(_evened, share)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _evened(share: float, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    rows = inputs[0].detach().flatten(0, -2).float()
    moments = rows.T @ rows / max(1, len(rows))
    size = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
    mixed = torch.eye(len(moments), device=rows.device) * (1 - share) + moments * (share / size)
    weight = layer.weight.view_as(layer.weight)  # no leaf: its gradient goes on to the layer's
    if weight.requires_grad:
        weight.register_hook(lambda gradient: torch.linalg.solve(mixed, gradient.float().T).T.to(gradient.dtype))
    return F.linear(inputs[0], weight, layer.bias)
