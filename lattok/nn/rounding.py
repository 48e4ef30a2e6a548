"""Rounds weights to a lower precision together: one operation for all of them, and one for their gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rounded(masters: Sequence[Tensor], dtype: torch.dtype, sizes: Sequence[int] = ()) -> list[Tensor]:
    """Return copies of float32 tensors that hand gradients on to them. The first are matrices, `sizes` of them together
    one after the other in one copy."""
    return [*_Rounded.apply(dtype, sizes, *masters)] if masters else []  # pyright: ignore


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
