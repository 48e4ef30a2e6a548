"""Any integers to codes that decode: what families share in saying what they repaired."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Repaired(NamedTuple):
    """Codes that can be decoded, made from any integers."""

    codes: Tensor  # [B, P] legal
    missing: Tensor  # [B, H, 1 or m] bool: nothing is known about these, hold the neighbours
    notes: list[str]  # what was repaired in each row, "" where nothing; empty when all rows are intact


def held_from_neighbours(values: Tensor, missing: Tensor) -> Tensor:
    """Values [B, H, ...] where each missing entry repeats the last one before it that is there, else the first one."""
    steps = torch.arange(values.shape[1], device=values.device).view(1, -1, *[1] * (values.ndim - 2)).expand_as(missing)
    known = torch.where(missing, -1, steps).cummax(1)[0]
    first = torch.where(missing, values.shape[1] - 1, steps).amin(1, keepdim=True)
    return values.gather(1, torch.where(known < 0, first, known))


def examine(codes: Tensor, length: int, vocab_size: int) -> tuple[Tensor, Tensor, list[str]]:
    """Codes [B, L] cut, or padded with -1, to [B, length]; which are no codes; a note per row, none if all are fine.

    -1 beyond `length` is padding and no fault; inside it is a missing code.
    """
    over = (codes[:, length:] != -1).sum(1)
    codes = F.pad(codes[:, :length], (0, max(0, length - codes.shape[1])), value=-1)
    bad = (codes < 0) | (codes >= vocab_size)
    if not bool(bad.any()) and not bool(over.any()):
        return codes, bad, []
    counts = {
        "{} codes too many": over,
        f"{{}} of {length} codes missing": (codes == -1).sum(1),
        f"{{}} outside 0..{vocab_size - 1}": (bad & (codes != -1)).sum(1),
    }
    columns = [[text.format(n) if n else "" for n in count.tolist()] for text, count in counts.items()]
    return codes, bad, ["; ".join(filter(None, texts)) for texts in zip(*columns, strict=True)]
