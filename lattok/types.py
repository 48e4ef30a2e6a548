"""Values that cross package borders. Letters: B batch, H steps of an action chunk, m action dimensions,
P codes per sample, d latent width, T frames of a video, V cameras."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

LossTerms = dict[str, Tensor]  # named 0-d tensors; the training loop weights and sums them


class Episode(NamedTuple):
    """One recorded episode."""

    index: int  # episode_index in the dataset
    length: int  # frames
    tasks: tuple[str, ...]  # language instructions, usually one


class ActionBatch(NamedTuple):
    """Action chunks in physical units; steps beyond the episode repeat its last action and are not valid."""

    chunks: Tensor  # [B, H, m] float32
    valid: Tensor  # [B, H] bool


class PairBatch(NamedTuple):
    """Frame pairs (t, t + stride) with the actions between them."""

    frames: Tensor  # [B, 2, V, H, W, 3] uint8
    actions: Tensor  # [B, m] float32, mean over the gap, physical units
    labelled: Tensor  # [B] bool: whether the action may be used as supervision


class Quantized(NamedTuple):
    """What a quantizer returns."""

    vectors: Tensor  # [..., d] straight-through: values of the codebook, gradient of the input
    codes: Tensor  # [...] int64 (residual: [..., levels])
    losses: LossTerms


class LatentActions(NamedTuple):
    """Latent actions of one stream; `env` holds the environment stream where there is one.

    Residual quantizers have P levels for one latent: `latents` and `quantized` are then [B, 1, d].
    """

    codes: Tensor  # [B, P] int64
    latents: Tensor  # [B, P, d] before quantization
    quantized: Tensor  # [B, P, d]
    env: LatentActions | None = None


class ActionTokenizer(Protocol):
    """What every action tokenizer offers, whatever its family. Physical units outside."""

    horizon: int
    action_dim: int
    vocab_size: int
    tokens_per_chunk: int

    def encode(self, chunks: Tensor, valid: Tensor | None = None) -> Tensor:
        """Chunks [B, H, m] to codes int64 [B, P]."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, P] to chunks [B, H, m]. Total: every code sequence decodes."""
        ...

    def latent_actions(self, chunks: Tensor, valid: Tensor | None = None) -> LatentActions:
        """Chunks [B, H, m] to codes, latents and quantized vectors."""
        ...


class VideoLabeller(Protocol):
    """What annotation needs of an image latent action model."""

    def label_video(self, frames: np.ndarray, stride: int) -> LatentActions:
        """Video [T, V, H, W, 3] uint8 to T latent actions of the pairs (t, min(t + stride, T - 1))."""
        ...
