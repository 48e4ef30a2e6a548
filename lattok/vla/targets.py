"""Latent actions as they come in a batch: columns that `lattok annotate` wrote, stacked by LeRobot's data loader.

A loader that is asked for a window of rows (`delta_timestamps`) gives [B, S, ...] and `KEY_is_pad` [B, S], otherwise
the row of the frame alone. Vectors are flattened in the columns; a column of one number has no axis of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lattok import checks
from lattok.types import LatentTarget

PARTS = ("codes", "embedding")
ANNOTATE = "`lattok annotate DATASET --model MODEL --out OUT` writes them."
_WINDOW = "Name the key in `delta_timestamps`, with a time for every step."
_PREPROCESSOR = (
    "LeRobot's preprocessors drop keys that they do not know: `lattok.vla.keep_labels(preprocessor)` keeps them."
)


def target_from_batch(
    batch: Mapping[str, Any],
    prefix: str = "latent",
    *,
    target: str = "steps",
    codes: int | None = None,
    latent_dim: int | None = None,
    valid: Tensor | None = None,
    parts: Sequence[str] = PARTS,
) -> LatentTarget:
    """Latent actions of a batch, [B, S, P] codes and [B, S, E, d] vectors, and where to supervise.

    `target="steps"`: the rows of a window, `latent.codes` [B, S, P], `latent.embedding` [B, S, E * d], `latent.valid`
    [B, S]; rows after the episode (`..._is_pad`) are not valid, nor is what `valid` [B, S] (steps of actions) is not.
    "chunk": the tokens of the chunk that starts here, from one row: [B, S * P], [B, S * E * d] and [B]; `valid` counts
    where there is a token for each step.
    `codes` is P: what the columns say, or one. `latent_dim` is d: without it a step has a vector for each code, or one.
    Of `parts`, "codes" and "embedding", one must be there; others are not looked at.
    """
    checks.one_of("target", target, ("steps", "chunk"))
    checks.known_keys("parts", parts, PARTS)
    keys = {part: f"{prefix}.{part}" for part in (*PARTS, "valid")}
    given = _labels(batch, keys, parts)
    if target == "chunk":
        found = _tokens(keys, given, codes, latent_dim, valid)
        return found._replace(**{part: None for part in PARTS if part not in parts})
    given = {part: value for part, value in given.items() if part in (*parts, "valid")}
    mask = _mask(keys["valid"], given["valid"])
    steps = mask.shape[1]
    found = given.get("codes")
    found = None if found is None else _code_rows(keys["codes"], found, steps, codes)
    vectors = given.get("embedding")
    if vectors is not None:
        per_step = found.shape[2] if found is not None else codes or 1
        vectors = _vector_rows(keys["embedding"], vectors, steps, per_step, latent_dim)
    for part in given:
        pad = batch.get(f"{keys[part]}_is_pad")
        mask = mask if pad is None else mask & ~pad.to(mask.device).reshape(mask.shape)
    if valid is not None:
        checks.size(keys["valid"], "steps, as there are actions", steps, valid.shape[1], _WINDOW)
        mask = mask & valid.to(mask.device)
    return LatentTarget(found, vectors, mask)


def nearest(target: LatentTarget, steps: int) -> LatentTarget:
    """A target of S steps stretched over `steps`: each gets the latent action of the step nearest in time."""
    have = target.valid.shape[1]
    index = ((torch.arange(steps, device=target.valid.device) + 0.5) * have / steps).long()
    return _each(target, lambda part: part[:, index])


def to_device(target: LatentTarget, device: torch.device) -> LatentTarget:
    """The target on another device."""
    return _each(target, lambda part: part.to(device))


def _each(target: LatentTarget, change: Callable[[Tensor], Tensor]) -> LatentTarget:
    codes, embedding = (None if part is None else change(part) for part in (target.codes, target.embedding))
    return LatentTarget(codes, embedding, change(target.valid))


def _labels(batch: Mapping[str, Any], keys: Mapping[str, str], parts: Sequence[str]) -> dict[str, Tensor]:
    """The columns that are there: `valid`, and at least one of `parts`."""
    given = {part: batch[key] for part, key in keys.items() if batch.get(key) is not None}
    for part, value in given.items():
        checks.tensor(keys[part], value)
    missing = [] if given.keys() & set(parts) else [" or ".join(keys[part] for part in parts)]
    missing += [] if "valid" in given else [keys["valid"]]
    if missing:
        labels = [key for key in map(str, batch) if key.endswith(tuple(f".{part}" for part in keys))]
        got = f"only {', '.join(labels)}" if labels else "no labels"
        checks.fail("batch", " and ".join(missing), got, f"{ANNOTATE} {_PREPROCESSOR}")
    if given["valid"].dtype != torch.bool:
        checks.fail(keys["valid"], "bool", str(given["valid"].dtype).removeprefix("torch."))
    return given


def _mask(key: str, valid: Tensor) -> Tensor:
    """Bool [B, S] of a window."""
    if valid.dim() == 1:
        checks.fail(key, "rows of all steps, [B, S]", f"one row {list(valid.shape)}", _WINDOW)
    return valid.flatten(1)


def _code_rows(key: str, found: Tensor, steps: int, codes: int | None) -> Tensor:
    """Codes of a window to [B, S, P]."""
    if found.dim() == 2 and found.shape[1] == steps and codes in (None, 1):
        return found[..., None]
    if found.dim() != 3 or found.shape[1] != steps:
        checks.fail(key, f"rows of all {steps} steps, [B, {steps}, P]", str(list(found.shape)), _WINDOW)
    if codes is not None:
        checks.size(key, "codes in each row", found.shape[2], codes, "Another model made these labels.")
    return found


def _vector_rows(key: str, found: Tensor, steps: int, codes: int, latent_dim: int | None) -> Tensor:
    """Vectors of a window to [B, S, E, d]."""
    if found.shape[1] != steps or (found.dim() == 2 and latent_dim not in (None, 1)):
        checks.fail(key, f"rows of all {steps} steps, [B, {steps}, E * d]", str(list(found.shape)), _WINDOW)
    return _split(key, found.flatten(2) if found.dim() > 2 else found[..., None], codes, latent_dim)


def _split(key: str, rows: Tensor, codes: int, latent_dim: int | None) -> Tensor:
    """Flattened vectors [B, S, E * d] to [B, S, E, d]."""
    width = rows.shape[2]
    if latent_dim and width % latent_dim:
        hint = "`meta/lattok.json` has the shape of the column: the last number is `latent_dim`."
        checks.fail(key, f"vectors of {latent_dim} numbers", f"{width} numbers for a step", hint)
    return rows.unflatten(2, (-1, latent_dim or width // (codes if width % codes == 0 else 1)))


def _tokens(
    keys: Mapping[str, str],
    given: Mapping[str, Tensor],
    codes: int | None,
    latent_dim: int | None,
    valid: Tensor | None,
) -> LatentTarget:
    """The target of a chunk's tokens."""
    for part, value in given.items():
        if value.dim() > (1 if part == "valid" else 2) and value.shape[1] > 1:
            hint = "Take the key out of `delta_timestamps`: the tokens of a chunk stand in the row where it starts."
            checks.fail(keys[part], "one row", f"rows {list(value.shape)}", hint)
    rows = {part: value.reshape(len(value), -1) for part, value in given.items()}
    count, per_step = rows["codes"].shape[1] if "codes" in rows else codes or 1, codes or 1
    if count % per_step:
        checks.fail(keys["codes"], f"tokens of steps with {codes} codes", f"{count} tokens")
    steps = count // per_step
    found = rows["codes"].unflatten(1, (steps, per_step)) if "codes" in rows else None
    vectors = rows.get("embedding")
    if vectors is not None and vectors.shape[1] % steps:
        if latent_dim is not None:
            hint = f"Its vectors are those of the whole chunk: codes={count} makes it one step."
            checks.fail(keys["embedding"], f"vectors for each of {steps} tokens", f"{vectors.shape[1]} numbers", hint)
        vectors = None  # a residual quantizer has one vector for all tokens
    if vectors is not None:
        vectors = _split(keys["embedding"], vectors.unflatten(1, (steps, -1)), per_step, latent_dim)
    mask = rows["valid"].expand(-1, steps)
    return LatentTarget(
        found, vectors, mask if valid is None or valid.shape != mask.shape else mask & valid.to(mask.device)
    )
