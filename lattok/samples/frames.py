"""Frames of the episodes that are learned from: all at once, kept, or those of some rows, read when they are needed.

Rows count the frames of the chosen episodes, one episode after the other. Training processes of a machine can share all
frames: each decodes a part. The memory has no name, and ends with the last process, however that ends (Linux's memfd).
"""

import math
import os
import secrets
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from lattok.data.schema import FrameTransform, Progress, RobotDataset
from lattok.types import Episode, Shares
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import cores
from lattok.utils.parallel import Prefetcher, Request

IN_MEMORY = 4 * 2**30  # bytes of frames that stay in memory even where a file is offered
AHEAD = 2**28  # bytes of frames decoded before their turn
DECODERS = 8  # at once, or one for each core: nothing else is done meanwhile
CAN_SHARE = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")

Decoded = tuple[np.ndarray, np.ndarray, dict[int, LattokError]]  # values [n, ...], sound [n] bool, errors by episode


class Reader(ABC):
    """Reads what cameras saw in frames of `episodes`, or what was made of it."""

    what, kept = "Frames", "kept in memory"
    shape: Any  # of what a frame gives
    dtype: np.dtype[Any]

    def __init__(self, dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str]):
        self.dataset, self.episodes, self.cameras = dataset, episodes, cameras
        self._starts = np.cumsum([0, *(episode.length for episode in episodes)])
        self._numbers = np.array([episode.index for episode in episodes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return len(self) * self.frame_bytes

    @abstractmethod
    def rows(self, rows: np.ndarray) -> Decoded:
        """Read ascending `rows` [n]: values, which of them could be read, and an error of each episode that has others.
        What can be read does not depend on what else is."""

    def episode_of(self, rows: np.ndarray) -> np.ndarray:
        return self._numbers[np.searchsorted(self._starts, rows, side="right") - 1]

    def fetched_file_of(self, episodes: np.ndarray) -> np.ndarray | None:
        """Number the first camera's files of `episodes` [n] (indices) from 0; None where all are on this machine."""
        if self.dataset.files.commit is None:
            return None
        different, place = np.unique(episodes, return_inverse=True)
        files = []
        for index in different.tolist():
            span = self.dataset.video_span(index, self.cameras[0])
            files.append(str(span[0] if span else self.dataset.files_of(index)[0]))
        return np.unique(files, return_inverse=True)[1][place]


class FrameReader(Reader):
    """Reads frames, uint8 [n, V, h, w, 3]; `transform` brings blocks uint8 [n, H, W, 3] to one size."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        dataset: RobotDataset,
        episodes: Sequence[Episode],
        cameras: Sequence[str],
        transform: FrameTransform | None = None,
    ):
        super().__init__(dataset, episodes, cameras)
        self._transform = transform

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """V, h, w and 3 of a frame, as the first episode that can be read has them."""
        for episode in self.episodes:
            with suppress(LattokError):
                return self._read(episode.index, np.array([0])).shape[1:]
        return self._read(self.episodes[0].index, np.array([0])).shape[1:]  # which says why none can be read

    def rows(self, rows: np.ndarray) -> Decoded:
        frames, errors = np.empty((len(rows), *self.shape), dtype=np.uint8), dict[int, LattokError]()
        sound, owner = np.ones(len(rows), dtype=bool), np.searchsorted(self._starts, rows, side="right") - 1
        for place in np.unique(owner).tolist():
            index, left = self.episodes[place].index, [np.flatnonzero(owner == place)]
            while left:
                here = left.pop()
                try:
                    found = self._read(index, rows[here] - self._starts[place])
                    self._check_size(found, index)
                    if len(here) == len(rows):
                        return found, sound, errors
                    frames[here[0] : here[-1] + 1] = found
                except LattokError as error:
                    errors.setdefault(index, error)
                    sound[here] = len(here) > 1
                    left += np.array_split(here, 2) if len(here) > 1 else []
        return frames, sound, errors

    def all(
        self, cache_dir: str | Path | None = None, progress: Progress | None = None, shared: bool = False
    ) -> np.ndarray:
        """Read every frame, several episodes at once, into memory or an unnamed file in `cache_dir`. `shared`: all
        training processes ask at once; those of a machine decode a part each and have one array."""
        if shared:
            with shared_array((len(self), *self.shape)) as (store, index, count):
                self._fill(store, range(index, len(self.episodes), count), max(1, cores() // count), progress)
        else:
            store = _allocate((len(self), *self.shape), cache_dir)
            self._fill(store, range(len(self.episodes)), cores(), progress)
        return store

    def _fill(self, store: np.ndarray, numbers: range, threads: int, progress: Progress | None) -> None:
        chosen = [self.episodes[number] for number in numbers]
        total, done, size = sum(episode.length for episode in chosen), 0, math.prod(self.shape)
        jobs = (Request((episode.index,), episode.length * size) for episode in chosen)
        with Prefetcher(self._read, jobs, AHEAD, threads=min(DECODERS, threads)) as decoded:
            for number, episode in zip(numbers, chosen, strict=True):
                frames = decoded(episode.index)
                self._check_size(frames, episode.index)
                store[self._starts[number] : self._starts[number + 1]] = frames
                done += len(frames)
                if progress is not None:
                    progress(done, total)

    def _read(self, index: int, rows: np.ndarray | None = None) -> np.ndarray:
        return self.dataset.frames(index, self.cameras, rows, transform=self._transform)

    def _check_size(self, frames: np.ndarray, index: int) -> None:
        if frames.shape[1:] != self.shape:
            hint = "Give a `transform` that resizes, such as a model's `resize`, or choose `episodes` of one size."
            checks.fail("frames", f"shape {self.shape}", f"{frames.shape[1:]} in episode {index}", hint)


class SampleSet(Dataset[dict[str, Any]], ABC):
    """Samples by number, for torch's `DataLoader` too, its workers and its own collation: each is a dictionary. Its
    keys are the fields of what `batch` returns, but for those that are None: `PairBatch(**batch)` is one again."""

    episode_of: np.ndarray  # [N]
    frame_of: np.ndarray  # [N]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor | Sequence[int]) -> Any:
        """Return samples `indices` [B] as one batch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return samples, gathered at once: a `DataLoader` asks for those of a batch like this."""
        batch = self._gathered(torch.tensor(indices))
        return [_one_of(batch, row) for row in range(len(indices))]

    def _gathered(self, indices: Tensor) -> Any:
        return self.batch(indices)


def _one_of(batch: Any, row: int) -> dict[str, Any]:
    """Return one sample of a batch, without what it has not, and without what is said of the whole batch."""
    fields = {name: value for name, value in batch._asdict().items() if not isinstance(value, bool | Shares | None)}
    return {name: _one_of(value, row) if isinstance(value, tuple) else value[row] for name, value in fields.items()}


class Samples(SampleSet):
    """Samples with frames, `FramePairs` and `PolicyWindows`: decoded on demand, unless all `frames` were read."""

    cameras: tuple[str, ...]
    reader: Reader  # of their frames, or of what stands for them
    gaps: Sequence[int]  # how far from a sample's first frame each further one is
    _all_frames: Callable[[], np.ndarray]

    @cached_property
    def frames(self) -> np.ndarray:
        """Decode all frames, when they are first asked for."""
        return self._all_frames()

    @abstractmethod
    def frame_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows [n, k] of the k frames of samples [n]."""

    @abstractmethod
    def batch(self, indices: Tensor | Sequence[int], frames: Tensor | None = None) -> Any:
        """Return samples `indices` [B] as one batch; `frames` [B, k, V, h, w, 3] where they are known."""

    def decode(self, indices: Tensor) -> Tensor:
        """Decode the frames [B, k, V, h, w, 3] of samples `indices` [B], and no others."""
        rows = self.frame_rows(indices.numpy())
        different, place = np.unique(rows, return_inverse=True)
        frames, _, errors = self.reader.rows(different)
        for error in errors.values():
            raise error
        return torch.from_numpy(frames[place.reshape(rows.shape)])

    def _gathered(self, indices: Tensor) -> Any:
        known = "frames" in vars(self) or not self.cameras or getattr(self, "features", None) is not None
        return self.batch(indices, None if known else self.decode(indices))


class MixedSamples(ABC):
    """Samples of several datasets under one numbering, one dataset after the other."""

    def __init__(self, parts: Sequence[Any]):
        self.parts, self.sizes = list(parts), [len(part) for part in parts]
        self._starts = torch.tensor(list(accumulate(self.sizes, initial=0)))

    def __len__(self) -> int:
        return sum(self.sizes)

    def batch(self, indices: Tensor, frames: Tensor | None = None) -> Any:
        """Samples `indices` [B], in their order, as each dataset gives them; `frames` [B, ...] where they are known."""
        owner = torch.searchsorted(self._starts, indices.contiguous(), right=True) - 1
        order = owner.argsort(stable=True)
        parts = []
        for i in owner.unique().tolist():
            mine = owner == i
            given = () if frames is None else (frames[mine],)
            parts.append(self._batch(i, indices[mine] - self._starts[i], *given))
        return _joined(self._alike(parts), order.argsort())

    def _alike(self, parts: list[Any]) -> list[Any]:
        """Return the samples of each dataset so that they can be joined."""
        return parts

    @abstractmethod
    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> Any:
        """Return samples of one of `parts`, as all have them in common."""


def _joined(parts: Sequence[Any], place: Tensor) -> Any:
    """Join batches, or what they consist of, of several datasets, and put the samples in their places."""
    first = parts[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else torch.cat(list(parts))[place]
    if isinstance(first, bool):
        return all(parts)
    if isinstance(first, tuple):
        return type(first)(*(_joined(values, place) for values in zip(*parts, strict=True)))
    listed = [value for part in parts for value in part]
    return [listed[i] for i in place.tolist()]


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


def all_gather(mine: object) -> Sequence[Any]:
    """Return the objects that all processes give, by rank; one process has its own."""
    if not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


@contextmanager
def shared_array(shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield an array uint8 of `shape` for all training processes of this machine, of which each fills a part. With it
    come the number of this process and how many there are. At the end they wait for each other. Where memory cannot be
    shared each process has an array of its own. A `LattokError` in one process is one in all."""
    host, own = socket.gethostname(), os.getpid()
    file, name = -1, f"lattok-{secrets.token_hex(8)}"
    if CAN_SHARE and dist.is_initialized():
        file = os.memfd_create(name)
        os.ftruncate(file, math.prod(shape))  # takes no memory yet
    try:
        offers = [offer for there, offer in all_gather((host, (own, file, name))) if there == host]
        pids = [pid for pid, _, _ in offers]
        shared = _mapped(*offers[0], shape=shape) if len(offers) > 1 else None
        if not all(all_gather(shared is not None)):
            shared, pids = None, [own]
    finally:
        if file >= 0:
            os.close(file)
    array = np.empty(shape, dtype=np.uint8) if shared is None else shared
    error = None
    try:
        yield array, pids.index(own), len(pids)
    except LattokError as mine:
        error = mine
    for one in all_gather(error and str(error)):
        if one is not None:
            raise error or LattokError(one)


def _mapped(pid: int, file: int, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map the memory of a process, which may be this one; None where it is out of reach."""
    path = f"/proc/{pid}/fd/{file}"
    with suppress(OSError):
        if name in os.readlink(path):  # in a container of its own the number may be that of another process
            with open(path, "r+b") as memory:
                return np.memmap(memory, dtype=np.uint8, mode="r+", shape=shape)
    return None
