"""All frames of some episodes as one array, in memory or, where they are too many, in a file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lattok import checks
from lattok.data.prefetch import Abandoned, Ahead, Request, Stopped
from lattok.data.schema import FrameTransform, Progress, RobotDataset
from lattok.types import Episode

IN_MEMORY = 4 * 2**30  # bytes of frames that stay in memory even where a file is offered
AHEAD = 2**28  # bytes of frames decoded before their turn
DECODERS = 8  # at once, or one for each core: nothing else is done meanwhile


def decode_all(
    dataset: RobotDataset,
    episodes: Sequence[Episode],
    cameras: Sequence[str],
    transform: FrameTransform | None,
    cache_dir: str | Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Every frame of the episodes, uint8 [F, V, h, w, 3], in memory or in an unnamed file in `cache_dir`.

    Several episodes are decoded at once.
    """

    def decode(index: int, stopped: Stopped) -> np.ndarray:
        def transformed(block: np.ndarray) -> np.ndarray:
            if stopped():
                raise Abandoned
            return block if transform is None else transform(block)

        return _checked(dataset.frames(index, cameras, transform=transformed), index)

    total, row = sum(e.length for e in episodes), 0
    frames = decode(episodes[0].index, lambda: False)
    store = _allocate((total, *frames.shape[1:]), cache_dir)
    jobs = (Request((e.index,), e.length * frames[0].nbytes) for e in episodes[1:])
    with Ahead(decode, jobs, AHEAD, threads=min(DECODERS, os.cpu_count() or 1)) as decoded:
        for number, episode in enumerate(episodes):
            if number:
                frames = decoded(episode.index)
            if frames.shape[1:] != store.shape[1:]:
                hint = "Give a `transform` that resizes, such as a model's `resize`, or choose `episodes` of one size."
                got = f"{frames.shape[1:]} in episode {episode.index}"
                checks.fail("frames", f"shape {store.shape[1:]}", got, hint)
            store[row : row + len(frames)] = frames
            row += len(frames)
            if progress is not None:
                progress(row, total)
    return store


def _checked(frames: np.ndarray, index: int) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.shape[-1] != 3:
        hint = "Floats become pixels by lattok.data.frames_from_lerobot; grey and RGBA ones are made RGB first."
        got = f"{frames.dtype} {list(frames.shape)} in episode {index}"
        checks.fail("frames", "uint8 pixels [T, V, H, W, 3]", got, hint)
    return frames


def _allocate(shape: tuple[int, ...], cache_dir: str | Path | None) -> np.ndarray:
    size = math.prod(shape)
    if cache_dir is None or size <= IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    Path(cache_dir).mkdir(parents=True, exist_ok=True)
    # the file has no name: it is gone with the array, however the process ends
    with tempfile.TemporaryFile(dir=cache_dir) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash at the first page
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
