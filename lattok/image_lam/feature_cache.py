"""Frozen features of a dataset's frames, computed once and kept in files that runs and processes share.

One file per camera and episode, in a folder named by the features and the dataset: any change of weights,
preprocessing or data gives other names, and what is not used any more makes room for what is.

On a CPU a model learns from features in float32 what it learns from frames, to the last bit; GPUs choose other kernels
for other batches, so that last bits may differ. In float16 features take half the room and are rounded by up to 0.05 %.
All are computed in float32, also for training with precision=bf16, which without a cache computes them in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.data import Progress, RobotDataset, fingerprint
from lattok.data.ahead import Abandoned, Ahead, Job, Stopped
from lattok.data.array_store import ArrayStore, Busy, Layout
from lattok.data.camera_view import original_camera
from lattok.image_lam.features import FrozenFeatures
from lattok.types import Episode

BLOCK = 32  # frames that the network sees at a time
PIECE = 16 * BLOCK  # of an episode at a time: a long one is never in memory as a whole
AHEAD_FRAMES = 2048  # decoded and waiting for the network: 0.3 GB at 224 x 224
WAIT_S = 0.2  # until another process may be done with an episode
PixelsOf = Callable[["Clip", int, int], np.ndarray]  # frames [first, last) of a clip, uint8 [n, h, w, 3]


class Clip(NamedTuple):
    """An episode as one camera saw it: what a file holds the features of."""

    episode: int
    camera: str


class Shelf(NamedTuple):
    """Where the features of some clips are kept."""

    store: ArrayStore
    names: dict[Clip, str]
    layouts: dict[Clip, Layout]

    def opened(self) -> dict[Clip, np.ndarray]:
        """What is there."""
        both = ((clip, self.store.open(name, self.layouts[clip])) for clip, name in self.names.items())
        return {clip: values for clip, values in both if values is not None}


class CachedFeatures:
    """Features of all frames of some episodes, one after the other."""

    def __init__(self, clips: Sequence[Sequence[np.ndarray]]):
        """For every episode, of each camera, [T, N, D]."""
        self._clips = clips
        self._ends = np.cumsum([len(cameras[0]) for cameras in clips]).tolist()

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Rows [...] among all frames to their features [..., V*N, D], as they are kept."""
        flat = rows.reshape(-1)
        episodes = np.searchsorted(self._ends, flat, side="right")
        places, width = self._clips[0][0].shape[1:]
        out = np.empty((len(flat), len(self._clips[0]), places, width), dtype=self._clips[0][0].dtype)
        for i, (episode, row) in enumerate(zip(episodes.tolist(), flat.tolist(), strict=True)):
            for v, features in enumerate(self._clips[episode]):
                out[i, v] = features[row - self._ends[episode]]  # counted from the episode's end
        return torch.from_numpy(out.reshape(*rows.shape, -1, width))


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features, at most `gigabytes` (10^9 bytes) large whoever writes there.

    `check` compares checksums at opening, which reads everything once; files that are cut short are always noticed.
    """

    folder: Path
    gigabytes: float = 100.0
    dtype: str = "float32"
    check: bool = False

    def __post_init__(self) -> None:
        checks.positive(feature_cache_gb=self.gigabytes)
        checks.one_of("feature_cache_dtype", self.dtype, ("float32", "float16"))

    def features(
        self,
        frozen: FrozenFeatures,
        dataset: RobotDataset,
        episodes: Sequence[Episode],
        cameras: Sequence[str],
        pixels: PixelsOf | None = None,
        progress: Progress | None = None,
    ) -> CachedFeatures:
        """Features of all frames of the episodes; those that are missing are computed, on the device of `frozen`.

        `pixels` hands over frames that are decoded already. Raises `OSError` where features cannot be kept.
        """
        shelf = self._shelf(frozen, dataset, episodes, cameras)
        self._check_size(shelf.layouts)
        found = shelf.opened()
        read = pixels or partial(_pixels, frozen, dataset)
        done, total = (sum(shelf.layouts[clip].shape[0] for clip in clips) for clips in (found, shelf.layouts))
        for clip, values in _made(shelf, frozen, [clip for clip in shelf.names if clip not in found], read):
            found[clip] = values
            done += len(values)
            if progress is not None:
                progress(done, total)
        return _joined(found, episodes, cameras)

    def known(
        self, frozen: FrozenFeatures, dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str]
    ) -> CachedFeatures | None:
        """As `features` where all are there already; otherwise None."""
        found = self._shelf(frozen, dataset, episodes, cameras).opened()
        return None if len(found) < len(episodes) * len(cameras) else _joined(found, episodes, cameras)

    def _shelf(
        self, frozen: FrozenFeatures, dataset: RobotDataset, episodes: Sequence[Episode], cameras: Sequence[str]
    ) -> Shelf:
        layouts = {
            Clip(episode.index, camera): Layout((episode.length, frozen.count, frozen.dim), self.dtype)
            for episode in episodes
            for camera in cameras
        }
        store = ArrayStore(self.folder, int(self.gigabytes * 1e9), self.check)
        return Shelf(store, _names(layouts, dataset, features_key(frozen, self.dtype)), layouts)

    def _check_size(self, layouts: dict[Clip, Layout]) -> None:
        size = sum(layout.size for layout in layouts.values())
        if size > self.gigabytes * 1e9:
            frames = sum(layout.shape[0] for layout in layouts.values())
            _, places, width = next(iter(layouts.values())).shape
            expected = f"at least {size / 1e9:.3g}, for {frames:,} images of {places} x {width} numbers in {self.dtype}"
            half = "; feature_cache_dtype=float16 halves it." if self.dtype == "float32" else "."
            checks.fail("feature_cache_gb", expected, f"{self.gigabytes:g}", f"Or choose fewer episodes{half}")


def features_key(frozen: FrozenFeatures, dtype: str) -> str:
    """Hash of all that decides the features of a frame, to the last bit."""
    facts = {
        "name": frozen.name,
        "revision": frozen.revision,
        "weights": frozen.weights_hash(),
        "image_size": frozen.image_size,
        "interpolation": frozen.interpolation.value,
        "scaling": [frozen.mean.tolist(), frozen.std.tolist()],
        "dtype": dtype,
        "computed": [frozen.mean.device.type, torch.__version__],
    }
    return _short(facts)


def _names(clips: Iterable[Clip], dataset: RobotDataset, key: str) -> dict[Clip, str]:
    """Where features lie: by all that decides which frames an episode has."""
    folder = f"{key}/{_short([fingerprint(dataset.root), dataset.kind, dataset.fps])}"
    facts: dict[Path, str] = {}  # splits of a dataset count their episodes from 0, but read other files
    names = {}
    for clip in clips:
        files = dataset.files_of(clip.episode)
        for path in files:
            if path not in facts:
                stat = path.stat() if path.exists() else None
                place = os.path.relpath(path, dataset.root)
                facts[path] = f"{place} {stat.st_size} {stat.st_mtime_ns}" if stat else place
        camera = original_camera(dataset, clip.camera)
        names[clip] = f"{folder}/{camera}/{clip.episode:06d}-{_short([facts[path] for path in files])}"
    return names


def _short(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _joined(clips: dict[Clip, np.ndarray], episodes: Sequence[Episode], cameras: Sequence[str]) -> CachedFeatures:
    return CachedFeatures([[clips[Clip(episode.index, camera)] for camera in cameras] for episode in episodes])


def _made(
    shelf: Shelf, frozen: FrozenFeatures, missing: Sequence[Clip], read: PixelsOf
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Features of clips as they get ready; those that another process is at come last."""
    store, names, layouts = shelf
    pieces = {
        clip: [(clip, first, min(first + PIECE, layout.shape[0])) for first in range(0, layout.shape[0], PIECE)]
        for clip, layout in ((clip, layouts[clip]) for clip in missing)
    }

    def prepare(clip: Clip, first: int, last: int, stopped: Stopped) -> np.ndarray | None:
        if stopped():
            raise Abandoned
        return None if store.taken(names[clip]) else read(clip, first, last)

    def add(clip: Clip, prepared: Iterator[np.ndarray | None]) -> np.ndarray:
        def make() -> Iterator[np.ndarray]:
            for piece, frames in zip(pieces[clip], prepared, strict=True):
                yield _compute(frozen, read(*piece) if frames is None else frames, layouts[clip].dtype)

        return store.add(names[clip], layouts[clip], make)

    busy = []
    jobs = (Job(piece, piece[2] - piece[1]) for clip in missing for piece in pieces[clip])
    with Ahead(prepare, jobs, AHEAD_FRAMES) as prepared:
        for clip in missing:
            frames = (prepared(*piece) for piece in pieces[clip])
            try:
                yield clip, add(clip, frames)
            except Busy:
                busy.append(clip)
            for _ in frames:  # what was not needed is asked for all the same: the next clip comes after it
                pass
    while busy:
        clip = busy.pop(0)
        try:
            yield clip, add(clip, repeat(None, len(pieces[clip])))
        except Busy:  # a process that ends, however it does, gives up what it was at
            busy.append(clip)
            time.sleep(WAIT_S)


def _pixels(frozen: FrozenFeatures, dataset: RobotDataset, clip: Clip, first: int, last: int) -> np.ndarray:
    def resize(block: np.ndarray) -> np.ndarray:
        return frozen.resize(torch.from_numpy(block)).numpy()

    return dataset.frames(clip.episode, [clip.camera], np.arange(first, last), resize)[:, 0]


@torch.no_grad()
def _compute(frozen: FrozenFeatures, frames: np.ndarray, dtype: str) -> np.ndarray:
    """Features of frames [n, h, w, 3], [n, N, D]."""
    parts = [frozen(block).float().cpu().numpy() for block in torch.from_numpy(np.asarray(frames)).split(BLOCK)]
    features = np.concatenate(parts)
    highest = float(np.abs(features).max())
    if dtype == "float16" and highest > np.finfo(np.float16).max:
        checks.fail("feature_cache_dtype", "float32 for features this large", f"{dtype}, with values up to {highest:g}")
    return features.astype(dtype, copy=False)
