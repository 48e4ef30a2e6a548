"""The encoder of Moto and LARA in the form that labels videos: see `base/labelling.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from lattok.image_lam.base.labelling import FlatPairEncoder
from lattok.image_lam.moto.sequence import SequenceEncoder


class SequencePairEncoder(FlatPairEncoder):
    """A `SequenceEncoder`; of a frame it holds the projected features."""

    def __init__(self, encoder: SequenceEncoder, dtype: torch.dtype = torch.float32):
        super().__init__(encoder, dtype)
        learned, width = self.places.shape
        nothing = self.places.new_zeros(1, (learned - len(self.queries) - 1) // 2, width)
        table = encoder.sequence(nothing, nothing)[0].detach()  # what is the same for all pairs
        count = nothing.shape[1]
        self.first, self.now, self.middle, self.later = table.split([len(self.queries), count, 1, count])

    def frames(self, features: Tensor) -> Tensor:
        return self.project(features).float()

    def tokens(self, now: Tensor, later: Tensor) -> Tensor:
        first, middle = (part.expand(len(now), -1, -1) for part in (self.first, self.middle))
        return torch.cat([first, now + self.now, middle, later + self.later], 1)
