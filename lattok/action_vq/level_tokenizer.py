"""What OAT and QueST share: codes on a grid of levels (nn/levels.py), and a decoder that reads them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lattok.action_vq.chunks import TrainedFit
from lattok.action_vq.learned import TrainedConfig, TrainedTokenizer, near_levels
from lattok.nn.levels import LevelGrid
from lattok.nn.losses import action_loss
from lattok.nn.quantize import MOST_CODES
from lattok.types import LatentActions, LossTerms
from lattok.utils import checks

LAYER: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}  # options of torch's layers
MOST_SCALARS = 12  # of a code: with three levels each they are more than MOST_CODES
BLOCK = 128  # chunks that go through the networks at a time: more take memory, and on a CPU more time for each


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
