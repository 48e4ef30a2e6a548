"""Finite scalar quantisation of whole chunks (Mentzer et al., 2024), coarse to fine.

components = A chunk + MLP(chunk)       A: principal axes at the start
level_i    = component_i, rounded       2^b_i levels (nn/levels.py, symmetric), gradients go straight through
chunk^     = B levels + MLP(levels)

Each bit goes to the component whose variance it cuts most (reverse water-filling); the codes are these bits in the
order in which they were given, so that the most significant ones come first.
"""

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.chunks import Arrays, TrainedFit
from lattok.action_vq.coarse_to_fine import CoarseToFine, with_synthetic
from lattok.action_vq.learned import TrainedConfig, TrainedTokenizer, near_levels
from lattok.action_vq.p2t import reconstruction
from lattok.nn.levels import LevelGrid
from lattok.types import ActionBatch, LossTerms
from lattok.utils import checks
from lattok.utils.arrays import Values
from lattok.utils.options import FROM_DATA, knows_data

MAX_BITS = 16  # per component
START_WIDTH = 2.0  # standard deviations of a component at tanh's argument 1


@dataclass(frozen=True)
class FSQConfig(TrainedConfig):
    """`tokens` codes of `codebook_size` (a power of two); `bits`: the component that each bit refines, set by `fit`.

    Attributes:
        tokens: codes of a chunk
        codebook_size: codes to choose from, a power of two
        hidden: width inside the MLPs
    """

    tokens: int = 8
    codebook_size: int = 256
    hidden: int = 256
    bits: tuple[int, ...] = field(default=(), metadata=FROM_DATA)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(tokens=self.tokens, hidden=self.hidden)
        checks.counts(2, 2**MAX_BITS, codebook_size=self.codebook_size)
        if self.codebook_size & (self.codebook_size - 1):
            checks.fail("codebook_size", "a power of two", self.codebook_size)
        total, width = self.tokens * self.bits_per_token, self.horizon * self.action_dim
        if knows_data(self) and total > MAX_BITS * width:
            checks.fail("tokens", f"at most {MAX_BITS} bits per number of a chunk ({MAX_BITS * width})", total)
        if self.bits:
            checks.size("bits", "bits", len(self.bits), total)
            used = sorted(set(self.bits))
            if used != list(range(len(used))) or len(used) > width:
                checks.fail("bits", f"components 0, 1, ... without gaps, below {width}", f"{used}"[:60])
            if (most := max(Counter(self.bits).values())) > MAX_BITS:
                checks.fail("bits", f"at most {MAX_BITS} for each component", most)

    @property
    def bits_per_token(self) -> int:
        return round(math.log2(self.codebook_size))

    def allocate_bits(self, variances: Tensor) -> tuple[int, ...]:
        """List components in the order in which they get a bit: each halves an error, so it quarters a variance."""
        left = [(-value, i) for i, value in enumerate(variances.double().clamp_min(1e-12).tolist())]  # largest first
        heapq.heapify(left)
        given, counts = list[int](), Counter[int]()
        for _ in range(self.tokens * self.bits_per_token):
            value, best = left[0]
            given.append(best)
            counts[best] += 1
            heapq.heapreplace(left, (value / 4 if counts[best] < MAX_BITS else 1.0, best))
        return tuple(given)


class CorrectedLinear(nn.Module):
    """A linear map plus what a small network adds to it, nothing at first: [B, n] to [B, k]."""

    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.correction = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Begin as x -> weight x + bias."""
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.correction(x)


@dataclass(frozen=True)
class FSQFit(TrainedFit):
    """How encoder and decoder are trained.

    Attributes:
        synthetic: number of synthetic chunks, made from the given ones and added to them
    """

    lr: float = 5e-3
    synthetic: int = 48_000

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(0, 10**9, synthetic=self.synthetic)


class FSQ(TrainedTokenizer, CoarseToFine):
    """Chunks [B, H, m] to `tokens` codes each, coarse to fine: the first p codes of a row decode on their own.

    >>> tokenizer = FSQ.fit(chunks, steps=3000)                  # [N, H, m] in physical units
    """

    type = "fsq"
    arxiv = "2309.15505"
    config_class = FSQConfig
    config: FSQConfig
    fit_options = FSQFit
    learned_fields = ("bits",)

    def __init__(self, config: FSQConfig):
        super().__init__(config)
        width = config.horizon * config.action_dim
        bits = config.bits or config.allocate_bits(1 / torch.arange(1, width + 1, device="cpu") ** 2)
        counts, left, shift = Counter(bits), Counter(bits), list[int]()
        levels = [2 ** counts[c] for c in range(len(counts))]
        self.grid = LevelGrid(levels, symmetric=True)
        self.encoder = CorrectedLinear(width, len(counts), config.hidden)
        self.decoder = CorrectedLinear(len(counts), width, config.hidden)
        for c in bits:
            left[c] -= 1
            shift.append(left[c])  # as many bits of its component follow
        self.component = nn.Buffer(torch.tensor(bits), persistent=False)  # of each bit
        self.shift = nn.Buffer(torch.tensor(shift), persistent=False)  # its place in the level
        # what each bit of a code counts, the most significant first
        self.places = nn.Buffer(2 ** torch.arange(config.bits_per_token - 1, -1, -1), persistent=False)

    @classmethod
    def _begin(
        cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], how: Any
    ) -> tuple[Self, ActionBatch]:
        """Find bits for its components and weights to start from; synthetic chunks are trained on, too."""
        plain, batch = super()._begin(chunks, valid, options, how)
        actions, mask = plain._prepare(*batch)
        actions, mask = with_synthetic(actions, mask, how.synthetic, torch.Generator().manual_seed(how.seed))
        mean, variances, axes = principal_axes(actions.flatten(1), mask.flatten(1))
        model = cls(replace(plain.config, bits=plain.config.allocate_bits(variances)))
        model.normalizer, model.normalizers, model.limits = plain.normalizer, plain.normalizers, plain.limits
        components = len(model.grid.sizes)
        axes = axes[:, :components]
        width = START_WIDTH * variances[:components].sqrt().clamp_min(1e-3)
        project = axes.T / width[:, None]
        model.encoder.start_from(project, -project @ mean)
        model.decoder.start_from(axes * width, mean)
        return model, ActionBatch(model.normalizer.inverse(actions), mask)

    def _terms(self, actions: Tensor, valid: Tensor) -> LossTerms:
        """Return the reconstruction error before clipping: an action beyond the limits still learns."""
        levels = self.grid.quantize(self.encoder(actions.flatten(1)))
        terms = {"reconstruction": reconstruction(self.decoder(levels).view_as(actions), actions, valid)}
        if self.config.perturb:  # of each component, next to its level
            near = self.grid.values(near_levels(self.grid.numbers(levels), self.grid.top))
            moved = levels + self._shift(levels[..., None], near[..., None])[..., 0]
            terms["perturbed"] = reconstruction(self.decoder(moved).view_as(actions), actions, valid)
        return terms

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        # No use for `valid`: the encoder learned from padded chunks what to give for their valid entries.
        levels = self.grid.quantize(self.encoder(actions.flatten(1)))
        bits = (self.grid.numbers(levels).long()[:, self.component] >> self.shift) & 1
        return (bits.view(-1, self.config.tokens, self.config.bits_per_token) * self.places).sum(-1)

    def _decode(self, codes: Tensor) -> Tensor:
        bits = (codes[..., None] // self.places % 2).float()
        bits = torch.where(codes[..., None] < 0, 0.5, bits).flatten(1)  # unknown: the middle of what is known
        numbers = bits.new_zeros(len(bits), len(self.grid.sizes)).index_add_(1, self.component, bits * 2**self.shift)
        return self.limits(self.decoder(2 * numbers / self.grid.top - 1).view(-1, self.horizon, self.config.action_dim))


def principal_axes(rows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [d], variances [d] in falling order and axes [d, d] (columns) of rows [N, d] where `valid` [N, d].

    Each covariance is that of the rows which have both entries, 0 where there are none.
    """
    weight = valid.double()
    counts = weight.sum(0).clamp_min(1)
    centred = (rows - (rows * weight).sum(0) / counts) * weight
    variances, axes = torch.linalg.eigh(centred.T @ centred / (weight.T @ weight).clamp_min(1))
    mean = (rows * valid).sum(0) / counts.float()
    return mean, variances.flip(0).clamp_min(0).float(), axes.flip(1).float()
