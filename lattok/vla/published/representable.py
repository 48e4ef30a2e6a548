"""Which parts of a published policy `LatentVLA` can represent, and why not the others: for the converter's report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from lattok.vla.published.released import ReleasedVLAConfig


class PolicyPart(NamedTuple):
    """One part of a published policy."""

    part: str
    representable: bool
    reason: str
    instead: str = ""  # what lattok has


def representable(config: ReleasedVLAConfig, lora: bool, backbone: bool) -> list[dict[str, Any]]:
    """Rows of the report for what a file holds."""
    parts = [*_language_model(lora, backbone), *_head(config), *_latent(config), *_training()]
    return [{name: value for name, value in part._asdict().items() if value != ""} for part in parts]


def _language_model(lora: bool, backbone: bool) -> Iterator[PolicyPart]:
    if lora:
        yield PolicyPart(
            "LoRA adapter",
            True,
            "written for peft; backbone, lora_rank, lora_alpha and lora_vision say the same in LatentVLA. It was "
            "trained for the placeholders and the head below, so it is a start for training, not a policy",
        )
    if backbone:
        yield PolicyPart("language model", True, "with --backbone-out, adapter merged, named as transformers names it")
    yield PolicyPart(
        "placeholders",
        False,
        "one token of the vocabulary repeated, all with its one frozen embedding, before the end of the user's turn",
        "a learned embedding for each placeholder, outside the vocabulary, after the prompt",
    )
    yield PolicyPart(
        "prompt",
        True,
        "it asks for 5 H actions and has 5 H placeholders, for every strategy; `prompt` can say so",
        "as many placeholders as Table 7 says; ph_cond has 5 H",
    )


def _head(config: ReleasedVLAConfig) -> Iterator[PolicyPart]:
    yield PolicyPart(
        "image tokens of the head",
        False,
        f"the first {config.image_tokens} tokens of the sequence; a shorter one counts as image throughout, text, "
        "padding and placeholders included, and no placeholder reaches the action branch",
        "image tokens found by a mask, placeholders by their span, padding masked",
    )
    if config.variant == "base":
        yield PolicyPart(
            "queries of the head",
            False,
            "all zero and without positions: in use it gives one action for all steps of a chunk",
            "a learned query for each step",
        )
    else:
        yield PolicyPart(
            "queries of the head",
            False,
            "all zero; steps differ only by position factors that mix two conventions and are no rotation",
            "a learned query for each step",
        )
    yield PolicyPart(
        "blocks of the head",
        False,
        "one softmax over all sources with gated scores of the image, no residual around the last linear layer",
        "separate, gated attention to the image, residuals throughout",
    )
    yield PolicyPart(
        "layers of the head",
        False,
        f"the last {config.blocks} hidden states (of the published {config.blocks + 1} the first is not read)",
        "⌈N/2⌉..N as in the paper; head_layers may name these",
    )
    if config.proprio_dim:
        yield PolicyPart(
            "proprio projector",
            False,
            "the same two layers, but as wide as the language model and trained for this head",
            "two layers as wide as head_dim, over normalised proprio",
        )
    yield PolicyPart(
        "normalisation",
        False,
        "the file holds no statistics: actions and proprio are in the normalised units of its training",
        "normalisers in the model, physical units outside",
    )


def _latent(config: ReleasedVLAConfig) -> Iterator[PolicyPart]:
    if config.pooling:
        yield PolicyPart(
            "pooling of LA-Direct",
            False,
            "softmax over time instead of over the codes of a step: P vectors, none of them a step's. LA-Cond builds "
            "it and does not use it",
            "mean over the codes of each step",
        )
    if config.latent_dim:
        yield PolicyPart(
            "projector of LA-Align",
            False,
            f"norm, two layers ({config.align_hidden} wide) and one that never runs; trained on means of code vectors",
            'a norm and a linear projection, or two layers with align_projection="mlp", to latents before quantization',
        )
    yield PolicyPart(
        "code logits of LA-Direct, LA-Cond and LA-Tok",
        False,
        "rows of the frozen LM head over the whole vocabulary, so the file has no head of codes; trained one place "
        "late: each state predicts the code of the next placeholder",
        "a linear head of K logits, each placeholder predicts its own code",
    )


def _training() -> Iterator[PolicyPart]:
    yield PolicyPart("action loss", True, "L1", 'action_loss="l1"; the default is L2, as Eq. 4')
