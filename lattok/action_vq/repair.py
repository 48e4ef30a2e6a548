"""Any integers to codes that decode: what families share in saying what they repaired."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def fit_length(codes: Tensor, length: int) -> tuple[Tensor, list[str]]:
    """Codes [B, L] cut, or padded with -1, to [B, length]; and a note per row, none when the length was right."""
    had = codes.shape[1]
    if had == length:
        return codes, []
    if had > length:
        kept = codes[:, :length]
        over = (codes[:, length:] != -1).sum(1).tolist()  # -1 is padding
        return kept, [f"{n} codes too many" if n else "" for n in over] if any(over) else []
    padded = torch.nn.functional.pad(codes, (0, length - had), value=-1)
    return padded, []


def outside_notes(codes: Tensor, bad: Tensor, vocab_size: int, notes: list[str]) -> list[str]:
    """Notes per row about `bad` [B, P] codes: absent ones are -1, the others lie outside the vocabulary."""
    if not bool(bad.any()):
        return notes
    absent = ((codes == -1) & bad).sum(1).tolist()
    wrong = ((codes != -1) & bad).sum(1).tolist()
    out = []
    for a, w, note in zip(absent, wrong, notes or [""] * len(codes), strict=True):
        texts = [f"{a} of {codes.shape[1]} codes missing"] if a else []
        texts += [f"{w} outside 0..{vocab_size - 1}"] if w else []
        out.append("; ".join([*([note] if note else []), *texts]))
    return out


def cut_at_first_bad(codes: Tensor, length: int, vocab_size: int) -> Repaired:
    """Any integers [B, L] to [B, length], coarse to fine: -1 from the first one on that is missing or no code."""
    codes, notes = fit_length(codes, length)
    bad = (codes < 0) | (codes >= vocab_size)
    notes = outside_notes(codes, bad, vocab_size, notes)
    known = (bad.cumsum(1) == 0).sum(1)
    codes = torch.where(torch.arange(length, device=codes.device) < known[:, None], codes, -1)
    notes = [
        f"{note}; decoded from the first {p}" if p < length else note
        for note, p in zip(notes, known.tolist(), strict=False)
    ]
    return Repaired(codes, (known == 0)[:, None, None], notes)
