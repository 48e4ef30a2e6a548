"""What the sources share: columns that say where a row is, frames as one array, episodes that are not there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NoReturn, cast

import numpy as np

from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import INDEX_KEYS, Feature, FrameTransform, RobotDataset, camera_keys

Blocks = Callable[[str, np.ndarray], Iterator[np.ndarray]]  # camera key, ascending indices [n] -> uint8 [k, H, W, 3]

LEROBOT_INDEX = {key: Feature("float32" if key == "timestamp" else "int64", (1,), None) for key in INDEX_KEYS}
INDEX_FEATURES = {key: feature for key, feature in LEROBOT_INDEX.items() if key != "index"}  # of all other formats


def index_column(key: str, length: int, episode_index: int, task_index: int, fps: float) -> np.ndarray:
    """Column [T] of an episode, as LeRobot writes it; `key` is one of `INDEX_FEATURES`."""
    frame = np.arange(length, dtype=np.int64)
    if key == "timestamp":
        return (frame / fps).astype(np.float32)  # seconds from the episode's start
    return frame if key == "frame_index" else np.full_like(frame, {"episode_index": episode_index}.get(key, task_index))


def describe(dataset: RobotDataset) -> str:
    """What `repr` says of a source."""
    frames, count = sum(episode.length for episode in dataset.episodes), len(dataset.episodes)
    return f"{type(dataset).__name__}({dataset.name!r}, {count} episodes, {frames} frames, {dataset.fps:g} fps)"


def readable(text: str) -> str:
    """Text that can be printed and stored: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def no_episode(dataset: RobotDataset, episode_index: int) -> NoReturn:
    """The error about an episode that is not among `episodes`: why it is damaged, or which there are."""
    reason = dict(dataset.damaged).get(episode_index)
    if reason is not None:
        raise LattokError(f"episode {episode_index}: {reason}")
    last = len(dataset.episodes) + len(dataset.damaged) - 1
    checks.fail("episode_index", f"an episode of `{dataset.name}` (0 to {last})", repr(episode_index))


class FramesInBlocks(ABC):
    """`frames` of a source that reads one camera of one episode in blocks."""

    def frames(
        self,
        episode_index: int,
        cameras: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform: FrameTransform | None = None,
    ) -> np.ndarray:
        """Images of one episode, uint8 [T, V, H, W, 3]; `transform` acts on blocks [n, H, W, 3] as they are decoded.

        `indices` are frame indices in the episode, in any order; all frames by default. Other images are not read.
        """
        keys = camera_keys(cast(RobotDataset, self), cameras)
        length = self._length(episode_index)
        return stack_frames(keys, length, indices, transform, partial(self._blocks_of_frames, episode_index))

    @abstractmethod
    def _length(self, episode_index: int) -> int:
        """Frames of an episode; an error for one that is not there."""

    @abstractmethod
    def _blocks_of_frames(self, episode_index: int, key: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Frames of one camera at ascending `indices`, in blocks uint8 [k, H, W, 3]."""


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
    wanted = np.arange(length) if indices is None else _whole(indices, length)
    ascending, back = np.unique(wanted, return_inverse=True)
    store: np.ndarray | None = None
    for v, key in enumerate(cameras):
        done = 0
        for block in blocks(key, ascending):
            given = len(block)
            block = block if transform is None else transform(block)
            if block.dtype != np.uint8 or block.shape[-1] != 3:
                got = f"{block.dtype} {list(block.shape)}"
                checks.fail("transform", "blocks of RGB pixels, uint8 [n, h, w, 3]", got, "Pixels are 0 to 255.")
            checks.size("transform", "frames out of the block that it was given", len(block), given)
            if store is None:
                store = np.empty((len(ascending), len(cameras), *block.shape[1:]), dtype=np.uint8)
            if block.shape[1:] != store.shape[2:]:
                raise LattokError(_size_message(cameras[0], key, store, block))
            store[done : done + len(block), v] = block
            done += len(block)
        checks.size(f"frames` of `{key}", "frames", done, len(ascending))
    assert store is not None
    return store if np.array_equal(wanted, ascending) else store[back.reshape(-1)]


def _whole(indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Frame indices [n] as they were given; a mask or fractions are none."""
    wanted = np.asarray(indices)
    right = wanted.dtype.kind in "iu" and wanted.ndim == 1 and len(wanted) > 0
    if not right or wanted.min() < 0 or wanted.max() >= length:
        got = f"{wanted.dtype} {wanted.reshape(-1)[:5].tolist()}"
        checks.fail("indices", f"frame indices from 0 to {length - 1}", got)
    return wanted.astype(np.int64)


def _size_message(first: str, key: str, store: np.ndarray, block: np.ndarray) -> str:
    expected = "x".join(map(str, store.shape[2:]))
    got = "x".join(map(str, block.shape[1:]))
    return (
        f"`cameras`: expected frames of one size, got {expected} from {first} and {got} from {key}. "
        "Choose one camera, or give a `transform` that resizes, such as a model's `resize`."
    )
