"""What inverse models return."""

from typing import NamedTuple

from torch import Tensor


class InferredActions(NamedTuple):
    """Actions inferred from frames or from states."""

    actions: Tensor  # [B, m] in physical units; of networks within the range of those that were known
    spread: Tensor  # [B] deviation of the members, in deviations of the known actions; 0 of one member
    latents: Tensor  # [B, members, d], which say what happened
    codes: Tensor  # [B, members * tokens] int64; [B, 0] without a codebook
