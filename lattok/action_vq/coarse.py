"""What tokenizers with codes from coarse to fine share: a row decodes up to wherever it breaks."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

import torch
from torch import Tensor

from lattok.action_vq.base import ChunkTokenizer
from lattok.action_vq.limits import Limits
from lattok.action_vq.repair import Repaired, examine


class CoarseToFine(ChunkTokenizer, ABC):
    """Base of families whose config has `tokens` and `codebook_size`; the first p codes decode on their own."""

    shared_vocabulary: ClassVar[bool] = False  # each position refines what the ones before left
    config: Any

    def __init__(self, config: Any):
        super().__init__(config)
        self.limits = Limits(config.action_dim)

    @property
    def vocab_size(self) -> int:
        """Number of codes K."""
        return self.config.codebook_size

    @property
    def tokens_per_chunk(self) -> int:
        """Codes per chunk."""
        return self.config.tokens

    def _repair(self, codes: Tensor) -> Repaired:
        """A row is decoded up to its first code that is missing or out of range; -1 from there on."""
        length = self.tokens_per_chunk
        codes, bad, notes = examine(codes, length, self.vocab_size)
        known = (bad.cumsum(1) == 0).sum(1)
        codes = torch.where(torch.arange(length, device=codes.device) < known[:, None], codes, -1)
        if notes:
            pairs = zip(notes, known.tolist(), strict=True)
            notes = [f"{note}; decoded from the first {p}" if p < length else note for note, p in pairs]
        return Repaired(codes, (known == 0)[:, None, None], notes)

    def _clipped(self, actions: Tensor, valid: Tensor) -> float:
        return self.limits.beyond(actions, valid)
