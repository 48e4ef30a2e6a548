"""Reads labels as what supervises a policy, the same way from a dataset's columns and from somebody else's batch.

    columns of episodes    read_rows          codes [F, n], vectors [F, n] and validity [F] of all frames
    a batch                target_from_batch  columns that LeRobot's data loader stacked
    rows of samples        target_of          `LatentTarget`: steps, codes and vectors apart, and where to supervise

A loader that is asked for a window of rows (`delta_timestamps`) gives [B, S, ...] and `KEY_is_pad` [B, S], otherwise
the row of the frame alone. Vectors are flattened in the columns; a column of one number has no axis of its own.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.data.schema import RobotDataset
from lattok.labels.spec import PARTS, LatentSpec
from lattok.types import Episode, LatentTarget
from lattok.utils import checks

READ_AS: dict[str, tuple[Any, str, str]] = {  # dtype of each part, and the kinds of dtypes that its column may have
    "codes": (np.int64, "whole numbers", "iu"),
    "embedding": (np.float32, "numbers", "iuf"),
    "valid": (np.bool_, "true or false", "biu"),
}
AGAIN = "Annotate again."
VARYING = "Rows padded with -1 come from a tokenizer whose number of tokens varies, which cannot supervise."
ANNOTATE = "`lattok annotate DATASET --model MODEL --out OUT` writes them."
_WINDOW = "Name the key in `delta_timestamps`, with a time for every step."
_DROPPED = "LeRobot's preprocessors drop keys that they do not know: `lattok.vla.keep_labels(preprocessor)` keeps them."


def target_of(spec: LatentSpec, rows: Mapping[str, Tensor], inside: Tensor | None = None) -> LatentTarget:
    """Labels of samples: `rows` has by part codes [B, R, n], vectors [B, R, n] and validity [B, R], R rows of each.

    The rows are the steps of a window, or R = 1 row holds the tokens of the chunk that starts there. Sizes that are 0
    in the spec come from the rows. `inside` [B, H] says which steps of the actions lie in the episode: it is used if
    each label is that of a step. Raises `LattokError` where spec, rows and steps do not fit.
    """
    valid, codes, vectors = rows["valid"], rows.get("codes"), rows.get("embedding")
    steps = _steps(spec, rows)
    each = steps if spec.target == "chunk" else 1  # steps in a row
    several = {"steps": each} if each > 1 else {}
    if codes is not None:
        _check_row(spec.column("codes"), codes.shape[2], several | {"codes": spec.codes})
        codes = codes.reshape(len(codes), steps, -1)  # b s p
    if vectors is not None:
        sizes = several | {"vectors": spec.vectors, "numbers in a vector": spec.latent_dim}
        _check_row(spec.column("embedding"), vectors.shape[2], sizes)
        count = spec.vectors or (vectors.shape[2] // each // spec.latent_dim if spec.latent_dim else 1)
        vectors = vectors.reshape(len(vectors), steps, count, -1)  # b s e d
    valid = valid.expand(-1, steps)
    if inside is not None and (spec.target == "steps" or spec.per_step):
        hint = "Ask for as many rows as the chunk has steps (`delta_timestamps`), or for labels of such chunks."
        checks.size(spec.column("valid"), "steps, as there are actions", steps, inside.shape[1], hint)
        valid = valid & inside.to(valid.device)
    return LatentTarget(codes, vectors, valid)


def read_rows(
    dataset: RobotDataset, spec: LatentSpec, episodes: Sequence[Episode], parts: Sequence[str] = PARTS
) -> dict[str, Tensor]:
    """Label columns of all frames of some episodes, in order: codes int64, vectors float32 and validity bool [F, n].

    Of `parts`, it reads those that the spec has. Codes of valid rows lie in the codebook, and vectors are finite;
    otherwise it raises `LattokError`.
    """
    widths = {part: width for part, width in spec.widths().items() if part in (*parts, "valid")}
    keys = {part: spec.column(part) for part in widths}
    ends = list(accumulate(episode.length for episode in episodes))
    places = {e.index: slice(end - e.length, end) for e, end in zip(episodes, ends, strict=True)}
    rows = {part: np.empty((ends[-1], width), dtype=READ_AS[part][0]) for part, width in widths.items()}
    for index, found in dataset.columns_of(episodes, list(keys.values())):
        if isinstance(found, checks.LattokError):
            raise found
        for part, key in keys.items():
            values = found[key].reshape(len(found[key]), -1)
            checks.size(key, "numbers a row, as its description says", values.shape[1], widths[part])
            _, what, kinds = READ_AS[part]
            if values.dtype.kind not in kinds:
                checks.fail(key, what, values.dtype, AGAIN)
            with np.errstate(over="ignore"):  # too large for a float32: refused below
                rows[part][places[index]] = values
        valid = found[keys["valid"]].reshape(-1).astype(bool)
        if "codes" in rows and len(codes := found[keys["codes"]][valid]):
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= spec.codebook_size:
                way_out = VARYING if low < 0 else "Is codebook_size right?"
                checks.fail(keys["codes"], f"codes from 0 to {spec.codebook_size - 1}", f"{low} to {high}", way_out)
        if "embedding" in rows and not np.isfinite(rows["embedding"][places[index]][valid]).all():
            checks.fail(keys["embedding"], "finite numbers", "NaN or infinity", AGAIN)
    return {part: torch.from_numpy(values) for part, values in rows.items()}


def target_from_batch(
    batch: Mapping[str, Any],
    spec: LatentSpec | None = None,
    *,
    valid: Tensor | None = None,
    parts: Sequence[str] = PARTS,
) -> LatentTarget:
    """Latent actions of a batch, [B, S, P] codes and [B, S, E, d] vectors, and where to supervise.

    `spec` says what the columns hold; sizes that are 0 in it come from the columns. Labels of steps are rows of a
    window, `latent.codes` [B, S, P], `latent.embedding` [B, S, E * d], `latent.valid` [B, S]; rows after the episode
    (`..._is_pad`) are not valid. Those of a chunk are one row: [B, S * P], [B, S * E * d] and [B]. Labels of steps are
    valid only where `valid` [B, S] (steps of actions) is. Of `parts`, "codes" and "embedding", at least one is needed.
    """
    spec = spec or LatentSpec()
    checks.known_keys("parts", parts, PARTS)
    given = _labels(batch, spec, parts)
    rows = _row_of_chunk(spec, given) if spec.target == "chunk" else _rows_of_steps(batch, spec, given)
    return target_of(spec, rows, valid)


def _labels(batch: Mapping[str, Any], spec: LatentSpec, parts: Sequence[str]) -> dict[str, Tensor]:
    """Return the columns that are there: `valid`, and at least one of `parts`."""
    keys = {part: spec.column(part) for part in (*parts, "valid")}
    given = {part: batch[key] for part, key in keys.items() if batch.get(key) is not None}
    for part, value in given.items():
        checks.tensor(keys[part], value)
    missing = [] if given.keys() & set(parts) else [" or ".join(keys[part] for part in parts)]
    missing += [] if "valid" in given else [keys["valid"]]
    if missing:
        labels = [key for key in map(str, batch) if key.endswith(tuple(f".{part}" for part in (*PARTS, "valid")))]
        got = f"only {', '.join(labels)}" if labels else "no labels"
        checks.fail("batch", " and ".join(missing), got, f"{ANNOTATE} {_DROPPED}")
    if given["valid"].dtype != torch.bool:
        checks.fail(keys["valid"], "bool", str(given["valid"].dtype).removeprefix("torch."))
    return given


def _rows_of_steps(batch: Mapping[str, Any], spec: LatentSpec, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn windows of rows into [B, S, n], and find what of them is valid."""
    key, valid = spec.column("valid"), given["valid"]
    if valid.dim() == 1:
        checks.fail(key, "rows of all steps, [B, S]", f"one row {list(valid.shape)}", _WINDOW)
    valid = valid.flatten(1)
    rows = {}
    for part, value in given.items():
        if part != "valid":
            if value.dim() < 2 or value.shape[1] != valid.shape[1]:
                expected = f"rows of all {valid.shape[1]} steps, [B, {valid.shape[1]}, n]"
                checks.fail(spec.column(part), expected, str(list(value.shape)), _WINDOW)
            rows[part] = value.flatten(2) if value.dim() > 2 else value[..., None]
        pad = batch.get(f"{spec.column(part)}_is_pad")
        valid = valid if pad is None else valid & ~pad.to(valid.device).reshape(valid.shape)
    return rows | {"valid": valid}


def _row_of_chunk(spec: LatentSpec, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the row where a chunk starts into [B, 1, n]."""
    for part, value in given.items():
        if value.dim() > (1 if part == "valid" else 2) and value.shape[1] > 1:
            hint = "Take the key out of `delta_timestamps`: the tokens of a chunk are in the row where it starts."
            checks.fail(spec.column(part), "one row", f"rows {list(value.shape)}", hint)
    rows = {part: value.reshape(len(value), 1, -1) for part, value in given.items()}
    return rows | {"valid": rows["valid"][..., 0]}


def _steps(spec: LatentSpec, rows: Mapping[str, Tensor]) -> int:
    if spec.target == "steps" or spec.steps:
        return spec.steps if spec.target == "chunk" else rows["valid"].shape[1]
    if "codes" in rows:
        return rows["codes"].shape[2] // (spec.codes or 1)
    return rows["embedding"].shape[2] // ((spec.vectors or 1) * spec.latent_dim) if spec.latent_dim else 1


def _check_row(column: str, width: int, sizes: Mapping[str, int]) -> None:
    """Compare the numbers in a row with their sizes; a size of 0 may be any."""
    known = math.prod(size or 1 for size in sizes.values())
    if width != known if all(sizes.values()) else width % known:
        expected = " x ".join(f"{size or 'any'} {what}" for what, size in sizes.items())
        checks.fail(
            column, f"{expected} in each row", checks.counted(width, "number"), "Another model made these labels."
        )
