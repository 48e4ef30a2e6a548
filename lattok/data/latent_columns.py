"""What the latent actions in a dataset's columns are, as `lattok annotate` wrote them: how many, of what, for when.

steps    an image model labelled every frame t with the P codes of the pair (t, t + stride): S = H steps
chunk    an action tokenizer labelled frame t with the tokens of the chunk that starts there: S = P tokens
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from lattok import checks
from lattok.checks import LattokError
from lattok.data.provenance import PROVENANCE, read_provenance
from lattok.data.schema import RobotDataset
from lattok.data.sidecar import Sidecar
from lattok.types import ActionTokenizer

TARGETS = {"steps": "video", "chunk": "actions"}  # target of a policy: source of its labels
MODELS = {"video": "an image model", "actions": "an action tokenizer"}


@dataclass(frozen=True)
class LatentSpec:
    """Latent actions that supervise a policy. Codes or vectors that are not there have 0 of them."""

    target: str  # "steps" or "chunk"
    steps: int  # S
    codes: int  # P of each step; 0: the model is continuous
    codebook_size: int  # K; 0 without codes
    vectors: int  # E of each step; 0: not written, or not one for each token
    latent_dim: int  # d; 0 without vectors
    stride: int | None = None  # frames between the two images of a pair
    per_step: bool = False  # tokens of a chunk: each is that of a step

    def policy_fields(self, prefix: str) -> dict[str, Any]:
        """What a policy must know of them, as fields of its configuration."""
        fields = {"codes": self.codes or self.vectors or 1, "latent_steps": self.steps, "latent_prefix": prefix}
        fields |= {"codebook_size": self.codebook_size, "latent_dim": self.latent_dim, "latent_vectors": self.vectors}
        return fields | {"latent_per_step": self.per_step}


def latent_spec(
    dataset: RobotDataset,
    prefix: str,
    target: str,
    horizon: int,
    stride: int | None = None,
    *,
    codebook_size: int | None = None,
    latent_dim: int | None = None,
    needs: Sequence[str] = (),
) -> LatentSpec:
    """What the columns `prefix`.codes, .embedding and .valid hold, from their shapes and from meta/lattok.json.

    `stride` (frames), where given, must be theirs. `codebook_size` and `latent_dim` are for columns about which
    meta/lattok.json says nothing. `needs`: of "codes" and "embedding", those that must be there. Everything that does
    not fit raises `LattokError` with the way out.
    """
    checks.one_of("target", target, TARGETS)
    checks.counts(horizon=horizon)
    _check_columns(dataset, prefix, target, needs)
    entry = provenance_of(dataset).get(prefix)
    known = entry if isinstance(entry, Mapping) else {}
    _check_source(known, prefix, target)
    codes = _codes(dataset, prefix, known)
    vectors, width = _vectors(dataset, prefix, known, latent_dim)
    size = _codebook_size(prefix, known, codes, codebook_size)
    if target == "steps":
        return LatentSpec("steps", horizon, codes, size, vectors, width, _stride(known, prefix, stride))
    if stride is not None:
        raise LattokError(f"`stride` {stride} was given, but labels of an action tokenizer have none.")
    _check_horizon(prefix, known.get("horizon", horizon), horizon)
    if _model(known).get("type") == "fast":
        _refuse_variable_length(prefix)
    spec = _of_chunk(prefix, codes, size, vectors, width, needs)
    return replace(spec, per_step=spec.per_step or _model(known).get("type") == "action-vq")  # also without vectors


def tokenizer_spec(tokenizer: ActionTokenizer, horizon: int, needs: Sequence[str] = ()) -> LatentSpec:
    """The same for an action tokenizer that labels batches as they are drawn, in place of columns."""
    if getattr(tokenizer, "label_source", None) != "actions":
        checks.fail("labeller", "an action tokenizer", type(tokenizer).__name__, "Image models label with annotate.")
    if tokenizer.horizon != horizon:
        hint = f"Give horizon={tokenizer.horizon}, or train a tokenizer with horizon={horizon}."
        checks.fail("labeller", f"a tokenizer of chunks of {horizon} steps", f"one of {tokenizer.horizon}", hint)
    if not getattr(tokenizer, "fixed_length", True):
        _refuse_variable_length("labeller")
    latents = tokenizer.latent_actions(torch.zeros(1, horizon, tokenizer.action_dim))
    vectors, width = latents.latents.shape[1:]
    return _of_chunk("labeller", tokenizer.tokens_per_chunk, tokenizer.vocab_size, vectors, width, needs)


def provenance_of(dataset: RobotDataset) -> dict[str, Any]:
    """What a dataset says about its labels, by prefix; empty where it says nothing."""
    if isinstance(dataset.labels, Sidecar):
        return dataset.labels.provenance
    return read_provenance(dataset)


def only_prefix(dataset: RobotDataset, target: str, strategy: str) -> str:
    """The one prefix whose labels fit; where there is none, the error about the usual one says what to do."""
    entries = provenance_of(dataset).items()
    found = [name for name, entry in entries if isinstance(entry, Mapping) and entry.get("source") == TARGETS[target]]
    if len(found) > 1:
        expected = f"one of {', '.join(found)}, all of them labels that {strategy} can learn from"
        checks.fail("prefix", expected, "none")
    return found[0] if found else "latent"


def _annotate(prefix: str, target: str) -> str:
    """The command that makes the columns."""
    return f"lattok annotate DATASET --model {'LAM' if target == 'steps' else 'TOKENIZER'} --prefix {prefix} --out DIR"


def _check_columns(dataset: RobotDataset, prefix: str, target: str, needs: Sequence[str]) -> None:
    for name in needs:
        checks.one_of("needs", name, ("codes", "embedding"))
    have = [name for name in ("codes", "embedding") if f"{prefix}.{name}" in dataset.features]
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


def _check_source(known: Mapping[str, Any], prefix: str, target: str) -> None:
    source = known.get("source", TARGETS[target])
    if source == TARGETS[target]:
        return
    other = "an action tokenizer's (LA-Tok)" if source == "actions" else "an image model's (LA-Align, -Direct, -Cond)"
    hint = f"Choose a strategy for {other} labels, or another prefix: {_annotate(prefix, target)}"
    checks.fail(prefix, f"labels of {MODELS[TARGETS[target]]}", f"labels of {MODELS.get(source, source)}", hint)


def _width(dataset: RobotDataset, column: str) -> int:
    return math.prod(dataset.features[column].shape) if column in dataset.features else 0


def _declared(known: Mapping[str, Any], column: str) -> tuple[int, ...] | None:
    """The shape of one row of a column, as meta/lattok.json has it."""
    columns = known.get("columns")
    facts = columns.get(column) if isinstance(columns, Mapping) else None
    shape = facts.get("shape") if isinstance(facts, Mapping) else None
    whole = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
    return tuple(shape) if whole and isinstance(shape, list) else None


def _check_width(dataset: RobotDataset, column: str, shape: tuple[int, ...]) -> None:
    if math.prod(shape) != _width(dataset, column):
        expected = f"{math.prod(shape)} numbers a row, shape {list(shape)} as {PROVENANCE} says"
        hint = "The columns and meta/lattok.json are not of one annotation: annotate again."
        checks.fail(column, expected, _width(dataset, column), hint)


def _codes(dataset: RobotDataset, prefix: str, known: Mapping[str, Any]) -> int:
    column = f"{prefix}.codes"
    shape = _declared(known, column)
    if shape is not None:
        _check_width(dataset, column, shape)
    return _width(dataset, column)


def _vectors(dataset: RobotDataset, prefix: str, known: Mapping[str, Any], latent_dim: int | None) -> tuple[int, int]:
    """E and d of the vectors of a row."""
    column = f"{prefix}.embedding"
    if column not in dataset.features:
        return 0, 0
    shape, width = _declared(known, column), _width(dataset, column)
    if shape is not None:
        _check_width(dataset, column, shape)
        if len(shape) != 2 or latent_dim not in (None, shape[1]):
            checks.fail("latent_dim", f"{shape[-1]} as {PROVENANCE} says", latent_dim if len(shape) == 2 else shape)
        return shape[0], shape[1]
    if latent_dim is None:
        hint = "Give latent_dim, the numbers of one vector; or annotate with lattok, which writes it down."
        checks.fail("latent_dim", f"the width of the vectors in `{column}` ({width} numbers a row)", "none", hint)
    checks.counts(latent_dim=latent_dim)
    if width % latent_dim:
        checks.fail("latent_dim", f"a divisor of the {width} numbers of a row of `{column}`", latent_dim)
    return width // latent_dim, latent_dim


def _codebook_size(prefix: str, known: Mapping[str, Any], codes: int, given: int | None) -> int:
    if codes == 0:
        return 0
    written = known.get("codebook_size")
    if isinstance(written, int) and given in (None, written):
        return written
    if written is not None:
        checks.fail("codebook_size", f"{written} as {PROVENANCE} says of `{prefix}`", given)
    if given is None:
        hint = "Give codebook_size, as in the model's config.json; or annotate again, which writes it down."
        expected = f"the number of codes K of `{prefix}.codes`, which {PROVENANCE} lacks"
        checks.fail("codebook_size", expected, "none", hint)
    checks.counts(codebook_size=given)
    return given


def _stride(known: Mapping[str, Any], prefix: str, stride: int | None) -> int | None:
    written = known.get("stride", stride)
    if stride is not None and written != stride:
        hint = f"Give stride={written}, or annotate with a model of stride {stride}: {_annotate(prefix, 'steps')}"
        checks.fail("stride", f"{written} frames, the stride of the labels `{prefix}`", stride, hint)
    return written


def _check_horizon(prefix: str, labelled: int, horizon: int) -> None:
    if labelled != horizon:
        other = f"annotate with a tokenizer of horizon {horizon}: {_annotate(prefix, 'chunk')}"
        hint = f"Give horizon={labelled}, or {other}"
        checks.fail("horizon", f"{labelled} steps, as the labels `{prefix}` were made of", horizon, hint)


def _model(known: Mapping[str, Any]) -> Mapping[str, Any]:
    model = known.get("model")
    return model if isinstance(model, Mapping) else {}


def _of_chunk(prefix: str, codes: int, size: int, vectors: int, width: int, needs: Sequence[str]) -> LatentSpec:
    """One step for each token; vectors only where each token has its own, which is then that of a step."""
    if codes == 0:
        checks.fail(prefix, "labels with codes: the tokens of a chunk", "vectors alone", _annotate(prefix, "chunk"))
    own = vectors == codes
    if "embedding" in needs and not own:
        got = f"{vectors} for {codes} tokens"
        checks.fail(prefix, "a latent vector for each token", got, "Of the families of tokenizers, action-vq has them.")
    return LatentSpec("chunk", codes, 1, size, int(own), width if own else 0, per_step=own)


def _refuse_variable_length(name: str) -> NoReturn:
    hint = "Use action-vq, residual-vq, fsq or uniform-bins."
    got = "tokens of a family with different numbers of them (FAST)"
    checks.fail(name, "as many tokens in every chunk: placeholders are predicted in one pass", got, hint)
