"""What users hand over, as tensors: chunks, masks, codes, and datasets of different shapes joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.arrays import Values, as_tensor
from lattok.checks import LattokError
from lattok.types import ActionBatch

Arrays = Values | ActionBatch | tuple[Any, ...]  # or several


def as_codes(codes: Any) -> Tensor:
    """Codes int64 [B, L] of a tensor, an array or a list of rows of any lengths (then padded with -1)."""
    if isinstance(codes, np.ndarray) and codes.dtype == object and not isinstance(codes, np.ma.MaskedArray):
        codes = codes.tolist()
    if isinstance(codes, list | tuple):
        try:
            rows = [torch.as_tensor(_within_int64(row)) for row in codes]
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            checks.fail("codes", "rows of integers", f"something else ({error})")
        rows = [as_tensor("codes", row) for row in rows]
        for row in rows:
            _check_integers(row, "L")
        longest = max((len(row) for row in rows), default=0)
        padded = torch.full((len(rows), longest), -1)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        return padded
    codes = as_tensor("codes", codes)
    _check_integers(codes, "B L")
    return codes.long()


def _within_int64(row: Any) -> Any:
    """A list with numbers that are beyond int64, and so no codes, brought within; -1 alone is padding."""
    if not isinstance(row, list | tuple):
        return row
    return [max(-2, min(x, 2**62)) if isinstance(x, int) and not isinstance(x, bool) else x for x in row]


def _check_integers(codes: Tensor, dims: str) -> None:
    checks.rank("codes", codes, dims)
    if not codes.numel():
        return
    if codes.dtype.is_floating_point or codes.dtype.is_complex or codes.dtype == torch.bool:
        checks.fail("codes", "integers", f"dtype {codes.dtype}")


def full_mask(chunks: Tensor, valid: Values | None) -> Tensor:
    """`valid` as a mask [B, H, m] of chunks [B, H, m]: steps from the first one on, the same dimensions in each."""
    if valid is None:
        return torch.ones(chunks.shape, dtype=torch.bool, device=chunks.device)
    valid = as_tensor("valid", valid)
    if valid.dtype != torch.bool and not bool(((valid == 0) | (valid == 1)).all()):
        checks.fail("valid", "true and false", f"dtype {valid.dtype} with other values")
    if valid.ndim not in (2, 3):
        checks.fail("valid", "shape [B, H] or [B, H, m]", f"shape {list(valid.shape)}")
    expected = chunks.shape[: valid.ndim]
    if valid.shape != expected:
        checks.fail("valid", f"shape {list(expected)}", f"{list(valid.shape)}")
    valid = valid.to(chunks.device, torch.bool)
    mask = valid if valid.ndim == 3 else valid[..., None].expand(chunks.shape)
    steps, dims = mask.any(-1), mask.any(1)
    if not bool(steps[:, :1].all()) or not bool((steps[:, 1:] <= steps[:, :-1]).all()):
        checks.fail("valid", "true steps first, then padding", "another order")
    if valid.ndim == 3 and not bool((mask == (steps[..., None] & dims[:, None])).all()):
        checks.fail("valid", "the same dimensions in every step of a chunk", "others")
    return mask


def join_chunks(chunks: Arrays, valid: Values | None = None, *, horizon: int = 1, action_dim: int = 1) -> ActionBatch:
    """Chunks [N, H, m], or a list of such arrays and `ActionBatch`es with different H and m, as one padded batch.

    The result has the greatest horizon and number of dimensions of the parts, or more where asked for. Its mask is
    [N, H, m]: robots with fewer dimensions leave the last ones out.
    """
    if isinstance(chunks, ActionBatch) or not isinstance(chunks, list | tuple) or _is_plain(chunks):
        chunks = [chunks]
    if valid is not None:
        if len(chunks) != 1 or isinstance(chunks[0], ActionBatch):
            raise LattokError("`valid` cannot mask a list or an ActionBatch. Put ActionBatches into the list.")
        chunks = [ActionBatch(as_tensor("chunks", chunks[0]), as_tensor("valid", valid))]
    if not chunks:
        checks.fail("chunks", "at least one array", "an empty list")
    parts = [_part(part, "chunks" if len(chunks) == 1 else f"chunks[{i}]") for i, part in enumerate(chunks)]
    steps = max(horizon, *(part.chunks.shape[1] for part in parts))
    dims = max(action_dim, *(part.chunks.shape[2] for part in parts))

    def padded(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, dims - values.shape[2], 0, steps - values.shape[1]))

    return ActionBatch(*(torch.cat([padded(part[i]) for part in parts]) for i in (0, 1)))


def _is_plain(values: Any) -> bool:
    """Whether these are numbers in nested lists: one array, where a list of arrays is several."""
    while isinstance(values, list | tuple) and values and not isinstance(values, ActionBatch):
        values = values[0]
    return isinstance(values, int | float)


def _part(part: Any, name: str) -> ActionBatch:
    """One dataset's chunks float32 [N, H, m] and their mask [N, H, m]."""
    values, valid = part if isinstance(part, ActionBatch) else (part, None)
    values = as_tensor(name, values).float()
    checks.rank(name, values, "N H m")
    return ActionBatch(values, full_mask(values, valid))
