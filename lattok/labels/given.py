"""Labels that are there already, as a labeller: columns of a dataset, a folder, or arrays, whatever made them.

    rows of an episode of T frames      what they are labels of
    T, or T - s                         one frame each; the last s have none (half of T at most, if all are as long)
    T / k, rounded up or down           every k-th frame; each holds until the next
    T * k                               k of each frame, side by side in one label

Whole numbers are codes, other numbers are vectors. A row with NaN, of negative codes, or whose `PREFIX.valid` is false
is no label.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lattok.data import resize_pixels
from lattok.data.content import digests
from lattok.data.opening import open_dataset
from lattok.data.schema import INDEX_KEYS, PROVENANCE, RobotDataset
from lattok.labels.sidecar import Sidecar, with_labels
from lattok.labels.spec import INFO, LatentSpec, provenance_of
from lattok.types import Labeller, LatentActions
from lattok.utils import checks
from lattok.utils.arrays import as_tensor
from lattok.utils.commands import UNKNOWN
from lattok.utils.spread import evenly_spread
from lattok.utils.untrusted import inside

MOST_COMPARED = 256  # episodes of a copy with labels, evenly spaced
SIDE = 64  # of the frames that controls see
MOST_DIFFERENT = 4096  # codes, where nothing says how many there are
VECTORS = ("embedding", "action")  # columns of vectors under a prefix: latents, or inferred actions
FILES = "a number at the end of each name is that of the episode: labels/episode_000012.npy"

Read = Callable[[int], Mapping[str, np.ndarray]]  # by episode: "codes", "vectors" and "valid", as far as there are any


class GivenLabels(Labeller):
    """Labels of a dataset's frames, from arrays of its episodes."""

    label_source, type = "video", "labels"

    def __init__(self, name: str, dataset: RobotDataset, read: Read, spec: LatentSpec | None = None, column: str = ""):
        """`spec` says what is known of them; `column`: the only one that they are read from."""
        self.source, self.cameras, self.column, self.spec = name, dataset.cameras, column, spec
        self.address, self._read, self.every, self.per_frame = UNKNOWN, read, 1, 1
        self._lengths = {episode.index: episode.length for episode in dataset.episodes}

    def describe(self) -> dict[str, Any]:
        return {"type": self.type, "labels": self.source, **({} if self.spec is None else self.spec.to_json())}

    def stride_frames(self, fps: float) -> int:
        known = 0 if self.spec is None else self.spec.stride or self.spec.horizon
        return known or self.every

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return resize_pixels(torch.from_numpy(frames), SIDE, "bilinear").numpy()

    @cached_property
    def codebook_size(self) -> int | None:
        """Count the codes K: as their record says, or as are in use; None where there are none."""
        if self.spec is not None and self.spec.codebook_size:
            return self.spec.codebook_size if "codes" in self._read(next(iter(self._lengths))) else None
        return None if self._used is None else max(2, len(self._used))

    @cached_property
    def _used(self) -> np.ndarray | None:
        """The codes whose places are the codes that are judged; None without codes."""
        found = np.empty(0, dtype=np.int64)
        for index in self._lengths:
            if (codes := self._read(index).get("codes")) is None:
                return None
            found = np.union1d(found, codes[codes >= 0])
            if len(found) > MOST_DIFFERENT:
                hint = "Give numbers without an order as they are, others as vectors: floats."
                checks.fail("labels", f"at most {MOST_DIFFERENT} different codes", "more", hint)
        if not len(found):
            checks.fail("labels", "codes from 0 on", "none")
        return np.arange(found[-1] + 1) if found[-1] < MOST_DIFFERENT else found

    @cached_property
    def like_codes(self) -> bool:
        """Whether vectors are whole numbers from 0 on, and more than two of them, as codes stored as floats are."""
        found = np.empty(0)
        for index in self._lengths:
            if (vectors := self._read(index).get("vectors")) is None:
                return False
            known = vectors[np.isfinite(vectors)]
            if (known < 0).any() or (known % 1).any():
                return False
            found = np.union1d(found, known)
        return len(found) > 2

    def labels_of(self, episode: int) -> LatentActions:
        """Return the labels of the T frames of an episode; zeros for frames without one."""
        found, known = self._read(episode), self.labelled(episode)
        codes = np.zeros((len(known), 0), dtype=np.int64)
        if "codes" in found:
            codes = self._of_frames(np.where(found["codes"] < 0, 0, found["codes"]), episode)
            recorded = self.spec is not None and self.spec.codebook_size
            codes = codes if recorded else np.searchsorted(self._used, codes)  # type: ignore[arg-type]
            codes = np.where(known[:, None], codes, 0)
        vectors = np.zeros((len(known), 0, 0), dtype=np.float32)
        if "vectors" in found:
            with np.errstate(over="ignore"):
                vectors = self._of_frames(found["vectors"], episode).astype(np.float32)
            count = 0 if self.spec is None else self.spec.vectors * max(1, self.spec.steps)
            several = count if count and vectors.shape[1] % count == 0 else 1
            vectors = np.where(known[:, None], vectors, 0).reshape(len(vectors), several, -1)
        latents = torch.from_numpy(vectors)
        return LatentActions(torch.from_numpy(codes), latents, latents)

    def labelled(self, episode: int) -> np.ndarray:
        """Return which frames of an episode have a label, [T]."""
        found, length = self._read(episode), self._lengths[episode]
        rows = len(next(iter(found.values())))
        known = np.ones(rows, dtype=bool)
        if "valid" in found:
            known &= found["valid"].reshape(rows).astype(bool)
        if "codes" in found:
            missing = found["codes"] < 0
            if (missing.any(1) & ~missing.all(1) & known).any():
                hint = "Rows of different numbers of codes are compared as vectors: give floats."
                checks.fail("labels", "as many codes in every row", "some of a row below 0", hint)
            known &= ~missing.any(1)
        if "vectors" in found:
            with np.errstate(over="ignore"):
                known &= np.isfinite(found["vectors"].astype(np.float32)).all(1)
        known = self._of_frames(known[:, None], episode).all(1)
        return known & (np.arange(length) < rows * self.every)

    def _of_frames(self, rows: np.ndarray, episode: int) -> np.ndarray:
        """Bring rows [n, w] to the T frames of an episode."""
        length = self._lengths[episode]
        if self.per_frame > 1:
            return rows.reshape(length, -1)
        return rows[np.minimum(np.arange(length) // self.every, len(rows) - 1)]

    def spread(self, rows: Mapping[int, int]) -> "GivenLabels":
        """Find which frames the `rows` of each episode belong to."""
        pairs = [(length, rows[index]) for index, length in self._lengths.items()]
        longest, (length, count) = max(self._lengths.values()), pairs[0]
        several = max(1, count // length)
        if all(n == several * frames for frames, n in pairs):
            self.per_frame = several
            return self
        for every in range(2, longest + 1):
            if all(n in (frames // every, -(-frames // every)) and n for frames, n in pairs):
                self.every = every
                return self
        alike = len({*self._lengths.values()}) == 1  # then any number of rows would fit
        if not (count < length <= (2 * count if alike else math.inf)) or any(
            n != frames - length + count or not n for frames, n in pairs
        ):
            expected = "a row for each frame, for every k-th one, or k for each, in all episodes alike"
            odd = next(index for index, frames in self._lengths.items() if rows[index] != frames)
            got = f"{rows[odd]} rows of episode {odd}, which has {self._lengths[odd]} frames"
            checks.fail(str(self.source), expected, got)
        return self


def given_labels(dataset: RobotDataset, labels: Any, name: str = "") -> GivenLabels:
    """Return labels of a dataset's frames as a labeller.

    `labels` is a column of the dataset or the prefix of several (`latent`), a folder that `annotate` wrote, a folder of
    `episode_000012.npy`, an array of all frames [F, n], or an array of each episode, in order or by its number.
    """
    if isinstance(labels, GivenLabels):
        return labels
    if not isinstance(labels, str | os.PathLike):
        return _of_arrays(dataset, labels, name or "labels")
    found = _found(dataset, os.fspath(labels), name or os.fspath(labels))
    found.address = os.fspath(labels)
    return found


def _found(dataset: RobotDataset, text: str, name: str) -> GivenLabels:
    """Find the labels that a text names: a column, a prefix, or a folder."""
    path = Path(text).expanduser()
    if text in dataset.features or _parts(dataset, text):
        return _of_columns(dataset, text, name)
    if not path.is_dir():
        prefixes = {key.rpartition(".")[0] for key in dataset.features if key.endswith(".valid")}
        known = sorted(
            prefixes | {key for key, each in dataset.features.items() if len(each.shape) == 1} - {*INDEX_KEYS}
        )
        hint = checks.did_you_mean(text, known) or (f"It has {checks.listed(known)}." if known else "")
        checks.fail("labels", f"a column of {dataset.name}, or a folder of labels", repr(text), hint)
    if (path / INFO).is_file() or (path / PROVENANCE).is_file():
        other = open_dataset(path) if (path / INFO).is_file() else with_labels(dataset, path)
        frames = [[(each.index, each.length) for each in found.episodes] for found in (other, dataset)]
        if frames[0] != frames[1]:
            checks.fail("labels", f"labels of the episodes of {dataset.name}", f"{path}, which has other episodes")
        if other.labels is None and (odd := _of_another(dataset, other)) is not None:
            got = f"{path}, whose episode {odd} has other actions, or other videos where these tell nothing"
            checks.fail("labels", f"labels of the episodes of {dataset.name}", got, f"Label {dataset.name} itself.")
        prefixes = list(Sidecar(path).provenance if other.labels is not None else provenance_of(other))
        if len(prefixes) != 1:
            hint = "Open it with lattok.labels.with_labels, and name a prefix."
            checks.fail("labels", f"labels of one model in {path}", checks.listed(prefixes) or "none", hint)
        return _of_columns(other, prefixes[0], name)
    return _of_files(dataset, path, name)


def _of_another(dataset: RobotDataset, other: RobotDataset) -> int | None:
    """Return the first episode that is another one in a copy with labels: by its actions, and where these say nothing
    or differ, by its videos."""
    indices = [episode.index for episode in evenly_spread(dataset.episodes, MOST_COMPARED)]
    seen = dict[int, bool]()
    for what in ("actions", "videos"):
        for ours, theirs in zip(*(digests(each, indices, what) for each in (dataset, other)), strict=False):
            for index in ours.keys() & theirs.keys():
                seen[index] = seen.get(index, False) or ours[index] == theirs[index]
    return next((index for index in indices if not seen.get(index, True)), None)


def _parts(dataset: RobotDataset, prefix: str) -> dict[str, str]:
    """Return the columns under a prefix, by what is read of them."""
    ends = [("codes", "codes"), ("valid", "valid"), *(("vectors", end) for end in VECTORS)]
    there = {part: f"{prefix}.{end}" for part, end in ends if f"{prefix}.{end}" in dataset.features}
    return there if there.keys() & {"codes", "vectors"} else {}


def _of_columns(dataset: RobotDataset, text: str, name: str) -> GivenLabels:
    parts, prefix = _parts(dataset, text), text
    if text in dataset.features:
        feature, prefix = dataset.features[text], text.rpartition(".")[0]
        numbers = len(feature.shape) == 1 and np.dtype(feature.dtype).kind in "biuf" if feature.dtype != "string" else 0
        if not numbers:
            checks.fail("labels", "a column of numbers", f"`{text}` of {feature.dtype} {list(feature.shape)}")
        parts = {"vectors" if np.dtype(feature.dtype).kind == "f" else "codes": text}
        if f"{prefix}.valid" in dataset.features:
            parts["valid"] = f"{prefix}.valid"
    entry = provenance_of(dataset).get(prefix, {})
    spec = LatentSpec.from_json(entry["spec"], prefix, str(PROVENANCE)) if "spec" in entry else None

    def read(episode: int) -> dict[str, np.ndarray]:
        found = dataset.columns(episode, list(parts.values()))
        return {part: _rows(f"`{column}`", found[column], part) for part, column in parts.items()}

    return GivenLabels(name, dataset, read, spec, text if text in dataset.features else "")


def _rows(what: str, values: np.ndarray, part: str = "") -> np.ndarray:
    """Return rows [n, w] of codes int64 or vectors; raises `LattokError` where they are no numbers."""
    if values.dtype.kind not in "biuf" or not values.ndim:
        checks.refuse(what, "rows of numbers", f"{values.dtype} {list(values.shape)}")
    rows = values.reshape(len(values), math.prod(values.shape[1:]))
    if not rows.size and part != "valid":
        checks.refuse(what, "rows of numbers", f"{list(values.shape)}")
    if values.dtype.kind == "u" and rows.size and rows.max() > np.iinfo(np.int64).max:
        checks.refuse(what, f"codes up to {np.iinfo(np.int64).max}", f"{rows.max()}")
    return rows.astype(np.int64) if values.dtype.kind in "biu" and part != "vectors" else rows


def _of_rows(dataset: RobotDataset, name: str, rows: Mapping[int, np.ndarray]) -> GivenLabels:
    """Return labels of arrays by episode, all of codes or all of vectors, of one width."""
    kinds = {(each.dtype.kind in "biu", each.shape[1]) for each in rows.values()}
    numbers = {episode.index for episode in dataset.episodes}
    if (missing := numbers - rows.keys()) or len(kinds) != 1:
        got = f"none of episode {min(missing)}" if missing else "some of other widths or types"
        hint = f"There are some of {checks.few_of(sorted(rows), 5)}." if missing else ""
        checks.fail(name, f"labels of all {len(numbers)} episodes of {dataset.name}, alike", got, hint)
    if more := rows.keys() - numbers - {damage.episode_index for damage in dataset.damaged}:
        hint = "If episodes were removed since, their numbers may have changed: label the dataset as it is now."
        checks.fail(name, f"labels of the {len(numbers)} episodes of {dataset.name}", f"some of {min(more)}", hint)
    part = "codes" if next(iter(kinds))[0] else "vectors"
    return GivenLabels(name, dataset, lambda episode: {part: rows[episode]}).spread(
        {i: len(each) for i, each in rows.items()}
    )


def _of_files(dataset: RobotDataset, folder: Path, name: str) -> GivenLabels:
    """Read `.npy` files, one for each episode."""
    numbered = [(re.search(r"(\d+)$", path.stem), path) for path in sorted(folder.glob("*.npy"))]
    files = dict[int, Path]()
    for found, path in numbered:
        if found and (number := int(found[1])) in files:
            checks.fail("labels", "one file for each episode", f"{files[number].name} and {path.name} in {folder}")
        if found:
            files[number] = inside(folder, path.name, str(folder))
    if not files:
        checks.fail("labels", f"a folder that annotate wrote, or one of .npy files, where {FILES}", str(folder))
    rows = dict[int, np.ndarray]()
    for number, path in files.items():
        try:
            rows[number] = _rows(str(path), np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            if isinstance(error, checks.LattokError):
                raise
            checks.refuse(path, "an array of numbers, as numpy.save writes it", checks.first_line(error))
    return _of_rows(dataset, name, rows)


def _of_arrays(dataset: RobotDataset, labels: Any, name: str) -> GivenLabels:
    """Cut an array of all frames [F, n], or take one of each episode."""
    episodes = dataset.episodes
    if isinstance(labels, Mapping):
        numbers = {episode.index for episode in episodes}
        if other := [key for key in labels if key not in numbers]:
            checks.fail(name, f"arrays by the numbers of episodes of {dataset.name}", f"{other[0]!r:.60}")
        return _of_rows(dataset, name, {i: _rows(name, as_tensor(name, each).numpy()) for i, each in labels.items()})
    if isinstance(labels, list | tuple) and len(labels) == len(episodes):
        each = (_rows(name, as_tensor(name, rows).numpy(force=True)) for rows in labels)
        return _of_rows(dataset, name, {episode.index: rows for episode, rows in zip(episodes, each, strict=True)})
    rows, frames = as_tensor(name, labels).numpy(force=True), sum(episode.length for episode in episodes)
    if not rows.ndim or len(rows) != frames:
        expected = (
            f"{frames} rows, one for each frame of {dataset.name}, or an array for each of {len(episodes)} episodes"
        )
        checks.fail(name, expected, f"shape {list(rows.shape)}")
    ends = np.cumsum([episode.length for episode in episodes])[:-1]
    parts = zip(episodes, np.split(_rows(name, rows), ends), strict=True)
    return _of_rows(dataset, name, {episode.index: part for episode, part in parts})
