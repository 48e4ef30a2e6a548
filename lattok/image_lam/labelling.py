"""Labels of a video, frame by frame: each frame is computed once, and a window of `stride` frames is all that is held.

Frames are taken in blocks that begin at frame 0 of the episode and end with it, so that a label depends on neither the
pieces the video came in nor the episodes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.image_lam.pairs import pair_encoder
from lattok.image_lam.vit import PlainViT
from lattok.types import LatentActions, join

if TYPE_CHECKING:
    from lattok.image_lam.model import ImageLAM

MOST = 32  # frames, and pairs, at a time
IN_CACHE = 2**20  # numbers per layer that CPUs are given at a time; larger blocks are a tenth slower

Video = np.ndarray | Iterable[np.ndarray]


class Engine(Protocol):
    """Computes labels in two steps, of which the first is shared by the pairs that a frame belongs to."""

    def frames(self, frames: Tensor) -> Tensor:
        """Frames uint8 [n, V, H, W, 3] to what their pairs need, [n, ...]."""
        ...

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Outputs of `frames` for both frames of n pairs to query tokens [n, queries, width], float32."""
        ...


class TorchEngine:
    """Bound to the weights as they are now, on the model's device. In bfloat16, matrices are rounded and no more."""

    @torch.no_grad()
    def __init__(self, lam: ImageLAM, dtype: torch.dtype = torch.float32):
        self._lam, self._dtype = lam, dtype
        rounded = dtype != torch.float32 and lam.features.network is not None
        self._vit = PlainViT(lam.features, dtype) if rounded and PlainViT.understands(lam.features) else None
        self._encoder = pair_encoder(lam.encoder, dtype)

    def frames(self, frames: Tensor) -> Tensor:
        """See `Engine`."""
        return self._encoder.frames(self._features(frames))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """See `Engine`."""
        return self._encoder.pairs(now, later)

    def _features(self, frames: Tensor) -> Tensor:
        lam = self._lam
        if self._vit is not None:
            small = lam.features.resize(frames).to(lam.features.mean.device)
            return self._vit(small.flatten(0, 1)).unflatten(0, small.shape[:2]).flatten(1, 2)
        with torch.autocast(lam.features.mean.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return lam.frame_features(frames).float()


@torch.no_grad()
def label_video(lam: ImageLAM, engine: Engine, video: Video, stride: int) -> LatentActions:
    """Video uint8 [T, V, H, W, 3], whole or in pieces, to T latent actions of the pairs (t, min(t + stride, T - 1))."""
    checks.counts(stride=stride)
    check_reads_video_alone(lam)
    size = block_size(lam)
    with lam._inference():
        pairs = _pairs(engine, _blocks(lam, video, size), stride, size)
        parts = [quantized(lam, engine.pairs(now, later)) for now, later in pairs]
    if not parts:
        checks.fail("frames", "at least one frame", "none")
    return join(parts)


def check_reads_video_alone(lam: ImageLAM) -> None:
    """A model of stage 1 also reads instructions, which engines do not know."""
    if lam.config.language is not None:
        hint = "Label with a stage-2 model trained with its codebook."
        checks.fail("model", "one that labels video", "a stage-1 model, which also reads instructions", hint)


def block_size(lam: ImageLAM) -> int:
    """Frames at a time, and pairs; a matter of the model and the kind of its device, never of the video."""
    config, features = lam.config, lam.features
    if features.mean.device.type != "cpu":
        return MOST
    tokens = len(config.cameras) * features.count + config.tokens * (1 if lam.env is None else 2)
    return max(1, min(MOST, IN_CACHE // (tokens * config.width)))


def quantized(lam: ImageLAM, tokens: Tensor) -> LatentActions:
    """Query tokens [B, queries, width] to latent actions."""
    control, env, count = lam.control, lam.env, lam.config.tokens
    other = None if env is None else env.public(env(tokens[:, count:], update=False))
    return control.public(control(tokens[:, :count], update=False), other)


def _pairs(engine: Engine, blocks: Iterable[Tensor], stride: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What the frames of all pairs need, `size` pairs at a time, as soon as their later frames are there."""
    held: dict[int, Tensor] = {}
    count = labelled = 0

    def take(end: int, last: int) -> tuple[Tensor, Tensor]:
        later = torch.stack([held[min(t + stride, last)] for t in range(labelled, end)])
        return torch.stack([held.pop(t) if t < last else held[t] for t in range(labelled, end)]), later

    for block in blocks:
        held.update(enumerate(engine.frames(block), count))
        count += len(block)
        while count >= labelled + size + stride:
            yield take(labelled + size, count)
            labelled += size
    while labelled < count:
        end = min(labelled + size, count)
        yield take(end, count - 1)
        labelled = end


def _blocks(lam: ImageLAM, video: Video, size: int) -> Iterator[Tensor]:
    """`size` frames at a time, in the end fewer."""
    waiting: list[np.ndarray] = []
    for piece in [video] if isinstance(video, np.ndarray) else video:
        checks.rank("frames", piece, "T V H W 3")
        checks.size("frames", f"cameras ({', '.join(lam.cameras)})", piece.shape[1], len(lam.cameras))
        while len(piece):
            missing = size - sum(map(len, waiting))
            waiting.append(piece[:missing])
            piece = piece[missing:]
            if sum(map(len, waiting)) == size:
                yield _together(waiting)
                waiting = []
    if waiting:
        yield _together(waiting)


def _together(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces))  # a copy: what was decoded may be read-only
