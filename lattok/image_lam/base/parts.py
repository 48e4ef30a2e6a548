"""Parts of trained models of frame pairs: a stream of latents with its bottleneck, and heads for learning alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.base.bottlenecks import BOTTLENECKS
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.base.losses import CELLS
from lattok.nn.blocks import upcast
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import VectorQuantizer
from lattok.types import LatentActions, LossTerms
from lattok.utils import checks


@dataclass
class EncodedStream:
    """One stream's latents and straight-through vectors [B, p, d], codes and loss terms."""

    latents: Tensor
    vectors: Tensor
    codes: Tensor
    losses: LossTerms


class LatentStream(nn.Module):
    """Query tokens [B, P, width] to latents [B, p, d] and their codes: heads, norm, bottleneck.

    A `frozen` stream's codebook is given (stage 1) rather than learned, so it needs no start and no warm-up.
    """

    def __init__(
        self, config: TrainedPairConfig, size: int, new_heads: Callable[[], Sequence[nn.Module]], frozen: bool = False
    ):
        super().__init__()
        self.config, d, kind = config, config.latent_dim, BOTTLENECKS[config.quantizer]
        self.levels = kind.levels
        # with levels of codes one latent from all queries
        self.heads = nn.ModuleList([nn.Linear(config.tokens * config.width, d)] if kind.levels else new_heads())
        self.norm = nn.BatchNorm1d(config.positions * d, affine=False) if config.latent_norm == "batch" else None
        options = {"codebook": replace(config.codebook, size=size), "variational": config.loss.kl > 0}
        self.quantizer = kind.build(dim=d, tokens=config.tokens, frozen=frozen, **options)
        if frozen:
            self.quantizer.requires_grad_(False)  # stage 1 taught it; only the encoder still learns

    def forward(self, tokens: Tensor, update: bool = True, valid: Tensor | None = None) -> EncodedStream:
        """Encode query tokens; `update=False` leaves the codebook alone also in training.

        A codebook that follows the latents sees those of samples that are `valid` [B].
        """
        latents = self.latents(tokens)
        seen = None if valid is None else valid[:, None].expand(latents.shape[:2])
        quantized = self.quantizer(latents, update, seen)
        if self.training and not update and isinstance(self.quantizer, VectorQuantizer):
            self.quantizer.remember(quantized.codes)  # how a frozen codebook is used is worth a report, too
        codes = quantized.codes.flatten(1) if self.levels else quantized.codes
        return EncodedStream(latents, quantized.vectors, codes, quantized.losses)

    def latents(self, tokens: Tensor) -> Tensor:
        """Turn query tokens [B, P, width] into latents [B, p, d]."""
        if self.levels:
            tokens = rearrange(tokens, "b p w -> b 1 (p w)")
        if len(self.heads) == 1:
            latents = self.heads[0](tokens)
        else:
            latents = torch.stack([head(tokens[:, i]) for i, head in enumerate(self.heads)], 1)
        latents = upcast(latents)  # autocast rounds up to here; what follows are statistics, codes and losses
        if self.norm is not None:
            latents = self.norm(latents.flatten(1)).reshape(latents.shape)
        return latents

    def public(self, encoded: EncodedStream, env: LatentActions | None = None) -> LatentActions:
        """Return what callers get: as quantized vectors rows of the codebook, or the latents where there is none."""
        if not encoded.codes.shape[1]:
            return LatentActions(encoded.codes, encoded.latents, encoded.latents, env)
        several = self.levels and self.config.tokens > 1
        rows = self.quantizer.lookup(encoded.codes[:, None] if several else encoded.codes)  # pyright: ignore
        return LatentActions(encoded.codes, encoded.latents, rows, env)

    def codebook(self) -> list[Tensor]:
        """Return the codebook of each level, [K, d]."""
        if not isinstance(self.quantizer, VectorQuantizer):
            checks.fail("env_codebook", "a model with quantizer vq or residual", self.config.quantizer)
        return self.quantizer.codebook_vectors


class GapActionHead(nn.Module):
    """MLP to the actions of the gap (Eq. 14), from latents before quantization; dropped at publication.

    As published code has it (`action_head="codes"`), it reads the mean of the codes' vectors instead.
    """

    def __init__(self, config: TrainedPairConfig, action_dim: int):
        super().__init__()
        self.from_codes, self.steps = config.action.head == "codes", config.action.steps
        self.chunks = config.action.target == "chunk"
        inputs = config.latent_dim * (1 if self.from_codes else config.positions)
        self.normalizer = Normalizer(action_dim)
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, self.steps * action_dim))

    def forward(self, encoded: EncodedStream) -> Tensor:
        """Predict normalised actions [B, m], or [B, steps, m] for a chunk."""
        inputs = encoded.vectors.mean(1) if self.from_codes else encoded.latents.flatten(1)
        actions = self.net(inputs)
        return actions.unflatten(1, (self.steps, -1)) if self.chunks else actions


class FlowHead(nn.Module):
    """MLP from the vectors of the codes to the motion of every cell of the first frame, which it does not see.

    The decoder does see that frame, so its codes need not say what moved where. After LAOF (Bu et al., 2025), whose
    flow comes from a trained network. With an environment stream it teaches that one: what moves beyond what the
    control stream says.
    """

    def __init__(self, config: TrainedPairConfig):
        super().__init__()
        streams = 1 if config.streams == "control" else 2
        inputs, outputs = streams * config.positions * config.latent_dim, len(config.cameras) * 2 * CELLS**2
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, outputs))

    def forward(self, control: EncodedStream, env: EncodedStream | None) -> Tensor:
        """Predict motion [B, V * 2 * cells], as `block_flow` gives it."""
        if env is None:
            return self.net(control.vectors.flatten(1))
        known = control.vectors.detach()  # the environment stream gets the gradient
        return self.net(torch.cat([known.flatten(1), env.vectors.flatten(1)], 1))
