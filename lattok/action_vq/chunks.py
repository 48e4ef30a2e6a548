"""Chunks of actions: what users hand over as tensors (masks, codes, datasets of different shapes joined), and how far
decoded chunks are off, in the dataset's units; and what fitting a tokenizer to them takes by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor

Arrays = Values | ActionBatch | tuple[Any, ...] | Mapping[str, Any]  # or several; by the name of their dataset


@dataclass(frozen=True)
class FitOptions:
    """What `fit` of a family takes besides its configuration.

    Attributes:
        seed: seed of everything random
    """

    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole(seed=self.seed)


@dataclass(frozen=True)
class TrainedFit(FitOptions):
    """Options of families whose encoder and decoder are trained.

    Attributes:
        steps: training steps
        lr: learning rate
        batch_size: samples in a step, over all processes
        device: where it computes; "auto" takes a GPU if there is one
        log_every: steps between two lines of the log, in a run folder
        save_every: steps between checkpoints, in a run folder; a stopped run continues from the last one
    """

    steps: int = 3000
    lr: float = 1e-3
    batch_size: int = 256
    device: str = "auto"
    log_every: int = 50
    save_every: int = 1000


def as_codes(codes: object) -> Tensor:
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


def _within_int64(row: object) -> Any:
    """Bring numbers of a list that are beyond int64, and so no codes, within it; -1 alone is padding."""
    if not isinstance(row, list | tuple):
        return row
    return [max(-2, min(x, 2**62)) if checks.is_int(x) else x for x in row]


def _integers(codes: object, dims: str) -> Tensor:
    codes = as_tensor("codes", codes)
    checks.rank("codes", codes, dims)
    if codes.dtype == torch.int64:
        return codes
    if codes.numel() and (codes.dtype.is_floating_point or codes.dtype == torch.bool):
        checks.fail("codes", "integers", f"dtype {codes.dtype}")
    wide = codes.long()  # what is beyond int64 has become negative, and is as much out of range as in a list
    return wide.masked_fill(wide < 0, 2**62) if codes.dtype == torch.uint64 else wide


def held_from_neighbours(values: Tensor, missing: Tensor) -> Tensor:
    """Let each missing entry of values [B, H, ...] repeat the last one before it that is there, else the first one."""
    steps = torch.arange(values.shape[1], device=values.device).view(1, -1, *[1] * (values.ndim - 2)).expand_as(missing)
    known = torch.where(missing, -1, steps).cummax(1)[0]
    first = torch.where(missing, values.shape[1] - 1, steps).amin(1, keepdim=True)
    return values.gather(1, torch.where(known < 0, first, known))


def value_range(actions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest valid entry of each dimension, [m]; zeros where there is none."""
    low = torch.where(valid, actions, torch.inf).flatten(0, 1).amin(0)
    high = torch.where(valid, actions, -torch.inf).flatten(0, 1).amax(0)
    seen = low <= high
    return torch.where(seen, low, 0.0), torch.where(seen, high, 0.0)


def examine(codes: Tensor, length: int, vocab_size: int) -> tuple[Tensor, Tensor, list[str]]:
    """Cut codes [B, L] to [B, length] or pad them with -1; tell which are no codes, with a note per row or none at all.

    -1 beyond `length` is padding and no fault; inside it is a missing code.
    """
    whole = codes.is_cpu and codes.shape[1] == length and codes.numel()
    if whole and codes.numpy().view(np.uint64).max() < vocab_size:  # a negative one is huge; torch takes five times it
        return codes, torch.zeros_like(codes, dtype=torch.bool), []
    over = (codes[:, length:] != -1).sum(1)
    codes = F.pad(codes[:, :length], (0, max(0, length - codes.shape[1])), value=-1)
    bad = (codes < 0) | (codes >= vocab_size)
    if not bool(bad.any() | over.any()):  # the host waits once
        return codes, bad, []
    counts = {
        "{} codes too many": over,
        f"{{}} of {length} codes missing": (codes == -1).sum(1),
        f"{{}} outside 0..{vocab_size - 1}": (bad & (codes != -1)).sum(1),
    }
    columns = [[text.format(n) if n else "" for n in count.tolist()] for text, count in counts.items()]
    return codes, bad, ["; ".join(filter(None, texts)) for texts in zip(*columns, strict=True)]


def check_codes(codes: Tensor, notes: Sequence[str], most: int, vocab_size: int, prefixes: bool) -> None:
    """Refuse codes [B, L] with the first of the notes; with `prefixes` the first codes of a row will do."""
    there = codes != -1
    first = not bool(there[:, most:].any() or (there[:, 1:] > there[:, :-1]).any())
    if prefixes and first and bool(((codes >= -1) & (codes < vocab_size)).all()):
        return
    row = next(i for i, note in enumerate(notes) if note)
    expected, hint = f"rows of {most} codes from 0 to {vocab_size - 1}", "With repair=True whatever comes is decoded."
    checks.fail("codes", expected, f"row {row}: {notes[row]}", hint)


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
    checks.counts(horizon=horizon, action_dim=action_dim)
    if isinstance(chunks, ActionBatch) or not isinstance(chunks, list | tuple) or _is_plain(chunks):
        chunks = [chunks]
    if valid is not None:
        if len(chunks) != 1 or isinstance(chunks[0], ActionBatch):
            raise checks.LattokError("`valid` cannot mask a list or an ActionBatch. Put ActionBatches into the list.")
        chunks = [ActionBatch(as_tensor("chunks", chunks[0]), as_tensor("valid", valid))]
    if not chunks:
        checks.fail("chunks", "at least one array", "an empty list")
    parts = [_part(part, "chunks" if len(chunks) == 1 else f"chunks[{i}]") for i, part in enumerate(chunks)]
    steps = max(horizon, *(part.chunks.shape[1] for part in parts))
    dims = max(action_dim, *(part.chunks.shape[2] for part in parts))

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (0, dims - values.shape[2], 0, steps - values.shape[1]))

    return ActionBatch(*(torch.cat([padded(part[i]) for part in parts]) for i in (0, 1)))


def share_of(part: Tensor, valid: Tensor) -> float:
    """Return which share of what is valid is `part`, two masks of one shape; 0 where nothing is."""
    return float((part & valid).sum() / valid.sum().clamp_min(1))


def _is_plain(values: object) -> bool:
    """Return whether these are numbers in nested lists: one array, where a list of arrays is several."""
    while isinstance(values, list | tuple) and values and not isinstance(values, ActionBatch):
        values = values[0]
    return isinstance(values, int | float | np.number)


def _part(part: Any, name: str) -> ActionBatch:
    """Return one dataset's chunks float32 [N, H, m] and their mask [N, H, m]."""
    values, valid = part if isinstance(part, ActionBatch) else (part, None)
    values = as_tensor(name, values).float()
    checks.rank(name, values, "N H m")
    if 0 in values.shape[1:]:
        checks.fail(name, "at least one step and one dimension", f"shape {list(values.shape)}")
    return ActionBatch(values, full_mask(values, valid))


@dataclass(frozen=True)
class ErrorReport:
    """Errors over valid steps, per dimension [m], in physical units; NaN for a dimension without any.

    `drift` is the largest |sum of the errors up to a step| over a chunk: where the robot ends up off its way when the
    actions are increments. It is 0 for dimensions that are not.
    """

    names: tuple[str, ...]
    mse: Tensor
    l1: Tensor
    p99: Tensor  # 99th percentile of |error|
    worst: Tensor  # greatest |error|
    worst_at: tuple[tuple[int, int], ...]  # (chunk, step) of the worst error of each dimension
    drift: Tensor
    clipped: float = 0.0  # share of what is coded (actions; coefficients in FAST) that is clipped

    def to_text(self) -> str:
        """Return a table, and the worst case in one sentence."""
        width = max(len(name) for name in ("dimension", *self.names))
        columns = {"rms": self.mse.sqrt(), "mean": self.l1, "p99": self.p99, "worst": self.worst}
        if bool((self.drift > 0).any()):
            columns["drift"] = self.drift
        lines = [f"{'dimension':{width}}" + "".join(f"{name:>11}" for name in columns)]
        for i, name in enumerate(self.names):
            lines.append(f"{name:{width}}" + "".join(f"{float(value[i]):11.4g}" for value in columns.values()))
        worst = int(self.worst.nan_to_num(-1.0).argmax())
        (chunk, step), size = self.worst_at[worst], float(self.worst[worst])
        lines.append(f"worst case: {self.names[worst]} off by {size:.4g} (chunk {chunk}, step {step})")
        if self.clipped:
            share = f"{self.clipped:.2%} of the coded numbers"
            lines.append(f"{share} lie outside what the tokenizer can express and are clipped")
        return "\n".join(lines)


def compare(
    actions: Tensor, decoded: Tensor, valid: Tensor, names: Sequence[str], relative: Sequence[int], clipped: float = 0
) -> ErrorReport:
    """Compare actions and decoded [N, H, m] where `valid` [N, H, m] holds; `relative` dimensions are increments."""
    gap = (decoded.double() - actions.double()).masked_fill(~valid, 0.0)
    size = gap.abs()
    count = valid.sum((0, 1)).double()
    drift = torch.zeros_like(count)
    if len(gap) and len(relative):
        drift[list(relative)] = gap.cumsum(1).abs().amax((0, 1))[list(relative)]
    flat = size.flatten(0, 1)
    at = flat.argmax(0).tolist() if len(flat) else [0] * len(names)
    known = [flat[valid.flatten(0, 1)[:, i], i] for i in range(len(names))]
    # torch.quantile refuses large inputs
    p99 = [x.kthvalue(max(1, round(0.99 * len(x))))[0] if len(x) else x.new_tensor(torch.nan) for x in known]
    return ErrorReport(
        names=tuple(names),
        mse=gap.square().sum((0, 1)) / count,
        l1=size.sum((0, 1)) / count,
        p99=torch.stack(p99),
        worst=torch.where(count > 0, flat.amax(0), torch.nan) if len(flat) else torch.full_like(count, torch.nan),
        worst_at=tuple(divmod(index, max(1, gap.shape[1])) for index in at),
        drift=drift,
        clipped=clipped,
    )
