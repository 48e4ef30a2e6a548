"""The labels in a dataset's columns, checked against what a policy needs: of what, how many, for when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    needs: Sequence[str] = (),
) -> LatentSpec:
    """Return what the label columns under `prefix` hold, as annotation wrote it, for chunks of `horizon` steps.

    `stride` (frames), where given, must be theirs. `needs`: of "codes" and "embedding", those that must be there.
    Everything that does not fit raises `LattokError` with the way out.
    """
    checks.one_of("target", target, MODELS)
    checks.counts(horizon=horizon)
    _check_columns(dataset, prefix, target, needs)
    spec = written_spec(dataset, prefix)
    if spec.target != target:
        way_out = f"Choose a strategy that learns from labels of {MODELS[spec.target]}, or another prefix"
        hint = f"{way_out}: {_annotate(prefix, target)}"
        checks.fail(prefix, f"labels of {MODELS[target]}", f"labels of {MODELS[spec.target]}", hint)
    for part, width in spec.widths().items():
        found = math.prod(dataset.features[spec.column(part)].shape) if spec.column(part) in dataset.features else 0
        hint = f"The columns and {PROVENANCE} are not of one annotation: annotate again."
        checks.size(spec.column(part), f"numbers a row, as {PROVENANCE} says", found, width, hint)
    if target == "steps":
        if stride not in (None, spec.stride):
            other = f"annotate with a model of stride {stride}: {_annotate(prefix, 'steps')}"
            expected = f"{spec.stride} frames, the stride of the labels `{prefix}`"
            checks.fail("stride", expected, stride, f"Give stride={spec.stride}, or {other}")
        return replace(spec, steps=horizon)
    if stride is not None:
        raise LattokError(f"`stride` {stride} was given, but labels of an action tokenizer have none.")
    if spec.horizon != horizon:
        other = f"annotate with a tokenizer of horizon {horizon}: {_annotate(prefix, 'chunk')}"
        hint = f"Give horizon={spec.horizon}, or {other}"
        checks.fail("horizon", f"{spec.horizon} steps, as the labels `{prefix}` were made of", horizon, hint)
    return _check_chunk(prefix, spec, needs)


def tokenizer_spec(tokenizer: ActionTokenizer, horizon: int, needs: Sequence[str] = ()) -> LatentSpec:
    """Return the same for an action tokenizer that labels batches as they are drawn, in place of columns."""
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
    entries = {prefix: entry for prefix, entry in provenance_of(dataset).items() if isinstance(entry, Mapping)}
    return {prefix: entry["spec"]["target"] for prefix, entry in entries.items() if "spec" in entry}


def only_prefix(dataset: RobotDataset, target: str, strategy: str) -> str:
    """Return the one prefix whose labels fit; where there is none, the error about the usual one says what to do."""
    found = [prefix for prefix, kind in targets_of(dataset).items() if kind == target]
    if len(found) > 1:
        expected = f"one of {', '.join(found)}, all of them labels that {strategy} can learn from"
        checks.fail("prefix", expected, "none")
    return found[0] if found else "latent"


def _annotate(prefix: str, target: str) -> str:
    """Return the command that makes the columns."""
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
