"""Bases of families that learn by gradients, and two measures for codes that a policy can learn, both off.

After ProAct (Chen et al., 2026, arXiv 2610.09170), whose rates and preconditioner are not public; these are ours:

    perturb    L(D(C'), A) beside L(D(C), A)     C': a share of the codes are near ones; gradients go straight through
    balance    dL/dW ((1-b) I + b S / mean S_ii)^-1      S: second moments of what a linear layer reads in a batch

Decoding from near codes makes a policy's slip a small one. Where directions are learned at one speed, none that hardly
moves is left to the last codes.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer
from lattok.action_vq.chunks import Arrays, TrainedFit, examine, held_from_neighbours
from lattok.samples.order import BatchSampler, Passes
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
        balance: how strongly gradients are balanced over the directions of each layer's input, 0 (not) to below 1
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


class FitRun(NamedTuple):
    """The run folder of a recipe that fits: where state and log go, whether to go on from there, and how to say so."""

    out: Path
    resume: bool = False
    resume_command: str = ""


class TrainedTokenizer(ChunkTokenizer, ABC):
    """Base of these families: one gives `_terms`, with `_shift` for what `perturb` asks for."""

    config: Any
    fit_options = TrainedFit
    loop_options: ClassVar[Mapping[str, Any]] = {}  # of the training loop, besides those of `fit`

    @classmethod
    def fit(cls, chunks: Arrays, valid: Values | None = None, *, run: FitRun | None = None, **options: Any) -> Self:
        """Make a tokenizer as every family does. `run`: where a recipe keeps the state, and goes on only with the same
        chunks and options; without it nothing is left on disk."""
        return cls._fit(chunks, valid, options, run=run)

    def _learn(self, batch: ActionBatch, how: Any, run: FitRun | None = None) -> None:
        """Train on all of `batch` with the one training loop."""
        own = {name: getattr(how, name) for name in ("seed", "steps", "lr", "batch_size", "device", "save_every")}
        own["log_every"] = how.steps if run is None else how.log_every
        loop = LoopOptions(schedule="one_cycle", threads=1, **own, **self.loop_options)
        draw = BatchSampler([Passes(len(batch.chunks), loop.seed)], loop.batch_size)

        def batches(step: int, process: int, processes: int) -> ActionBatch:
            rows = draw(step)[process::processes]
            return ActionBatch(batch.chunks[rows], batch.valid[rows])

        weights = self.config.loss_weights
        if run is not None:
            run_loop(self, batches, loop, loss_weights=weights, **run._asdict())
        else:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    run_loop(self, batches, loop, Path(scratch) / type(self).__name__, loss_weights=weights)
                except Interrupted as stop:
                    text = "fit was interrupted and kept nothing; a recipe with lattok.train can be resumed"
                    raise restate(stop, text) from None
        self.cpu()

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
    few = codes.numel() < len(book)  # of a large codebook, without the distances that nobody asks for
    own = codes.flatten() if few else torch.arange(len(book), device=codes.device)
    apart = torch.cdist(book[own], book).scatter_(1, own[:, None], torch.inf)
    near = apart.topk(min(NEAR, len(book) - 1), largest=False).indices  # of each of `own`, n
    places = torch.arange(len(own), device=codes.device).view_as(codes) if few else codes
    return near[places, torch.randint(near.shape[1], codes.shape, device=codes.device, generator=generator)]


def near_levels(levels: Tensor, top: Tensor) -> Tensor:
    """Draw for each of levels [..., d], whole numbers from 0 to `top` [d], the one above or below it."""
    other = levels + 2.0 * torch.randint(2, levels.shape, device=levels.device) - 1
    return torch.where(other < 0, 1.0, torch.where(other > top, top - 1, other))


@contextmanager
def balanced(model: nn.Module, share: float) -> Iterator[None]:
    """Precondition the gradients of all linear layers that are called meanwhile: see the top of the file."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear] if share else []
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(partial(_evened, share)))
        yield


def _evened(share: float, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    rows = inputs[0].detach().flatten(0, -2).float()
    with torch.autocast(rows.device.type, enabled=False):  # rounded moments may have directions of ascent
        moments = rows.T @ rows / max(1, len(rows))
    size = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
    mixed = torch.eye(len(moments), device=rows.device) * (1 - share) + moments * (share / size)
    weight = layer.weight.view_as(layer.weight)  # no leaf: its gradient goes on to the layer's
    if weight.requires_grad:
        # solve_ex does not wait for an error
        weight.register_hook(lambda wanted: torch.linalg.solve_ex(mixed, wanted.float().T)[0].T.to(wanted.dtype))
    return F.linear(inputs[0], weight, layer.bias)
