"""Samples of several datasets in given proportions: what they must have in common, and one numbering for all."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate, combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data.opening import open_dataset
from lattok.data.schema import RobotDataset, camera_keys, dimension_names, short_name, vector_key
from lattok.data.views import action_spaces
from lattok.nn.normalize import Normalizer
from lattok.samples.windows import ActionWindows, FramePairs
from lattok.types import ActionBatch, PairBatch
from lattok.utils import checks


class Source(NamedTuple):
    dataset: RobotDataset
    weight: float


def open_mixture(texts: Sequence[str]) -> list[Source]:
    """Open datasets given as PATH:WEIGHT, such as "data/bridge:1.0"; their names must differ."""
    sources = [Source(open_dataset(path), weight) for path, weight in map(parse_source, texts)]
    names = [source.dataset.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            hint = 'Write {"dataset": PATH, "name": ...} into a .json file and mix that.'
            checks.fail("mix", "datasets with different names", f"several called {name!r}", hint)
    return sources


def parse_source(text: str) -> tuple[str, float]:
    """Path and weight of PATH:WEIGHT. Paths may hold colons: the last one counts."""
    path, _, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not path or not math.isfinite(weight) or weight <= 0:
        checks.fail("mix", "PATH:WEIGHT with a weight greater than 0, such as data/bridge:1.0", repr(text))
    return path, weight


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
        return _joined(parts, order.argsort())

    @abstractmethod
    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> Any:
        """Return samples of one of `parts`, as all have them in common."""


def _joined(parts: Sequence[Any], place: Tensor) -> Any:
    """Join batches, or what they consist of, of several datasets, and put the samples in their places."""
    first = parts[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else torch.cat(list(parts))[place]
    if isinstance(first, tuple):
        return type(first)(*(_joined(values, place) for values in zip(*parts, strict=True)))
    listed = [value for part in parts for value in part]
    return [listed[i] for i in place.tolist()]


class MixedWindows(MixedSamples):
    """Windows of several datasets; every chunk is normalised with its own dataset's normaliser."""

    def __init__(self, windows: Sequence[ActionWindows], normalizers: Sequence[Normalizer]):
        super().__init__(windows)
        self._normalizers = copy.deepcopy(list(normalizers))  # the model's move to its device

    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> ActionBatch:
        chunks, valid = self.parts[part].batch(indices)
        return ActionBatch(self._normalizers[part](chunks), valid)


class MixedPairs(MixedSamples):
    """Frame pairs of several datasets with `labelled`, `tasks` and `task_of` as `FramePairs` has them.

    Actions are normalised with statistics of their own dataset's labelled pairs; where a dataset has none they are
    zeros. `action_dim` is 0 where no dataset has any.
    """

    def __init__(self, parts: Sequence[FramePairs], weights: Sequence[float]):
        super().__init__(parts)
        self.weights = list(weights)
        self.labelled = np.concatenate([part.labelled for part in parts])
        self.known = [int(part.labelled.sum()) for part in parts]
        self.tasks = tuple(task for part in parts for task in part.tasks)
        firsts = [0, *accumulate(len(part.tasks) for part in parts[:-1])]
        self.task_of = np.concatenate([first + part.task_of for first, part in zip(firsts, parts, strict=True)])
        shape = next((part.actions_of(np.arange(1)).shape[1:] for part in parts if part.labelled.any()), (0,))
        self._shape, self.action_dim = shape, shape[-1]
        self._normalizers = [self._fitted(part) if self.action_dim and part.labelled.any() else None for part in parts]

    def _fitted(self, part: FramePairs) -> Normalizer:
        normalizer = Normalizer(self.action_dim)
        normalizer.fit(torch.from_numpy(part.actions_of(part.labelled.nonzero()[0])).flatten(0, -2))
        return normalizer

    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> PairBatch:
        pairs, normalizer = self.parts[part].batch(indices, *frames), self._normalizers[part]
        actions = torch.zeros(len(indices), *self._shape) if normalizer is None else normalizer(pairs.actions)
        return pairs._replace(actions=actions)


def same_actions(datasets: Iterable[RobotDataset], key: str) -> tuple[str, ...]:
    """Names of the action dimensions that all datasets have; others are an error with the way out.

    Of every two datasets, action spaces count where both declare one, otherwise names, where both have them.
    """
    known = [(d.name, vector_key(d, "action_key", key), action_spaces(d).get(key)) for d in datasets]
    for (first, mine, ours), (other, theirs, space) in combinations(known, 2):
        alike = space == ours if space and ours else None in (theirs.names, mine.names) or theirs.names == mine.names
        if alike and theirs.shape == mine.shape:
            continue
        kind = " of another action space" if space and ours else ""
        expected = f"the actions of {first} ({', '.join(dimension_names(mine))}) in every dataset"
        hint = 'In description files, say what they are ("action_space") and convert one ("actions": {"as": ...}).'
        checks.fail("mix", expected, f"{', '.join(dimension_names(theirs))}{kind} in {other}", hint)
    return dimension_names(known[0][1])


def same_cameras(dataset: RobotDataset, names: Sequence[str]) -> tuple[str, ...]:
    """A dataset's cameras called `names`, full names or short; where one is wanted and there is one, that one."""
    short = [short_name(name) for name in names]
    there = [short_name(key) for key in dataset.cameras]
    if len(short) == len(there) == 1:
        return tuple(dataset.cameras)
    if not set(short) <= set(there):
        hint = f'Name them in a description file: "cameras": {{"{short[0]}": "{(there or ["NAME"])[0]}", ...}}.'
        checks.fail("cameras", f"{', '.join(short)} in {dataset.name} too", ", ".join(there) or "none", hint)
    return camera_keys(dataset, short)


def has_actions(dataset: RobotDataset, key: str) -> bool:
    """Whether a dataset has that column; one that has other actions instead is an error, not a video without any."""
    if key in dataset.features:
        return True
    if any(name.split(".")[0].startswith("action") for name in dataset.features):
        vector_key(dataset, "action_key", key)
    return False
