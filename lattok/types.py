"""Values that cross package borders. Letters: B batch, H steps of an action chunk, m action dimensions,
P codes per sample, d latent width, T frames of a video, V cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
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
    valid: Tensor  # [B, H] bool, or [B, H, m] where datasets have different dimensions


class PairBatch(NamedTuple):
    """Frame pairs (t, t + stride) with the actions between them; with further strides also their later frames."""

    frames: Tensor  # [B, 2 + further, V, H, W, 3] uint8; [B, 2 + further, 0] where features do
    actions: Tensor  # [B, m] float32, mean over the gap, or [B, steps, m]; physical units
    labelled: Tensor  # [B] bool: whether the action may be used as supervision
    text: Tensor | None = None  # [B, S, D] vectors of the instruction's words, for language-conditioned models
    text_mask: Tensor | None = None  # [B, S] bool: which of them are words
    features: Tensor | None = None  # [B, 2 + further, V*N, D] float, where the frozen features are known already


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


def join(parts: Sequence[LatentActions]) -> LatentActions:
    """Latent actions of several batches, one after the other."""
    env = [part.env for part in parts if part.env is not None]
    return LatentActions(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.quantized for part in parts]),
        join(env) if env else None,
    )


class Labeller(Protocol):
    """What annotation and evaluation need of every model."""

    @property
    def label_source(self) -> str:
        """What is labelled: "actions" (an `ActionTokenizer`) or "video" (a `VideoLabeller`)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity for provenance: type, hashes of config and weights, id, revision; JSON values only."""
        ...


class ActionTokenizer(Labeller, Protocol):
    """What every action tokenizer offers, whatever its family. Physical units outside.

    As a labeller: frame t gets the latent action of the chunk that starts at t.
    """

    @property
    def horizon(self) -> int:
        """Steps per chunk, H."""
        ...

    @property
    def action_dim(self) -> int:
        """Action dimensions m."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of codes K."""
        ...

    @property
    def tokens_per_chunk(self) -> int:
        """Codes per chunk, or their maximum."""
        ...

    @property
    def fixed_length(self) -> bool:
        """Whether every chunk has as many codes."""
        ...

    @property
    def per_step(self) -> bool:
        """Whether code t of a chunk is that of its step t."""
        ...

    def encode(self, chunks: Tensor, valid: Tensor | None = None) -> Tensor:
        """Chunks [B, H, m] to codes int64 [B, P]."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, P] to chunks [B, H, m]. Total: every code sequence decodes."""
        ...

    def latent_actions(self, chunks: Tensor, valid: Tensor | None = None) -> LatentActions:
        """Chunks [B, H, m] to codes, latents and quantized vectors."""
        ...


class VideoLabeller(Labeller, Protocol):
    """An image latent action model that can label: frame t gets the latent action of the pair (t, t + stride)."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in the order of the V axis."""
        ...

    def stride_frames(self, fps: float) -> int:
        """The model's stride in frames of a dataset."""
        ...

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] to the model's size, uint8 [n, h, w, 3]."""
        ...

    def label_video(self, frames: np.ndarray | Iterable[np.ndarray], stride: int) -> LatentActions:
        """Video [T, V, H, W, 3] uint8 to T latent actions of the pairs (t, min(t + stride, T - 1)).

        The video may come in pieces, in order; labels do not depend on where they begin.
        """
        ...


class LatentTarget(NamedTuple):
    """Latent actions that supervise a policy: S steps of P codes each.

    Image models: one latent action for each step of the chunk, S = H. Action tokenizers: the tokens of the chunk that
    starts here, S of them with P = 1.
    """

    codes: Tensor | None  # [B, S, P] int64
    embedding: Tensor | None  # [B, S, E, d] float32, before quantization
    valid: Tensor  # [B, S] bool: supervise here

    def nearest(self, steps: int) -> LatentTarget:
        """The target stretched over `steps`: each gets the latent action of the step nearest in time."""
        have = self.valid.shape[1]
        index = ((torch.arange(steps, device=self.valid.device) + 0.5) * have / steps).long()
        return self._each(lambda part: part[:, index])

    def to(self, device: torch.device) -> LatentTarget:
        """The target on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> LatentTarget:
        codes, embedding = (None if part is None else change(part) for part in (self.codes, self.embedding))
        return LatentTarget(codes, embedding, change(self.valid))


class PolicyBatch(NamedTuple):
    """Observations with the actions that followed, and the latent actions that supervise. Physical units."""

    images: Tensor  # [B, V, h, w, 3] uint8
    texts: Sequence[str]  # B instructions
    proprio: Tensor | None  # [B, s] float32
    actions: Tensor  # [B, H, m] float32; steps beyond the episode repeat its last action
    valid: Tensor  # [B, H] bool: steps inside the episode
    latent: LatentTarget | None = None
    labelled: Tensor | None = None  # 0-d: samples with labels in an average share, where a batch is shared out
