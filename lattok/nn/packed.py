"""Linear layers with matrices in the order of oneDNN's kernels, for inference on a CPU.

On CPUs of AMD torch multiplies float32 matrices by MKL, which uses half of their vector units; oneDNN uses all of
them. The numbers are the same but for rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 128  # fewer are faster as torch multiplies them


class PackedLinear(nn.Linear):
    """A linear layer with a second copy of its matrix, as it was then; gradients do not pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._pack()

    def _pack(self) -> None:
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, None)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() < FEW_ROWS * self.in_features:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._matrix, self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_matrix"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()


def packed(model: nn.Module) -> nn.Module:
    """Replace the layers inside `model`, on a CPU that has oneDNN; returns it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return model
    for name, layer in model.named_children():
        if type(layer) is nn.Linear:
            setattr(model, name, PackedLinear(layer.weight, layer.bias))
        else:
            packed(layer)
    return model
