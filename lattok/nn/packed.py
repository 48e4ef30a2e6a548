"""Linear layers and short convolutions with matrices in the order of oneDNN's kernels, for inference on a CPU.

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


class PackedConvolution(nn.Conv1d):
    """A convolution [B, d, h] to [B, o, h] that reads as many steps before as after: one product over all its taps."""

    def __init__(self, conv: nn.Conv1d):
        nn.Module.__init__(self)
        self.weight, self.bias, self.reach = conv.weight, conv.bias, conv.dilation[0]
        taps = PackedLinear(conv.weight.detach().transpose(1, 2).flatten(1), conv.bias)  # o (tap d)
        self._taps = (taps,)  # hidden: the tensors of a model have the names that they had

    @classmethod
    def understands(cls, layer: nn.Module) -> bool:
        """Tell whether a layer is such a convolution."""
        if type(layer) is not nn.Conv1d or layer.kernel_size[0] % 2 == 0 or layer.padding_mode != "zeros":
            return False
        around = layer.kernel_size[0] // 2 * layer.dilation[0]
        return layer.stride == (1,) and layer.groups == 1 and layer.padding == (around,)

    def forward(self, x: Tensor) -> Tensor:
        steps, count = x.shape[2], self.weight.shape[2]
        wide = F.pad(x.transpose(1, 2), (0, 0, count // 2 * self.reach, count // 2 * self.reach))  # b h d
        seen = [wide[:, i * self.reach :][:, :steps] for i in range(count)]
        return self._taps[0](torch.cat(seen, -1)).transpose(1, 2)


def packed(model: nn.Module) -> nn.Module:
    """Replace the layers inside `model`, on a CPU that has oneDNN; returns it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return model
    for name, layer in model.named_children():
        if type(layer) is nn.Linear:
            setattr(model, name, PackedLinear(layer.weight, layer.bias))
        elif PackedConvolution.understands(layer):
            setattr(model, name, PackedConvolution(layer))  # pyright: ignore[reportArgumentType]
        else:
            packed(layer)
    return model
