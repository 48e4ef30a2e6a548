"""Parts of the image latent action model: encoders, a stream of latents with its bottleneck, decoder, heads.

Bottlenecks other than the vector quantizer, with its interface:

    finite scalars   code(c) = digits of round(bound(W c))      Mentzer et al., 2024; every code exists from the start
    continuous       c, or c + exp(s/2) * noise with KL(N(c, exp(s)) || N(0, 1)), Kingma & Welling, 2014; no codes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.image_lam.base.losses import CELLS
from lattok.image_lam.p2t.config import ImageLAMConfig
from lattok.nn.blocks import PreNormBlock, SpaceTimeBlock, sinusoidal_positions, widened
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import MOST_CODES, CodeUsage, QuantizerConfig, VectorQuantizer
from lattok.types import LatentActions, LossTerms, Quantized
from lattok.utils import checks

MOST_LEVELS = 8  # of one scalar


class Words(NamedTuple):
    """An instruction, seen by every frame."""

    tokens: Tensor  # [B, S, width]
    mask: Tensor  # [B, S] bool: which of them are words


def with_words(x: Tensor, words: Words | None) -> tuple[Tensor, Tensor | None]:
    """Put the words after tokens [B, ..., n, width], and say which of all these attention may look at."""
    if words is None:
        return x, None
    missing = (1,) * (x.ndim - 3)  # axes between batch and tokens: frames
    tokens = words.tokens.unflatten(0, (-1, *missing)).expand(*x.shape[:-2], -1, -1)
    keys = F.pad(words.mask, (x.shape[-2], 0), value=True).unflatten(0, (-1, *missing))
    return torch.cat([x, tokens], -2), keys


def placed(x: Tensor, table: Tensor) -> Tensor:
    """Add the sines of their places to tokens [..., n, width]; the table is made for one n, the rule holds for any."""
    count, width = x.shape[-2:]
    return x + (table[:count] if count <= len(table) else sinusoidal_positions(count, width).to(table))


def new_queries(config: ImageLAMConfig, count: int, width: int) -> nn.Parameter:
    """Draw what the queries start as, [count, width]."""
    uniform = config.query_start == "uniform"
    return nn.Parameter(2 * torch.rand(count, width) - 1 if uniform else torch.randn(count, width) * 0.02)


def new_blocks(kind: type[PreNormBlock] | type[SpaceTimeBlock], config: ImageLAMConfig, depth: int) -> nn.ModuleList:
    """Make `depth` layers of a kind."""
    return nn.ModuleList(kind(config.width, config.heads, config.dropout) for _ in range(depth))


class FusedEncoder(nn.Module):
    """Queries look at one frame of [now, later, 3 x difference]: cheap, and the change is visible at once."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.project = nn.Linear(3 * feature_dim, config.width)
        self.queries = new_queries(config, queries, config.width)
        self.places = nn.Parameter(torch.randn(places, config.width) * 0.02)
        self.blocks = new_blocks(PreNormBlock, config, config.encoder_depth)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor, words: Words | None = None) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens [B, queries, width]."""
        now, later = features.unbind(1)
        x = self.project(torch.cat([now, later, 3 * (later - now)], -1)) + self.places  # b n w
        x, keys = with_words(torch.cat([self.queries.expand(len(x), -1, -1), x], 1), words)
        for block in self.blocks:
            x = block(x, keys)
        return self.norm(x[:, : len(self.queries)])


class SpaceTimeEncoder(nn.Module):
    """UniVLA's encoder: queries and patches of both frames, attention in frames and causally between them."""

    def __init__(self, config: ImageLAMConfig, queries: int, feature_dim: int, places: int):
        super().__init__()
        self.queries = new_queries(config, queries, feature_dim)
        self.embed = nn.Sequential(
            nn.LayerNorm(feature_dim), nn.Linear(feature_dim, config.width), nn.LayerNorm(config.width)
        )
        self.register_buffer("places", sinusoidal_positions(queries + places, config.width), persistent=False)
        self.places: Tensor
        self.blocks = new_blocks(SpaceTimeBlock, config, config.encoder_depth)

    def forward(self, features: Tensor, words: Words | None = None) -> Tensor:
        """Turn features [B, 2, N, D] into query tokens of the later frame [B, queries, width]."""
        queries = self.queries.expand(*features.shape[:2], -1, -1)
        x = placed(self.embed(torch.cat([queries, features], 2)), self.places)  # b 2 q+n w
        x, keys = with_words(x, words)
        for block in self.blocks:
            x = block(x, keys)
        return x[:, 1, : len(self.queries)]


class Decoder(nn.Module):
    """Current features [B, N, D] and one stream's vectors [B, p, d] after the other to the later frame's features."""

    def __init__(self, config: ImageLAMConfig, streams: int, feature_dim: int, places: int):
        super().__init__()
        width = config.width
        self.predict_change, self.add = config.predict_change, config.conditioning == "add"
        self.latent_up = nn.ModuleList(nn.Linear(config.latent_dim, width) for _ in range(streams))
        self.patch_up = nn.Linear(feature_dim, width)
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        count = streams * config.positions + places
        self.register_buffer("places", sinusoidal_positions(count, width), persistent=False)
        self.places: Tensor
        self.blocks = new_blocks(PreNormBlock, config, config.decoder_depth)
        self.out = nn.Linear(width, feature_dim)
        if config.predict_change:  # start as "nothing changes", the best constant guess
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, *vectors: Tensor, words: Words | None = None) -> Tensor:
        latents = torch.cat([up(stream) for up, stream in zip(self.latent_up, vectors, strict=True)], 1)
        patches = self.patch_up(features)
        if self.add:  # every patch knows the change before the first block
            patches = patches + latents.sum(1, keepdim=True)
        places = slice(latents.shape[1], latents.shape[1] + features.shape[1])
        x, keys = with_words(placed(self.embed(torch.cat([latents, patches], 1)), self.places), words)  # b p+n+s w
        for block in self.blocks:
            x = block(x, keys)
        predicted = self.out(x[:, places])
        return features + predicted if self.predict_change else predicted


class ScalarQuantizer(CodeUsage):
    """`size` codes as a grid of a few scalars between two linear maps; nothing to start, nothing to revive."""

    def __init__(self, dim: int, size: int):
        super().__init__(size)
        from vector_quantize_pytorch import FSQ  # slow to import

        self.dim = dim
        if size > MOST_CODES:
            checks.fail("codebook_size", f'at most {MOST_CODES:,} with quantizer="fsq"', size)
        with torch.device("cpu"):  # it looks at its own numbers
            self.grid = FSQ(grid_levels(size), dim=dim, preserve_symmetry=True)

    def forward(self, latents: Tensor, update: bool = True, valid: Tensor | None = None) -> Quantized:
        """Turn latents [B, p, d] into vectors [B, p, d] and codes [B, p]; `update` only counts those of `valid`."""
        checks.size("latents", "channels", latents.shape[-1], self.dim)
        with torch.autocast(latents.device.type, enabled=False):
            vectors, codes = self.grid(latents.float())
        codes = codes.long()
        if self.training and update:
            self.remember(codes if valid is None else codes.masked_fill(~valid, -1))
        return Quantized(vectors, codes, {})

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., d] that codes [...] stand for."""
        return self.grid.indices_to_codes(codes)


class Continuous(nn.Module):
    """Latents as they are; a `variational` one adds noise of a learned size in training, which limits what they say."""

    def __init__(self, dim: int, variational: bool):
        super().__init__()
        self.log_variance = nn.Linear(dim, dim) if variational else None

    def forward(self, latents: Tensor, update: bool = True, valid: Tensor | None = None) -> Quantized:
        """Turn latents [B, p, d] into vectors [B, p, d] and no codes, int64 [B, 0]; there is nothing to update."""
        codes = torch.empty(len(latents), 0, dtype=torch.long, device=latents.device)
        if self.log_variance is None:
            return Quantized(latents, codes, {})
        log_variance = widened(self.log_variance(latents)).clamp(-10, 10)
        kl = (latents.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        noise = torch.randn_like(latents) * (log_variance / 2).exp() if self.training else 0.0
        return Quantized(latents + noise, codes, {"kl": kl})


@dataclass
class Encoded:
    """One stream's latents and straight-through vectors [B, p, d], codes and loss terms."""

    latents: Tensor
    vectors: Tensor
    codes: Tensor
    losses: LossTerms


class LatentStream(nn.Module):
    """Query tokens [B, P, width] to latents [B, p, d] and their codes: heads, norm, bottleneck.

    A `frozen` stream's codebook is given (stage 1) rather than learned, so it needs no start and no warm-up.
    """

    def __init__(self, config: ImageLAMConfig, size: int, frozen: bool = False):
        super().__init__()
        self.config, d = config, config.latent_dim
        if config.quantizer == "residual":  # one latent from all queries, P levels of codes
            self.heads = nn.ModuleList([nn.Linear(config.tokens * config.width, d)])
        else:
            count = config.tokens if config.latent_heads == "per_token" else 1
            self.heads = nn.ModuleList(_head(config) for _ in range(count))
        self.norm = nn.BatchNorm1d(config.positions * d, affine=False) if config.latent_norm == "batch" else None
        self.quantizer: VectorQuantizer | ScalarQuantizer | Continuous = bottleneck(config, size, frozen)

    def forward(self, tokens: Tensor, update: bool = True, valid: Tensor | None = None) -> Encoded:
        """Encode query tokens; `update=False` leaves the codebook alone also in training.

        A codebook that follows the latents sees those of samples that are `valid` [B].
        """
        latents = self.latents(tokens)
        seen = None if valid is None else valid[:, None].expand(latents.shape[:2])
        quantized = self.quantizer(latents, update, seen)
        if self.training and not update and isinstance(self.quantizer, VectorQuantizer):
            self.quantizer.remember(quantized.codes)  # how a frozen codebook is used is worth a report, too
        codes = quantized.codes.flatten(1) if self.config.quantizer == "residual" else quantized.codes
        return Encoded(latents, quantized.vectors, codes, quantized.losses)

    def latents(self, tokens: Tensor) -> Tensor:
        """Turn query tokens [B, P, width] into latents [B, p, d]."""
        if self.config.quantizer == "residual":
            tokens = rearrange(tokens, "b p w -> b 1 (p w)")
        if len(self.heads) == 1:
            latents = self.heads[0](tokens)
        else:
            latents = torch.stack([head(tokens[:, i]) for i, head in enumerate(self.heads)], 1)
        latents = widened(latents)  # autocast rounds up to here; what follows are statistics, codes and losses
        if self.norm is not None:
            latents = self.norm(latents.flatten(1)).reshape(latents.shape)
        return latents

    def public(self, encoded: Encoded, env: LatentActions | None = None) -> LatentActions:
        """Return what callers get: as quantized vectors rows of the codebook, or the latents where there is none."""
        if isinstance(self.quantizer, Continuous):
            return LatentActions(encoded.codes, encoded.latents, encoded.latents, env)
        several = self.config.quantizer == "residual" and self.config.tokens > 1
        rows = self.quantizer.lookup(encoded.codes[:, None] if several else encoded.codes)
        return LatentActions(encoded.codes, encoded.latents, rows, env)


def _head(config: ImageLAMConfig) -> nn.Module:
    """Make what turns a query token into a latent."""
    if config.latent_heads != "mlp":
        return nn.Linear(config.width, config.latent_dim)
    hidden = config.decoder_width or config.width
    return nn.Sequential(nn.Linear(config.width, hidden), nn.Tanh(), nn.Linear(hidden, config.latent_dim))


def bottleneck(config: ImageLAMConfig, size: int, frozen: bool) -> VectorQuantizer | ScalarQuantizer | Continuous:
    """Make what stands between latents and decoder."""
    if config.quantizer == "none":
        return Continuous(config.latent_dim, variational=config.kl_weight > 0)
    if config.quantizer == "fsq":
        return ScalarQuantizer(config.latent_dim, size)
    quantizer = VectorQuantizer(
        QuantizerConfig(
            dim=config.latent_dim,
            size=size,
            levels=config.tokens if config.quantizer == "residual" else 1,
            update=config.codebook_update,
            start="normal" if frozen else config.codebook_start,
            continuous_steps=0 if frozen else config.continuous_steps,
            revive_below=config.revive_below,
            restart_every=config.restart_every,
        )
    )
    quantizer.frozen = frozen
    return quantizer


def grid_levels(size: int) -> list[int]:
    """Find levels per scalar whose product is `size`: few scalars of at most 8 levels, unless a prime is larger.

    >>> grid_levels(16), grid_levels(256), grid_levels(1000)
    ([4, 4], [8, 8, 4], [8, 5, 5, 5])
    """
    factors, left, factor = [], size, 2
    while left > 1:
        while left % factor == 0:
            factors.append(factor)
            left //= factor
        factor += 1
    scalars = 1
    while True:  # the fewest that hold all factors, each in the smallest level so far
        levels = [1] * scalars
        for prime in sorted(factors, reverse=True):
            levels[levels.index(min(levels))] *= prime
        if max(levels) <= max(MOST_LEVELS, *factors):
            return sorted(levels, reverse=True)
        scalars += 1


class GapActionHead(nn.Module):
    """MLP to the actions of the gap (Eq. 14), from latents before quantization; dropped at publication.

    As published code has it (`action_head="codes"`), it reads the mean of the codes' vectors instead.
    """

    def __init__(self, config: ImageLAMConfig, action_dim: int):
        super().__init__()
        self.from_codes, self.steps = config.action_head == "codes", config.action_steps
        self.chunks = config.action_target == "chunk"
        inputs = config.latent_dim * (1 if self.from_codes else config.positions)
        self.normalizer = Normalizer(action_dim)
        self.net = nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, self.steps * action_dim))

    def forward(self, encoded: Encoded) -> Tensor:
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

    def __init__(self, config: ImageLAMConfig):
        super().__init__()
        streams = 1 if config.streams == "control" else 2
        outputs = len(config.cameras) * 2 * CELLS**2
        self.net = nn.Sequential(
            nn.Linear(streams * config.positions * config.latent_dim, 128), nn.ReLU(), nn.Linear(128, outputs)
        )

    def forward(self, control: Encoded, env: Encoded | None) -> Tensor:
        """Predict motion [B, V * 2 * cells], as `block_flow` gives it."""
        if env is None:
            return self.net(control.vectors.flatten(1))
        known = control.vectors.detach()  # the environment stream gets the gradient
        return self.net(torch.cat([known.flatten(1), env.vectors.flatten(1)], 1))
