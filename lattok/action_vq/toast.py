"""TOAST (Shirai et al., 2026): frequencies of the chunk, rounded, in pieces of a unigram language model.

coefficients = round(scale * DCT-II(chunk))     orthonormal, over time, for each dimension
codes        = the likeliest pieces of coefficients [m, H] row by row: all frequencies of a dimension come first

The published tokenizer is named stochastic for its training, in which a policy sees many ways to cut the same chunk:
`sample` draws one. Its own files are not read: how they write coefficients is in code on the Hub alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lattok.action_vq.dct import DCTConfig, DCTTokenizer, padded
from lattok.action_vq.unigram import CoefficientUnigram, train_unigram
from lattok.utils import checks
from lattok.utils.arrays import Values, like


@dataclass(frozen=True)
class TOASTConfig(DCTConfig):
    """As every `DCTConfig`; the published vocabulary has 512 pieces."""

    vocab_size: int = 512


class TOAST(DCTTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = TOAST.fit(chunks, vocab_size=512)            # [N, H, m] in physical units
    """

    type = "toast"
    config_class = TOASTConfig
    config: TOASTConfig
    subwords_class = CoefficientUnigram
    train_subwords = staticmethod(train_unigram)
    by_dimension = True

    @torch.no_grad()
    def sample(
        self, chunks: Values, valid: Values | None = None, *, alpha: float = 0.1, nbest: int = 64, seed: int = 0
    ) -> Any:
        """Turn chunks into codes as `encode` does, but cut otherwise: by one of the `nbest` best ways, for training.

        A way is drawn by its likelihood to the power of `alpha` (0: any of them; the defaults are the published ones).
        What is drawn decodes to the chunk that `encode` gives. Python, some milliseconds a chunk.
        """
        checks.counts(nbest=nbest)
        checks.at_least_zero(alpha=alpha)
        actions, _ = self._prepare(chunks, valid)
        assert isinstance(self.subwords, CoefficientUnigram)
        rows = self.subwords.sample(self._coefficients(actions), alpha, nbest, np.random.default_rng(seed))
        return like(chunks, padded(rows, self.tokens_per_chunk))
