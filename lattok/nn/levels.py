"""Finite scalar quantization (Mentzer et al., 2024): each scalar is rounded to one of a few levels.

    value_i  = round(h_i tanh(z_i + s_i) - o_i) / floor(L_i / 2)      appendix A.1, from 3 levels on
    value_i  = 2 number_i / (L_i - 1) - 1                             symmetric: level i and L-1-i mirror each other
    number_i = floor((L_i - 1) (tanh(z_i) + 1) / 2 + 1/2)             Parker et al., 2024, section 3.2
    code     = sum_i number_i L_1 ... L_(i-1)                         the first level varies fastest

Stored codes mean this for ever, so that it is written here, step by step as vector-quantize-pytorch 1.32 rounds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SPARE = 1e-3  # by which a scalar can go beyond the outermost levels, so that these are reached


class LevelGrid(nn.Module):
    """Scalars [..., d] rounded to `levels` values each within [-1, 1]; gradients go straight through."""

    def __init__(self, levels: Sequence[int], symmetric: bool = False):
        super().__init__()
        self.symmetric = symmetric
        sizes = torch.tensor(levels)
        self.sizes = nn.Buffer(sizes, persistent=False)
        self.top = nn.Buffer(sizes.float() - 1, persistent=False)  # the number of the highest level
        self.places = nn.Buffer(torch.cumprod(sizes, 0) // sizes, persistent=False)  # what a level counts in a code
        self.height = nn.Buffer(self.top * (1 + SPARE) / 2, persistent=False)
        self.offset = nn.Buffer((1 - sizes % 2).float() / 2, persistent=False)
        self.shift = nn.Buffer(torch.atanh(self.offset / self.height), persistent=False)

    def quantize(self, latents: Tensor) -> Tensor:
        """Round latents [..., d] to the values of their levels."""
        if self.symmetric:
            raised = self.top * (latents.tanh() + 1) / 2 + 0.5
            return 2 / self.top * _straight(raised, raised.floor()) - 1
        bounded = (latents + self.shift).tanh() * self.height - self.offset
        return _straight(bounded, bounded.round()) / (self.sizes // 2)

    def numbers(self, values: Tensor) -> Tensor:
        """Number the levels of values [..., d] from 0 on, whole numbers as float."""
        if self.symmetric:
            return ((values + 1) / 2 * self.top).round()
        return (values * (self.sizes // 2)).round() + self.sizes // 2

    def values(self, numbers: Tensor) -> Tensor:
        """Return the values of the levels with these numbers [..., d], or of what lies between them."""
        if self.symmetric:
            return numbers * (2 / self.top) - 1
        return (numbers - self.sizes // 2).float() / (self.sizes // 2)

    def codes(self, values: Tensor) -> Tensor:
        """Turn values [..., d] into codes int64 [...]."""
        return (self.numbers(values).long() * self.places).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the values float32 [..., d] that codes [...] stand for."""
        return self.values(codes[..., None] // self.places % self.sizes)


def _straight(inputs: Tensor, rounded: Tensor) -> Tensor:
    return inputs + (rounded - inputs).detach()
