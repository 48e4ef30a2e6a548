"""Rounds weights to a lower precision together: one operation for all of them, and one for their gradients.

Autocast rounds each weight on its own. `Rounding` does it for all linear layers and convolutions of a block at once,
to the same numbers; copies of frozen weights are given up at the next block, as autocast keeps none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rounded(masters: Sequence[Tensor], dtype: torch.dtype, sizes: Sequence[int] = ()) -> list[Tensor]:
    """Return copies of float32 tensors that hand gradients on to them. The first are matrices, `sizes` of them together
    one after the other in one copy."""
    return [*_Rounded.apply(dtype, sizes, *masters)] if masters else []  # pyright: ignore


def lowered(x: Tensor) -> Tensor:
    """Return x as autocast rounds it for a product, for several products that read it."""
    return x.to(autocast_dtype(x.device) or x.dtype)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return to what autocast rounds on a device, if it does."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):  # no such thing as on "meta"
        return None
    return torch.get_autocast_dtype(kind)


class Rounding:
    """Rounds layers of a model together where autocast would round them one by one."""

    def __init__(self, model: nn.Module):
        self._group_of: dict[nn.Module, _Together] = {}
        self._frozen: _Together | None = None  # the one that has copies
        groups, blocks = dict[tuple[str, bool], _Together](), _blocks(model)
        for name, layer in model.named_modules():
            if type(layer) in KINDS and layer.weight.dtype == torch.float32:  # pyright: ignore
                learns = any(part.requires_grad for part in layer.parameters(recurse=False))
                key = _block_of(name, blocks), learns
                self._group_of[layer] = groups.setdefault(key, _Together(learns))
        self._groups = [*groups.values()]

    @contextmanager
    def of_pass(self) -> Iterator[None]:
        """Round in this way inside, for one pass through the model."""
        layers = [layer for layer in self._group_of if "forward" not in vars(layer)]
        for layer in layers:
            vars(layer)["forward"] = partial(self._forward, layer, layer.forward)
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["forward"]
            for group in self._groups:
                group.copies = {}

    def _forward(self, layer: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        dtype = autocast_dtype(x.device)
        if dtype is None:
            return plain(x)
        weight, bias = self._copies(layer, dtype)
        return F.linear(x, weight, bias) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, bias)

    def _copies(self, layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        group = self._group_of[layer]
        if not group.learns and self._frozen is not group:
            if self._frozen is not None:
                self._frozen.copies = {}
            self._frozen = group
        return group.of(layer, dtype)


class _Together:
    """Layers of a block. Those that a pass asked for are rounded together in the next."""

    def __init__(self, learns: bool):
        self.learns, self.copies = learns, dict[nn.Module, tuple[Tensor, Tensor | None]]()
        self._asked, self._tracked = dict[nn.Module, None](), False

    def of(self, layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of a layer in `dtype`."""
        if self._tracked != torch.is_grad_enabled():  # copies made without it would hand on no gradients
            self.copies, self._tracked = {}, not self._tracked
        if layer not in self.copies:
            together = [*self._asked] if layer in self._asked and not self.copies else [layer]
            self._asked[layer] = None
            parts = [part for each in together for part in (each.weight, each.bias) if part is not None]
            copies = iter(rounded(parts, dtype))  # pyright: ignore[reportArgumentType]
            for each in together:
                self.copies[each] = next(copies), None if each.bias is None else next(copies)
        return self.copies[layer]


def _blocks(model: nn.Module) -> set[str]:
    """Return the names of what is in lists, and is no single layer."""
    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)}
    return {
        f"{name}.{own}" for name, part in lists.items() for own, block in part.named_children() if [*block.children()]
    }


def _block_of(name: str, blocks: set[str]) -> str:
    """Return the innermost block that a layer is in, "" for none."""
    while name and name not in blocks:
        name = name.rpartition(".")[0]
    return name


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, sizes: Sequence[int], *masters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sizes, first, copies = sizes, 0, list[Tensor]()
        for size in sizes:
            rows = sum(len(master) for master in masters[first : first + size])
            copies.append(masters[first].new_empty(rows, masters[first].shape[1], dtype=dtype))
            first += size
        copies += [torch.empty_like(master, dtype=dtype) for master in masters[first:]]
        torch._foreach_copy_(_apart(copies, sizes), list(masters))  # pyright: ignore[reportPrivateImportUsage]
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        low: list[Any] = _apart(gradients, ctx.sizes)
        found = [None if part is None else torch.empty_like(part, dtype=torch.float32) for part in low]
        known, given = ([part for part in parts if part is not None] for parts in (found, low))
        if known:
            torch._foreach_copy_(known, given)  # pyright: ignore[reportPrivateImportUsage]
        return None, None, *found


def _apart(copies: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """Return copies one by one: those that are together in parts of equal height."""
    parts = ([None] * size if copy is None else copy.chunk(size) for copy, size in zip(copies, sizes, strict=False))
    return [*(part for group in parts for part in group), *copies[len(sizes) :]]
