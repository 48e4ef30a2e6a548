"""Blocks of decoded images, camera after camera, as the one array that `RobotDataset.frames` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import FrameTransform

Blocks = Callable[[str, np.ndarray], Iterator[np.ndarray]]  # camera key, ascending indices [n] -> uint8 [k, H, W, 3]


def stack_frames(
    cameras: Sequence[str],
    length: int,
    indices: Sequence[int] | np.ndarray | None,
    transform: FrameTransform | None,
    blocks: Blocks,
) -> np.ndarray:
    """Frames uint8 [n, V, h, w, 3] in the order of `indices` (all `length` by default), each decoded once.

    `blocks` yields the frames of one camera in order, in blocks of one size, which `transform` may change.
    """
    wanted = np.arange(length) if indices is None else np.asarray(indices, dtype=np.int64)
    if wanted.ndim != 1 or len(wanted) == 0 or wanted.min() < 0 or wanted.max() >= length:
        checks.fail("indices", f"frame indices from 0 to {length - 1}", f"{wanted.tolist()[:5]}")
    ascending, back = np.unique(wanted, return_inverse=True)
    store: np.ndarray | None = None
    for v, key in enumerate(cameras):
        done = 0
        for block in blocks(key, ascending):
            block = block if transform is None else transform(block)
            if block.dtype != np.uint8 or block.shape[-1] != 3:
                got = f"{block.dtype} {list(block.shape)}"
                checks.fail("transform", "blocks of RGB pixels, uint8 [n, h, w, 3]", got, "Pixels are 0 to 255.")
            if store is None:
                store = np.empty((len(ascending), len(cameras), *block.shape[1:]), dtype=np.uint8)
            if block.shape[1:] != store.shape[2:]:
                raise LattokError(_size_message(cameras[0], key, store, block))
            store[done : done + len(block), v] = block
            done += len(block)
    assert store is not None
    return store if np.array_equal(wanted, ascending) else store[back.reshape(-1)]


def _size_message(first: str, key: str, store: np.ndarray, block: np.ndarray) -> str:
    expected = "x".join(map(str, store.shape[2:]))
    got = "x".join(map(str, block.shape[1:]))
    return (
        f"`cameras`: expected frames of one size, got {expected} from {first} and {got} from {key}. "
        "Choose one camera, or give a `transform` that resizes, such as a model's `resize`."
    )
