"""What users hand over, as tensors: chunks, masks, codes, and datasets of different shapes joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor
from lattok.utils.checks import LattokError

Arrays = Values | ActionBatch | tuple[Any, ...]  # or several


def as_codes(codes: Any) -> Tensor:
    """Turn a tensor, an array or a list of rows of any lengths (then padded with -1) into codes int64 [B, L]."""
    if isinstance(codes, np.ndarray) and codes.dtype == object and not isinstance(codes, np.ma.MaskedArray):
        codes = codes.tolist()
    if isinstance(codes, list | tuple):
        try:
            rows = [torch.as_tensor(_within_int64(row)) for row in codes]
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            checks.fail("codes", "rows of integers", f"something else ({error})")
        rows = [_integers(row, "L") for row in rows]
        return pad_sequence(rows, batch_first=True, padding_value=-1) if rows else torch.empty(0, 0, dtype=torch.long)
    return _integers(codes, "B L")


def _within_int64(row: Any) -> Any:
    """Bring numbers of a list that are beyond int64, and so no codes, within it; -1 alone is padding."""
    if not isinstance(row, list | tuple):
        return row
    return [max(-2, min(x, 2**62)) if checks.is_int(x) else x for x in row]


def _integers(codes: Any, dims: str) -> Tensor:
    codes = as_tensor("codes", codes)
    checks.rank("codes", codes, dims)
    if codes.numel() and (codes.dtype.is_floating_point or codes.dtype == torch.bool):
        checks.fail("codes", "integers", f"dtype {codes.dtype}")
    return codes.long()


def full_mask(chunks: Tensor, valid: Values | None) -> Tensor:
    """Make `valid` a mask [B, H, m] of chunks [B, H, m]: steps from the first one on, the same dimensions in each."""
    if valid is None:
        return torch.ones(chunks.shape, dtype=torch.bool, device=chunks.device)
    valid = as_tensor("valid", valid)
    if valid.dtype != torch.bool and not bool(((valid == 0) | (valid == 1)).all()):
        checks.fail("valid", "true and false", f"dtype {valid.dtype} with other values")
    if valid.ndim not in (2, 3):
        checks.fail("valid", "shape [B, H] or [B, H, m]", f"shape {list(valid.shape)}")
    if valid.shape != chunks.shape[: valid.ndim]:
        checks.fail("valid", f"shape {list(chunks.shape[: valid.ndim])}", list(valid.shape))
    valid = valid.to(chunks.device, torch.bool)
    mask = valid if valid.ndim == 3 else valid[..., None].expand(chunks.shape)
    steps, dims = mask.any(-1), mask.any(1)
    if not bool(steps[:, :1].all()) or not bool((steps[:, 1:] <= steps[:, :-1]).all()):
        checks.fail("valid", "true steps first, then padding", "another order")
    if valid.ndim == 3 and not bool((mask == (steps[..., None] & dims[:, None])).all()):
        checks.fail("valid", "the same dimensions in every step of a chunk", "others")
    return mask


def join_chunks(chunks: Arrays, valid: Values | None = None, *, horizon: int = 1, action_dim: int = 1) -> ActionBatch:
    """Join chunks [N, H, m], or a list of such arrays and `ActionBatch`es with different H and m, in a padded batch.

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
    """Tell whether these are numbers in nested lists: one array, where a list of arrays is several."""
    while isinstance(values, list | tuple) and values and not isinstance(values, ActionBatch):
        values = values[0]
    return isinstance(values, int | float)


def _part(part: Any, name: str) -> ActionBatch:
    """Return one dataset's chunks float32 [N, H, m] and their mask [N, H, m]."""
    values, valid = part if isinstance(part, ActionBatch) else (part, None)
    values = as_tensor(name, values).float()
    checks.rank(name, values, "N H m")
    return ActionBatch(values, full_mask(values, valid))
