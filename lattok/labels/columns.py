"""The labels in a dataset's columns, checked against what a policy needs: of what, how many, for when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import torch

from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import PROVENANCE, RobotDataset
from lattok.labels.provenance import provenance_of, written_spec
from lattok.labels.spec import PARTS, LatentSpec, spec_of
from lattok.types import ActionTokenizer

MODELS = {"steps": "an image model", "chunk": "an action tokenizer"}


def latent_spec(
    dataset: RobotDataset,
    prefix: str,
    target: str,
    horizon: int,
    stride: int | None = None,
    *,
    codebook_size: int = 0,
    latent_dim: int = 0,
    per_step: bool = False,
    needs: Sequence[str] = (),
) -> LatentSpec:
    """What the columns `prefix`.codes, .embedding and .valid hold for a policy of `horizon` steps.

    Annotation has written it down; `codebook_size`, `latent_dim` and `per_step` say it of somebody else's columns.
    `stride` (frames), where given, must be theirs. `needs`: of "codes" and "embedding", those that must be there.
    Everything that does not fit raises `LattokError` with the way out.
    """
    checks.one_of("target", target, MODELS)
    checks.counts(horizon=horizon)
    _check_columns(dataset, prefix, target, needs)
    spec = written_spec(provenance_of(dataset).get(prefix), prefix, dataset.name)
    if spec is None:
        spec = _as_given(dataset, prefix, target, latent_dim, per_step)
    if spec.target != target:
        _wrong_target(spec, target)
    _check_widths(dataset, spec)
    spec = replace(spec, codebook_size=_codebook_size(spec, codebook_size))
    if latent_dim not in (0, spec.latent_dim) and spec.vectors:
        checks.fail("latent_dim", f"{spec.latent_dim} as {PROVENANCE} says", latent_dim)
    if target == "steps":
        return replace(spec, steps=horizon, stride=_stride(spec, stride))
    if stride is not None:
        raise LattokError(f"`stride` {stride} was given, but labels of an action tokenizer have none.")
    if spec.horizon not in (0, horizon):
        other = f"annotate with a tokenizer of horizon {horizon}: {_annotate(prefix, 'chunk')}"
        hint = f"Give horizon={spec.horizon}, or {other}"
        checks.fail("horizon", f"{spec.horizon} steps, as the labels `{prefix}` were made of", horizon, hint)
    return _check_chunk(prefix, replace(spec, horizon=horizon), needs)


def tokenizer_spec(tokenizer: ActionTokenizer, horizon: int, needs: Sequence[str] = ()) -> LatentSpec:
    """The same for an action tokenizer that labels batches as they are drawn, in place of columns."""
    if not isinstance(tokenizer, ActionTokenizer):
        checks.fail("labeller", "an action tokenizer", type(tokenizer).__name__, "Image models label with annotate.")
    if tokenizer.horizon != horizon:
        hint = f"Give horizon={tokenizer.horizon}, or train a tokenizer with horizon={horizon}."
        checks.fail("labeller", f"a tokenizer of chunks of {horizon} steps", f"one of {tokenizer.horizon}", hint)
    made = tokenizer.latent_actions(torch.zeros(1, horizon, tokenizer.action_dim))
    vectors, width = made.latents.shape[1:]
    return _check_chunk("labeller", spec_of(tokenizer, "latent", made.codes.shape[1], vectors, width), needs)


def targets_of(dataset: RobotDataset) -> dict[str, str]:
    """By prefix, whether a dataset's labels are those of steps or of chunks, where it is written down."""
    specs = {p: entry.get("spec") for p, entry in provenance_of(dataset).items() if isinstance(entry, Mapping)}
    return {prefix: spec["target"] for prefix, spec in specs.items() if isinstance(spec, Mapping) and "target" in spec}


def only_prefix(dataset: RobotDataset, target: str, strategy: str) -> str:
    """The one prefix whose labels fit; where there is none, the error about the usual one says what to do."""
    found = [prefix for prefix, kind in targets_of(dataset).items() if kind == target]
    if len(found) > 1:
        expected = f"one of {', '.join(found)}, all of them labels that {strategy} can learn from"
        checks.fail("prefix", expected, "none")
    return found[0] if found else "latent"


def _annotate(prefix: str, target: str) -> str:
    """The command that makes the columns."""
    return f"lattok annotate DATASET --model {'LAM' if target == 'steps' else 'TOKENIZER'} --prefix {prefix} --out DIR"


def _check_columns(dataset: RobotDataset, prefix: str, target: str, needs: Sequence[str]) -> None:
    for name in needs:
        checks.one_of("needs", name, PARTS)
    have = [name for name in PARTS if f"{prefix}.{name}" in dataset.features]
    missing = [] if have else ["codes"]
    missing += [name for name in (*needs, "valid") if f"{prefix}.{name}" not in dataset.features]
    if not missing:
        return
    columns = ", ".join(f"`{prefix}.{name}`" for name in dict.fromkeys(missing))
    others = sorted(key.removesuffix(".valid") for key in dataset.features if key.endswith(".valid"))
    instead = f" It has labels under {', '.join(map(repr, others))}." if others and prefix not in others else ""
    if prefix in others and missing == ["codes"]:
        instead = " Its model is continuous and has no codes: use a strategy that regresses or aligns latents."
    if prefix in others and missing == ["embedding"]:
        instead = " It was annotated with embedding=False."
    raise LattokError(f"dataset `{dataset.name}` has no {columns}.{instead} Make them: {_annotate(prefix, target)}")


def _wrong_target(spec: LatentSpec, target: str) -> NoReturn:
    way_out = f"Choose a strategy that learns from labels of {MODELS[spec.target]}, or another prefix"
    hint = f"{way_out}: {_annotate(spec.prefix, target)}"
    checks.fail(spec.prefix, f"labels of {MODELS[target]}", f"labels of {MODELS[spec.target]}", hint)


def _width(dataset: RobotDataset, column: str) -> int:
    return math.prod(dataset.features[column].shape) if column in dataset.features else 0


def _check_widths(dataset: RobotDataset, spec: LatentSpec) -> None:
    for part, width in spec.widths().items():
        found = _width(dataset, spec.column(part))
        if found != width:
            hint = f"The columns and {PROVENANCE} are not of one annotation: annotate again."
            checks.fail(spec.column(part), f"{width} numbers a row, as {PROVENANCE} says", found, hint)


def _as_given(dataset: RobotDataset, prefix: str, target: str, latent_dim: int, per_step: bool) -> LatentSpec:
    """Columns that nothing is written down about, as the arguments describe them."""
    codes, width = _width(dataset, f"{prefix}.codes"), _width(dataset, f"{prefix}.embedding")
    if width and not latent_dim:
        hint = "Give latent_dim, the numbers of one vector; or annotate with lattok, which writes it down."
        expected = f"the width of the vectors in `{prefix}.embedding` ({width} numbers a row)"
        checks.fail("latent_dim", expected, "none", hint)
    if width:
        checks.counts(latent_dim=latent_dim)
        if width % latent_dim:
            checks.fail("latent_dim", f"a divisor of the {width} numbers of a row of `{prefix}.embedding`", latent_dim)
    vectors = width // latent_dim if width else 0
    if target == "steps":
        return LatentSpec("steps", 0, codes, 0, vectors, latent_dim if width else 0, prefix=prefix)
    own = vectors == codes > 0
    dim = latent_dim if own else 0
    return LatentSpec("chunk", codes, min(codes, 1), 0, int(own), dim, per_step=per_step, prefix=prefix)


def _codebook_size(spec: LatentSpec, given: int) -> int:
    written = spec.codebook_size
    if spec.codes == 0 or (written and given in (0, written)):
        return written
    if written:
        checks.fail("codebook_size", f"{written} as {PROVENANCE} says of `{spec.prefix}`", given)
    if not given:
        hint = "Give codebook_size, as in the model's config.json."
        expected = f"the number of codes K of `{spec.prefix}.codes`, which {PROVENANCE} lacks"
        checks.fail("codebook_size", expected, "none", hint)
    checks.counts(codebook_size=given)
    return given


def _stride(spec: LatentSpec, stride: int | None) -> int:
    if stride is not None and spec.stride not in (0, stride):
        other = f"annotate with a model of stride {stride}: {_annotate(spec.prefix, 'steps')}"
        expected = f"{spec.stride} frames, the stride of the labels `{spec.prefix}`"
        checks.fail("stride", expected, stride, f"Give stride={spec.stride}, or {other}")
    return spec.stride or stride or 0


def _check_chunk(name: str, spec: LatentSpec, needs: Sequence[str]) -> LatentSpec:
    """The spec, where a policy can learn from the tokens of a chunk as placeholders that are predicted in one pass."""
    if spec.codes == 0:
        checks.fail(name, "labels with codes: the tokens of a chunk", "vectors alone", _annotate(name, "chunk"))
    if spec.steps == 0:
        hint = "Use action-vq, residual-vq, fsq or uniform-bins."
        got = "tokens of a family with different numbers of them (FAST)"
        checks.fail(name, "as many tokens in every chunk: placeholders are predicted in one pass", got, hint)
    if "embedding" in needs and not spec.vectors:
        hint = "Of the families of tokenizers, action-vq has them."
        checks.fail(name, f"a latent vector for each of {spec.steps} tokens", "vectors of whole chunks", hint)
    return spec
