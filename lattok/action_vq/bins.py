"""Actions in uniform bins, one code per step and dimension: what RT-2 and OpenVLA do (Kim et al., 2024, section 3.2).

code = floor((x + 1) / 2 * bins)    x in [-1, 1]: the 1st to 99th percentile of each dimension
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer, Repair
from lattok.action_vq.chunks import examine, share_of
from lattok.nn.normalize import Normalization
from lattok.nn.quantize import MOST_CODES
from lattok.types import ActionBatch
from lattok.utils import checks


@dataclass(frozen=True)
class UniformBinsConfig(ChunkConfig):
    """`bins` equal bins per dimension over the normalised range [-1, 1]; values outside fall into the outer ones.

    Attributes:
        bins: bins of each dimension
    """

    normalize: Normalization = "quantile"
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

    def __init__(self, config: UniformBinsConfig):
        super().__init__(config)
        self.vocab_size, self.tokens_per_chunk = config.bins, config.horizon * config.action_dim

    def _learn(self, batch: ActionBatch, how: Any) -> None:
        """Let what never moves lie in the middle of a bin, where decoding puts it; 0 is the border of two."""
        each: Any = self.normalizers if self.datasets else [self.normalizer]
        for own in each:
            if self.config.bins % 2 == 0 and own.still is not None:
                own.shift -= own.still / self.config.bins

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        return ((actions + 1) / 2 * self.config.bins).floor().clamp(0, self.config.bins - 1).long().flatten(1)

    def _decode(self, codes: Tensor) -> Tensor:
        centres = (codes.float() + 0.5) / self.config.bins * 2 - 1
        return centres.view(-1, self.horizon, self.config.action_dim)

    def _repair(self, codes: Tensor) -> Repair:
        """Hold a code that is missing or outside the bins: its dimension keeps its neighbour in time."""
        codes, bad, notes = examine(codes, self.tokens_per_chunk, self.vocab_size)
        return Repair(codes.clamp(0, self.vocab_size - 1), bad.view(-1, self.horizon, self.config.action_dim), notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        return share_of(actions.abs() > 1 + 1e-6, valid)
