"""Uniform bins, one code per step and dimension: what RT-2 and OpenVLA do (Kim et al., 2024, section 3.2).

code = floor((x + 1) / 2 * bins)    x in [-1, 1]: the 1st to 99th percentile of each dimension
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer, Repaired
from lattok.action_vq.chunks import Arrays, SeededFit, examine
from lattok.nn.quantize import MOST_CODES
from lattok.utils import checks
from lattok.utils.arrays import Values


@dataclass(frozen=True)
class UniformBinsConfig(ChunkConfig):
    """`bins` equal bins per dimension over the normalised range [-1, 1]; values outside fall into the outer ones.

    Attributes:
        bins: bins of each dimension
    """

    normalize: str = "quantile"
    bins: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(2, MOST_CODES, bins=self.bins)


class UniformBins(ChunkTokenizer):
    """Chunks [B, H, m] to H*m codes, step by step, dimension by dimension.

    >>> tokenizer = UniformBins.fit(chunks)                      # [N, H, m] in physical units
    """

    type = "uniform-bins"
    config_class = UniformBinsConfig
    config: UniformBinsConfig
    fit_options = SeededFit

    def __init__(self, config: UniformBinsConfig):
        super().__init__(config)
        self.vocab_size, self.tokens_per_chunk = config.bins, config.horizon * config.action_dim

    @classmethod
    def fit(cls, chunks: Arrays, valid: Values | None = None, *, seed: int = 0, **options: Any) -> Self:
        """Take the range of each dimension from chunks [N, H, m] in physical units, or a list of such arrays.

        Nothing is random; `seed` is there so that all families are called in the same way.
        """
        return cls._from_chunks(chunks, valid, options)[0].eval()

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        bins = ((actions + 1) / 2 * self.config.bins).floor().clamp(0, self.config.bins - 1)
        return bins.long().flatten(1)

    def _decode(self, codes: Tensor) -> Tensor:
        centres = (codes + 0.5) / self.config.bins * 2 - 1
        return centres.view(-1, self.horizon, self.action_dim)

    def _repair(self, codes: Tensor) -> Repaired:
        """Hold a code that is missing or outside the bins: its dimension keeps its neighbour in time."""
        codes, bad, notes = examine(codes, self.tokens_per_chunk, self.vocab_size)
        missing = bad.view(-1, self.horizon, self.action_dim)
        return Repaired(codes.clamp(0, self.vocab_size - 1), missing, notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        return float(((actions.abs() > 1 + 1e-6) & valid).sum() / valid.sum().clamp_min(1))
