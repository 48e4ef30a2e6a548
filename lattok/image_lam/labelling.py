"""Labels of a video, frame by frame: each frame is computed once, and a window of `stride` frames is all that is held.

Frames are taken in blocks that begin at frame 0 of the episode and end with it, so that a label depends on neither the
pieces the video came in nor other episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.image_lam.fast_encoders import PairEncoder

MOST = 32  # frames, and pairs, at a time
IN_CACHE = 2**20  # numbers per layer that CPUs are given at a time; larger blocks are a tenth slower

Video = np.ndarray | Tensor | Iterable[np.ndarray | Tensor]


class VideoEncoder(Protocol):
    """Computes query tokens in two steps, of which the first is shared by the pairs that a frame belongs to."""

    def frames(self, frames: Tensor) -> Tensor:
        """Frames uint8 [n, V, H, W, 3] to what their pairs need, [n, ...]."""
        ...

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Outputs of `frames` for both frames of n pairs to query tokens [n, queries, width], float32."""
        ...


class TorchVideoEncoder:
    """Frozen features, frames [n, V, H, W, 3] to [n, V * N, D], and an encoder of pairs over them."""

    def __init__(self, features: Callable[[Tensor], Tensor], encoder: PairEncoder):
        self._features, self._encoder = features, encoder

    def frames(self, frames: Tensor) -> Tensor:
        """What the pairs of these frames need."""
        return self._encoder.frames(self._features(frames))

    def pairs(self, now: Tensor, later: Tensor) -> Tensor:
        """Query tokens of pairs."""
        return self._encoder.pairs(now, later)


def block_size(numbers: int, device: torch.device) -> int:
    """Frames at a time, and pairs, where a layer holds so many `numbers` per frame.

    It depends on the model and the kind of its device, never on the video.
    """
    return MOST if device.type != "cpu" else max(1, min(MOST, IN_CACHE // numbers))


def query_tokens(
    encoder: VideoEncoder, video: Video, cameras: Sequence[str], stride: int, size: int
) -> Iterator[Tensor]:
    """Query tokens [n, queries, width] of the pairs (t, min(t + stride, T - 1)) of a video, n of them up to `size`."""
    held: dict[int, Tensor] = {}
    count = labelled = 0

    def take(end: int, last: int) -> Tensor:
        later = torch.stack([held[min(t + stride, last)] for t in range(labelled, end)])
        now = torch.stack([held.pop(t) if t < last else held[t] for t in range(labelled, end)])
        return encoder.pairs(now, later)

    for block in _blocks(video, cameras, size):
        held.update(enumerate(encoder.frames(block), count))
        count += len(block)
        while count >= labelled + size + stride:
            yield take(labelled + size, count)
            labelled += size
    while labelled < count:
        end = min(labelled + size, count)
        yield take(end, count - 1)
        labelled = end


def _blocks(video: Video, cameras: Sequence[str], size: int) -> Iterator[Tensor]:
    """Frames [n, V, H, W, 3], `size` at a time, in the end fewer."""
    waiting: list[np.ndarray] = []
    for frames in [video] if isinstance(video, np.ndarray | Tensor) else video:
        piece = frames.numpy(force=True) if isinstance(frames, Tensor) else frames
        piece = piece[:, None] if piece.ndim == 4 and len(cameras) == 1 else piece
        checks.rank("frames", piece, "T V H W 3")
        checks.size("frames", f"cameras ({', '.join(cameras)})", piece.shape[1], len(cameras))
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
