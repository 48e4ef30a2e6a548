"""Random walks that stand for chunks of actions."""

import torch
from torch import Tensor

NAMES = ("x", "y", "gripper")


def smooth(n: int = 60, steps: int = 6, dims: int = 3, seed: int = 0, step: float = 0.2) -> Tensor:
    """Walks [n, steps, dims] around 0, 1, 2."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, steps, dims, generator=generator).cumsum(1) * step + torch.arange(dims)


def saturating(n: int = 300, steps: int = 6, dims: int = 3, seed: int = 0) -> Tensor:
    """Walks whose first dimension saturates at -1 and 1."""
    chunks = smooth(n, steps, dims, seed, step=0.3)
    chunks[..., 0] = chunks[..., 0].clamp(-1, 1)
    return chunks


def whole(chunks: Tensor) -> Tensor:
    """A mask of everything."""
    return torch.ones(chunks.shape, dtype=torch.bool)
