"""Bases of families that learn by gradients, and two measures for codes that a policy can learn, both off.

After ProAct (Chen et al., 2026, arXiv 2610.09170), whose rates and preconditioner are not public; these are ours:

    perturb    L(D(C'), A) beside L(D(C), A)     C': a share of the codes are near ones; gradients go straight through
    balance    dL/dW ((1-b) I + b S / mean S_ii)^-1      S: second moments of what a linear layer reads in a batch

Decoding from near codes makes a policy's slip a small one. Where directions are learned at one speed, none that hardly
moves is left to the last codes.

`LevelTokenizer` is what OAT and QueST share: codes on a grid of levels (nn/levels.py), and a decoder that reads them.
"""

import math
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
from lattok.nn.levels import LevelGrid
from lattok.nn.losses import action_loss
from lattok.nn.quantize import MOST_CODES
from lattok.samples.order import Batches, Passes
from lattok.training import LoopOptions
from lattok.training import fit as run_loop
from lattok.types import ActionBatch, LatentActions, LossTerms
from lattok.utils import checks
from lattok.utils.arrays import Values
from lattok.utils.options import ADDED
from lattok.utils.signals import Interrupted, restate

NEAR = 4  # rows of a codebook that are neighbours of one
BLOCK = 128  # chunks that go through the networks at a time: more take memory, and on a CPU more time for each
LAYER: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}  # options of torch's layers
MOST_SCALARS = 12  # of a code: with three levels each they are more than MOST_CODES


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
        draw = Batches([Passes(len(batch.chunks), loop.seed)], loop.batch_size)

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


@dataclass(frozen=True)
class LevelsConfig(TrainedConfig):
    """Sizes that both have. Defaults: as published, for chunks of 32 steps.

    Attributes:
        levels: levels of each scalar of a code; their product is the vocabulary
        dim: width of the Transformers
        heads: attention heads of the Transformers
        encoder_depth: layers of the encoder
        decoder_depth: layers of the decoder
        causal_decoder: steps of the decoder do not see later ones
        dropout: dropout in all layers, in training
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    dim: int = 256
    heads: int = 4
    encoder_depth: int = 2
    decoder_depth: int = 4
    causal_decoder: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(dim=self.dim, encoder_depth=self.encoder_depth, decoder_depth=self.decoder_depth)
        checks.below_one(dropout=self.dropout)
        if not isinstance(self.levels, tuple | list):
            checks.fail("levels", f"1 to {MOST_SCALARS} numbers", f"{self.levels!r:.60}")
        if not 1 <= len(self.levels) <= MOST_SCALARS:
            checks.fail("levels", f"1 to {MOST_SCALARS} numbers", len(self.levels))
        checks.counts(3, **{f"levels[{i}]": level for i, level in enumerate(self.levels)})
        if self.codebook_size > MOST_CODES:
            checks.fail("levels", f"at most {MOST_CODES:,} codes", f"{self.codebook_size:,}")
        if self.dim % 2:
            checks.fail("dim", "an even number, half sines and half cosines", self.dim)
        checks.divides(self.dim, f"the width {self.dim}", heads=self.heads)

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)


@dataclass(frozen=True)
class LevelsFit(TrainedFit):
    """How both are trained."""

    steps: int = 2000
    batch_size: int = 128


class ActionDecoder(nn.Module):
    """Queries that are places in time read `memory` [B, P, D] in torch's layers: [B, H, D]."""

    def __init__(self, config: LevelsConfig, heads: int, places: Tensor):
        super().__init__()
        sizes = config.dim, heads, 4 * config.dim, config.dropout
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(*sizes, **LAYER) for _ in range(config.decoder_depth))
        self.places, mask = nn.Buffer(places, persistent=False), causal_mask(config.horizon)
        self.mask = nn.Buffer(mask, persistent=False) if config.causal_decoder else None

    def forward(self, memory: Tensor) -> Tensor:
        x = self.places.expand(len(memory), -1, -1)
        for layer in self.layers:
            x = layer(x, memory, tgt_mask=self.mask, tgt_is_causal=self.mask is not None)
        return x


def causal_mask(steps: int) -> Tensor:
    """Return what torch's layers call a mask of [steps, steps]: true where a step may not look."""
    return torch.ones(steps, steps, dtype=torch.bool).triu(1)


class LevelTokenizer(TrainedTokenizer, ABC):
    """Base of both: latents [B, P, d] of a chunk, rounded to `config.levels`, and what a decoder makes of them."""

    fit_options = LevelsFit
    tried = 3
    loss: ClassVar[str] = "l2"  # between normalised actions

    def __init__(self, config: LevelsConfig):
        super().__init__(config)
        self.grid = LevelGrid(config.levels)

    @abstractmethod
    def _latents(self, actions: Tensor) -> Tensor:
        """Turn normalised actions [B, H, m] into latents [B, P, d]."""

    @abstractmethod
    def _actions(self, quantized: Tensor) -> Tensor:
        """Turn quantized latents [B, P, d] into normalised actions [B, H, m]."""

    def _terms(self, actions: Tensor, valid: Tensor, **given: Any) -> LossTerms:
        quantized = self.grid.quantize(self._latents(actions).float())
        terms = {"reconstruction": action_loss(self._actions(quantized, **given), actions, valid, self.loss)}
        if self.config.perturb:
            moved = quantized + self._shift(quantized, self._near(quantized))
            terms["perturbed"] = action_loss(self._actions(moved, **given), actions, valid, self.loss)
        return terms

    def _near(self, quantized: Tensor) -> Tensor:
        """Draw for each of quantized latents [B, P, d] one that differs by a level, in one scalar."""
        other, scalars = near_levels(self.grid.numbers(quantized), self.grid.top), quantized.shape[-1]
        one = torch.randint(scalars, (*quantized.shape[:-1], 1), device=quantized.device)
        return torch.where(torch.arange(scalars, device=one.device) == one, self.grid.values(other), quantized)

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        # No use for `valid`: the encoder learned from padded chunks what to give for their valid entries.
        return self._latent_actions(actions, valid).codes

    def _decode(self, codes: Tensor) -> Tensor:
        return torch.cat([self._decode_block(block) for block in codes.split(BLOCK)])

    def _decode_block(self, codes: Tensor) -> Tensor:
        return self._actions(self.grid.lookup(codes))

    def _latent_actions(self, actions: Tensor, valid: Tensor | None) -> LatentActions:
        latents = torch.cat([self._latents(block) for block in actions.split(BLOCK)])
        latents = latents.nan_to_num(0.0)  # absurd actions have codes, too
        quantized = self.grid.quantize(latents)
        return LatentActions(self.grid.codes(quantized), latents, quantized)
