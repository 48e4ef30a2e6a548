"""What stands between latents and decoder: one entry here for each kind, or in a package of somebody else.

    vq, residual     the nearest rows of codebooks              lattok/nn/quantize.py
    fsq              code(c) = levels of W c                    lattok/nn/levels.py; every code exists from the start
    none             c, or c + exp(s/2) * noise with KL(N(c, exp(s)) || N(0, 1)), Kingma & Welling, 2014; no codes

A bottleneck is a module: `forward(latents, update, valid)` turns latents [B, p, d] into `Quantized` and counts only
those of `valid` [B, p]; with `update=False` it learns nothing from them. `lookup(codes)` gives the vectors of codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lattok.hub.trials import Trial
from lattok.nn.blocks import upcast
from lattok.nn.levels import LevelGrid
from lattok.nn.quantize import MOST_CODES, CodeUsage, QuantizerConfig, VectorQuantizer
from lattok.types import Quantized
from lattok.utils import checks
from lattok.utils.options import check_choices
from lattok.utils.registry import Registry

MOST_LEVELS = 8  # of one scalar
TRIED = 32  # pairs whose codes a saved model records


@dataclass(frozen=True)
class CodebookConfig:
    """The codes, and how those learn that are vectors.

    Attributes:
        size: codes to choose from (K)
        update: how the codebook learns: by "gradient" (paper), or "ema", moving averages
        start: how the codebook begins: "uniform" in ±1/K (UniVLA); "kmeans", from the first latents; "normal",
            deviation 1
        continuous_steps: training steps that pass latents through before the codebook starts, where codebook_start is
            kmeans; random codebooks start at once
        revive_below: a code is dead below this share of the mean use; 0 switches revival off
        restart_every: steps after which unused codes become copies of used ones (UniVLA: every epoch); 0: never
    """

    size: int = 16
    update: Literal["gradient", "ema"] = "gradient"
    start: Literal["uniform", "kmeans", "normal"] = "uniform"
    continuous_steps: int = 0
    revive_below: float = 0.0
    restart_every: int = 0

    def __post_init__(self) -> None:
        check_choices(self, "codebook")
        checks.counts(2, codebook_size=self.size)
        checks.whole(codebook_continuous_steps=self.continuous_steps, codebook_restart_every=self.restart_every)
        checks.at_least_zero(codebook_revive_below=self.revive_below)
        if self.restart_every and (self.update != "gradient" or self.revive_below > 0):
            expected = "0 unless codebook_update=gradient and codebook_revive_below=0"
            hint = "Moving averages and revival from the batch need codebook_revive_below instead."
            checks.fail("codebook_restart_every", expected, self.restart_every, hint)


@dataclass(frozen=True)
class Bottleneck:
    """A kind of bottleneck.

    Attributes:
        name: The word for the option `quantizer`.
        build: `build(dim, tokens, codebook, frozen, variational)` makes one of latents of `dim` numbers: `tokens` is
            P, a `frozen` codebook is given (stage 1) rather than learned, `variational` asks for a loss "kl".
        levels: A pair has one latent, whose P codes are levels; otherwise P latents of a code each.
        vectors: Codes stand for rows that can be taken from another model's.
        variational: It knows a loss "kl".
    """

    name: str
    build: Callable[..., nn.Module]
    levels: bool = False
    vectors: bool = False
    variational: bool = False


BOTTLENECKS: Registry[Bottleneck] = Registry("lattok.bottlenecks")


def register_bottleneck(bottleneck: Bottleneck) -> Bottleneck:
    """Make a kind known by its name, which is the option `quantizer`."""
    return BOTTLENECKS.add(bottleneck.name, bottleneck)


class ScalarQuantizer(CodeUsage):
    """`size` codes as a grid of a few scalars between two linear maps; nothing to start, nothing to revive."""

    def __init__(self, dim: int, size: int):
        super().__init__(size)
        self.dim = dim
        if size > MOST_CODES:
            checks.fail("codebook_size", f'at most {MOST_CODES:,} with quantizer="fsq"', size)
        self.levels = LevelGrid(levels := grid_levels(size), symmetric=True)
        straight = dim == len(levels)
        sizes = {"project_in": (dim, len(levels)), "project_out": (len(levels), dim)}  # names in saved files
        self.grid = nn.ModuleDict({name: nn.Identity() if straight else nn.Linear(*of) for name, of in sizes.items()})

    def forward(self, latents: Tensor, update: bool = True, valid: Tensor | None = None) -> Quantized:
        """Turn latents [B, p, d] into vectors [B, p, d] and codes [B, p]; `update` only counts those of `valid`."""
        checks.size("latents", "channels", latents.shape[-1], self.dim)
        with torch.autocast(latents.device.type, enabled=False):
            values = self.levels.quantize(self.grid["project_in"](latents.float()))
            vectors, codes = self.grid["project_out"](values), self.levels.codes(values)
        if self.training and update:
            self.remember(codes, valid)
        return Quantized(vectors, codes, {})

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., d] that codes [...] stand for."""
        return self.grid["project_out"](self.levels.lookup(codes))


class PlainLatents(nn.Module):
    """Latents as they are; a `variational` one adds noise of a learned size in training, which limits what they say."""

    def __init__(self, dim: int, variational: bool):
        super().__init__()
        self.log_variance = nn.Linear(dim, dim) if variational else None

    def forward(self, latents: Tensor, update: bool = True, valid: Tensor | None = None) -> Quantized:
        """Turn latents [B, p, d] into vectors [B, p, d] and no codes, int64 [B, 0]; there is nothing to update."""
        codes = torch.empty(len(latents), 0, dtype=torch.long, device=latents.device)
        if self.log_variance is None:
            return Quantized(latents, codes, {})
        log_variance = upcast(self.log_variance(latents)).clamp(-10, 10)
        kl = (latents.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        noise = torch.randn_like(latents) * (log_variance / 2).exp() if self.training else 0.0
        return Quantized(latents + noise, codes, {"kl": kl})


def trial_of(bottlenecks: Sequence[Any], tokens: int, sizes: Sequence[int], levels: bool) -> Trial | None:
    """Return how bottlenecks of `tokens` codes of these sizes are tried (`HubModel.trial`); None where one has none."""
    if not all(hasattr(each, "lookup") for each in bottlenecks):
        return None
    several = levels and tokens > 1
    rows = []
    for own, size in zip(bottlenecks, sizes, strict=False):
        codes = fixed_codes(tokens, size).to(next((x.device for x in (*own.parameters(), *own.buffers())), "cpu"))
        rows.append(between(own.lookup(codes[:, None] if several else codes)))
    return Trial(nn.ModuleList(bottlenecks), torch.stack(rows, 1), _codes_of)


def fixed_codes(tokens: int, size: int) -> Tensor:
    """Return codes [TRIED, tokens] below `size`, among which all are, if there are as many."""
    return 7919 * torch.arange(TRIED * tokens).view(TRIED, tokens) % size


def between(rows: Tensor) -> Tensor:
    """Return latents [n, ...] on the way from rows of the same shape to others."""
    return rows + (rows.roll(1, 0) - rows) * 0.3


def _codes_of(bottlenecks: Any, latents: Tensor) -> Tensor:
    return torch.cat([each(latents[:, i], False).codes.flatten(1) for i, each in enumerate(bottlenecks)], 1)


def grid_levels(size: int) -> list[int]:
    """Find levels per scalar whose product is `size`: few scalars of at most 8 levels, unless a prime is larger.

    >>> grid_levels(16), grid_levels(256), grid_levels(1000)
    ([4, 4], [8, 8, 4], [8, 5, 5, 5])
    """
    factors, left = [], size
    while left > 1:
        factors.append(next(factor for factor in count(2) if left % factor == 0))
        left //= factors[-1]
    scalars = 1
    while True:  # the fewest that hold all factors, each in the smallest level so far
        levels = [1] * scalars
        for prime in sorted(factors, reverse=True):
            levels[levels.index(min(levels))] *= prime
        if max(levels) <= max(MOST_LEVELS, *factors):
            return sorted(levels, reverse=True)
        scalars += 1


def _codebook(dim: int, tokens: int, codebook: CodebookConfig, frozen: bool, levels: bool, **_: Any) -> nn.Module:
    config = replace(codebook, start="normal", continuous_steps=0) if frozen else codebook
    quantizer = VectorQuantizer(QuantizerConfig(dim=dim, levels=tokens if levels else 1, **vars(config)))
    quantizer.frozen = frozen
    return quantizer


register_bottleneck(Bottleneck("vq", partial(_codebook, levels=False), vectors=True))
register_bottleneck(Bottleneck("residual", partial(_codebook, levels=True), levels=True, vectors=True))
register_bottleneck(Bottleneck("fsq", lambda dim, codebook, **_: ScalarQuantizer(dim, codebook.size)))
register_bottleneck(Bottleneck("none", lambda dim, variational, **_: PlainLatents(dim, variational), variational=True))
