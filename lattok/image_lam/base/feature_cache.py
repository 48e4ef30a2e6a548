"""Frozen features of a dataset's frames, computed once and kept in files that runs and processes share.

One .npy file per camera and episode, in a folder named by the features and the dataset: any change of weights,
preprocessing or data gives other names. A file is whole or not there; its owner removes what is not used any more.

On a CPU a model learns from features in float32 what it learns from frames, to the last bit; GPUs choose other kernels
for other batches, so that last bits may differ. In float16 features take half the room and are rounded by up to 0.05 %.
All are computed in float32, also for training with precision=bf16, which without a cache computes them in bfloat16.
"""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import Progress, RobotDataset
from lattok.data.content import dataset_fingerprint, facts_of
from lattok.image_lam.base.features import FrozenFeatures
from lattok.samples.frames import Decoded, Reader
from lattok.utils import checks
from lattok.utils.files import whole_file
from lattok.utils.output import Busy, Output
from lattok.utils.parallel import Prefetcher, Request, check_wanted, piece_size
from lattok.utils.untrusted import is_file_name

BLOCK = 32  # frames that the network sees at a time
PIECE = 16 * BLOCK  # of an episode at a time, at most: a long one is never in memory as a whole
AHEAD_FRAMES = 2048  # decoded and waiting for the network: 0.3 GB at 224 x 224
WAIT_S = 0.2  # until another process may be done with an episode
Take = tuple[int, str]  # an episode as one camera saw it: what a file holds the features of


class FeatureFile(NamedTuple):
    """Where the features of a take are kept, and what they must be."""

    path: Path
    shape: tuple[int, int, int]  # T, N, D
    dtype: str

    @property
    def size(self) -> int:
        """Count the bytes of the numbers."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def lock(self) -> Path:
        """Name the file that is there while a process writes this one."""
        return self.path.with_suffix(".lock")

    @property
    def header(self) -> bytes:
        """Return what the file begins with."""
        facts, out = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}, io.BytesIO()
        np.lib.format.write_array_header_1_0(out, facts)
        return out.getvalue()

    def whole(self) -> bool:
        """Return whether all features [T, N, D] are there: not of another shape, nor in a file that is cut short."""
        header = self.header  # compared, not parsed: numpy parses it as Python, where threads of Python 3.11 may fail
        try:
            with open(self.path, "rb", buffering=0) as file:
                return file.read(len(header)) == header and file.seek(0, os.SEEK_END) == len(header) + self.size
        except FileNotFoundError:
            return False

    def read(self, rows: Iterable[tuple[int, np.ndarray]]) -> None:
        """Read some rows, each into an array [N, D]. The file is open meanwhile only: of a large dataset there are more
        than a process may hold open."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                for row, out in rows:
                    file.seek(row * out.nbytes - self.size, os.SEEK_END)
                    if file.readinto(out.data.cast("B")) != out.nbytes:
                        raise OSError(errno.EIO, "it ends early")
        except OSError as error:
            hint = "Features that runs use must stay: resume the run, which computes what is missing."
            raise checks.LattokError(f"cannot read features from {self.path} ({error.strerror}). {hint}") from None

    def write(self, parts: Iterable[np.ndarray]) -> None:
        """Keep features that come in runs of rows, only one of which need be in memory."""
        with whole_file(self.path) as temporary, open(temporary, "wb") as file:
            file.write(self.header)
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype=self.dtype).data)
        if not self.whole():
            raise RuntimeError(f"expected {self.shape} numbers in {self.path}, got {self.path.stat().st_size} bytes")


class FeatureReader(Reader):
    """Features of the frames of some episodes: `rows` computes those that are missing, a call reads what is kept."""

    what, kept = "Features", "kept in files"

    def __init__(self, frozen: FrozenFeatures, frames: Reader, places: dict[Take, FeatureFile]):
        super().__init__(frames.dataset, frames.episodes, frames.cameras)
        self.places, self._frozen = places, frozen
        self.shape = (len(self.cameras) * frozen.count, frozen.dim)
        self.dtype = np.dtype(next(iter(places.values())).dtype)

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Return the features [..., V*N, D] of rows [...], in any order, as they are kept."""
        flat = rows.reshape(-1)
        out = np.empty((len(flat), len(self.cameras), self._frozen.count, self._frozen.dim), dtype=self.dtype)
        owner = np.searchsorted(self._starts, flat, side="right") - 1
        for number in np.unique(owner).tolist():
            here = np.flatnonzero(owner == number)
            inside = (flat[here] - self._starts[number]).tolist()
            for v, camera in enumerate(self.cameras):
                kept = self.places[self.episodes[number].index, camera]
                kept.read((row, out[i, v]) for row, i in zip(inside, here.tolist(), strict=True))
        return torch.from_numpy(out.reshape(*rows.shape, *self.shape))

    def rows(self, rows: np.ndarray) -> Decoded:
        """Read ascending `rows` [n], and compute those of episodes that are missing, whole ones."""
        owner, errors = self.episode_of(rows), dict[int, checks.LattokError]()
        for episode in np.unique(owner).tolist():
            try:
                for camera in self.cameras:
                    self._make_or_wait((episode, camera))
            except checks.LattokError as error:
                errors[episode] = error
        values, sound = np.empty((len(rows), *self.shape), self.dtype), ~np.isin(owner, list(errors))
        values[sound] = self(rows[sound]).numpy()
        return values, sound, errors

    def compute(self, progress: Progress | None = None) -> None:
        """Compute all missing ones; takes that another process is at come last. `OSError` if they cannot be kept."""
        missing = [take for take, kept in self.places.items() if not kept.whole()]
        left, total = (sum(self.places[take].shape[0] for take in takes) for takes in (missing, self.places))
        pieces, busy = {take: self._pieces(take) for take in missing}, list[Take]()

        def ahead(take: Take, first: int, last: int) -> np.ndarray | None:
            kept = self.places[take]
            elsewhere = kept.path.exists() or kept.lock.exists()  # if not, or damaged: read in its turn
            return None if elsewhere else self._pixels(take, first, last)

        def note(take: Take) -> None:
            nonlocal left
            left -= self.places[take].shape[0]
            if progress is not None:
                progress(total - left, total)

        jobs = (Request(piece, piece[2] - piece[1]) for take in missing for piece in pieces[take])
        with Prefetcher(ahead, jobs, AHEAD_FRAMES) as prepared:
            for take in missing:
                frames = (prepared(*piece) for piece in pieces[take])
                try:
                    self._make(take, frames)
                    note(take)
                except Busy:
                    busy.append(take)
                for _ in frames:  # what was not needed is asked for all the same: the next take comes after it
                    pass
        for take in busy:
            self._make_or_wait(take)
            note(take)

    def _make_or_wait(self, take: Take) -> None:
        """Keep the features of a take; a process that is at it gives it up when it ends, however it does."""
        while not self.places[take].whole():
            try:
                self._make(take)
            except Busy:
                check_wanted()
                time.sleep(WAIT_S)

    def _make(self, take: Take, prepared: Iterable[np.ndarray | None] | None = None) -> None:
        """Keep the features of a take, of frames that are `prepared` in pieces; those that are None are read."""
        kept = self.places[take]
        with Output(kept.path).locked(kept.lock):
            if not kept.whole():  # otherwise another process was faster
                pieces = self._pieces(take)
                both = zip(pieces, [None] * len(pieces) if prepared is None else prepared, strict=True)
                frames = (self._pixels(*piece) if frames is None else frames for piece, frames in both)
                kept.write(_compute(self._frozen, part, kept.dtype) for part in frames)

    def _pieces(self, take: Take) -> list[tuple[Take, int, int]]:
        frames = self.places[take].shape[0]
        size = piece_size(AHEAD_FRAMES, PIECE)  # whole blocks
        return [(take, first, min(first + size, frames)) for first in range(0, frames, size)]

    def _pixels(self, take: Take, first: int, last: int) -> np.ndarray:
        episode, camera = take
        rows, resize = np.arange(first, last), lambda block: self._frozen.resize(torch.from_numpy(block)).numpy()
        return self.dataset.frames(episode, [camera], rows, resize)[:, 0]


def open_features(folder: Path, frozen: FrozenFeatures, frames: Reader, dtype: str = "float32") -> FeatureReader:
    """Return what reads features from a folder instead of `frames`, computing missing ones, in "float32" or "float16".

    The folder holds all features ever kept there; delete what you need no more. `OSError` if the disk lacks room.
    """
    lengths = {(each.index, camera): each.length for each in frames.episodes for camera in frames.cameras}
    names = _names(lengths, frames.dataset, features_key(frozen, dtype))
    places = {
        take: FeatureFile(folder / names[take], (length, frozen.count, frozen.dim), dtype)
        for take, length in lengths.items()
    }
    size, folder = sum(kept.size for kept in places.values() if not kept.whole()), folder.absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if size > free:
        half = "; feature_cache_dtype=float16 halves them" if dtype == "float32" else ""
        what = f"{size / 1e9:.3g} GB of features do not fit into the {free / 1e9:.3g} GB that are free{half}"
        raise OSError(errno.ENOSPC, what)  # now, not when hours have passed
    return FeatureReader(frozen, frames, places)


def features_key(frozen: FrozenFeatures, dtype: str) -> str:
    """Hash all that decides the features of a frame, to the last bit."""
    facts: dict[str, Any] = {
        "name": frozen.name,
        "revision": frozen.revision,
        "weights": frozen.weights_hash(),
        "image_size": frozen.image_size,
        "interpolation": frozen.interpolation,
        "scaling": [frozen.mean.tolist(), frozen.std.tolist()],
        "dtype": dtype,
        "computed": [frozen.mean.device.type, torch.__version__],
    }
    if frozen.class_token:
        facts["class_token"] = True
    if frozen.network is None:  # pixels are cut in as many ways as there are models of pixels
        facts["patches"] = [type(frozen).__name__, frozen.patch]
    return _short(facts)


def _names(takes: Iterable[Take], dataset: RobotDataset, key: str) -> dict[Take, str]:
    """Name the places of features: by all that decides which frames an episode has."""
    folder = f"{key}/{_short([dataset_fingerprint(dataset), dataset.kind, dataset.fps])}"
    facts = cache(partial(facts_of, dataset))  # splits of a dataset count their episodes from 0, but read other files
    names = {}
    for episode, camera in takes:
        name = dataset.original_camera(camera)
        name = name if is_file_name(name) else _short(name)  # not every format asks for such names
        names[episode, camera] = f"{folder}/{name}/{episode:06d}-{_short([*map(facts, dataset.files_of(episode))])}.npy"
    return names


def _short(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@torch.no_grad()
def _compute(frozen: FrozenFeatures, frames: np.ndarray, dtype: str) -> np.ndarray:
    """Compute features [n, N, D] of frames [n, h, w, 3]."""
    parts = [frozen(block).float().cpu().numpy() for block in torch.from_numpy(np.asarray(frames)).split(BLOCK)]
    features = np.concatenate(parts)
    highest = float(np.abs(features).max())
    if dtype == "float16" and highest > np.finfo(np.float16).max:
        checks.fail("feature_cache_dtype", "float32 for features this large", f"{dtype}, with values up to {highest:g}")
    return features.astype(dtype, copy=False)
