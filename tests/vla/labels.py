"""Labels with gaps, for tests of losses and of batches that hold them."""

import torch

from lattok.types import LatentTarget

B, S, P, K, D = 4, 5, 3, 7, 6  # samples, steps, codes of a step, codebook, width of a vector


def make_target(steps: int = S, codes: int = P, vectors: int = P) -> LatentTarget:
    valid = torch.rand(B, steps) < 0.7
    valid[0], valid[-1] = True, False
    embedding = torch.randn(B, steps, vectors, D)
    return LatentTarget(torch.randint(0, K, (B, steps, codes)), embedding, valid)
