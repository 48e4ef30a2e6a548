"""Which samples make a batch: of one dataset or of several in given proportions, each a function of its number alone.

counts(n)_i     how many of the first n samples come from dataset i
sample n        is the next draw, number counts(n)_i, of the one dataset whose count it raises

The first half of the datasets gets round(n w) of n samples, the second half the rest, and so on inside each half, in
exact fractions. So counts(n)_i is within d / 2 of n w_i, where 2^d is at least the number of datasets: 1/2 for two of
them, 1 for four. Draws of one dataset are shuffled passes. Neither depends on the batch size or the processes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lattok import checks
from lattok.data.opening import open_dataset
from lattok.data.schema import RobotDataset, camera_keys, dimension_names, short_name, vector_key
from lattok.data.views import action_spaces
from lattok.normalize import Normalizer
from lattok.samples.augment import Augmentation, augment_alike, draw
from lattok.samples.windows import ActionWindows, FramePairs
from lattok.seeds import derive_seed
from lattok.types import ActionBatch, PairBatch

MOST_DRAWN = 2**16  # samples of a batch, where the data has fewer


class SeededBatches:
    """Indices of step t: consecutive slices of one shuffled pass after another. A function of (seed, t) alone."""

    def __init__(self, size: int, batch_size: int, seed: int):
        checks.counts(size=size, batch_size=batch_size)
        check_batch_size(batch_size, size)
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._passes: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Return indices [batch_size] of step `step`, counted from 0."""
        return self.draws(step * self.batch_size, self.batch_size)

    def draws(self, position: int, left: int) -> Tensor:
        """Indices [left] of the draws from number `position` on, counted from 0."""
        parts = []
        while left:
            number, offset = divmod(position, self.size)
            part = self._pass(number)[offset : offset + left]
            parts.append(part)
            position, left = position + len(part), left - len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
            self._passes = {k: v for k, v in self._passes.items() if k >= number - 1}
            self._passes[number] = torch.randperm(self.size, generator=generator)
        return self._passes[number]


def check_batch_size(batch_size: int, size: int) -> None:
    """A batch may hold samples more than once, but not beyond reason: drawing it would never end."""
    if batch_size > max(size, MOST_DRAWN):
        checks.fail("batch_size", f"at most {max(size, MOST_DRAWN)} for {size} samples", batch_size)


class Source(NamedTuple):
    """A dataset of a mixture."""

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


class Shares:
    """How many of the first n samples come from each of several datasets. See the top of this file."""

    def __init__(self, weights: Sequence[float]):
        """Weight 0: none."""
        self._weights = [Fraction(str(weight)) for weight in weights]  # decimal as written: 0.1 and 0.9 are 1
        if not any(self._weights):
            checks.fail("mix", "at least one sample", "none")

    def counts(self, n: int) -> list[int]:
        """Count how many of the first `n` samples come from each dataset."""
        return _shared(n, self._weights)


class MixedBatches:
    """Rows of step t, in the order of the datasets, when these lie one after the other. See the top of this file."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int):
        """`sizes`: samples of each dataset; one without any gives none, and the others share its weight."""
        checks.counts(batch_size=batch_size)
        check_batch_size(batch_size, sum(sizes))
        self.batch_size = batch_size
        self._starts = list(accumulate(sizes, initial=0))
        self._passes = [SeededBatches(size, 1, derive_seed(seed, i)) if size else None for i, size in enumerate(sizes)]
        self.counts = Shares([w if size else 0 for w, size in zip(weights, sizes, strict=True)]).counts

    def __call__(self, step: int) -> Tensor:
        """Return rows [batch_size] of step `step`, counted from 0."""
        before, after = (self.counts(n) for n in (step * self.batch_size, (step + 1) * self.batch_size))
        parts = zip(self._starts[:-1], self._passes, before, after, strict=True)
        return torch.cat([start + passes.draws(k, last - k) for start, passes, k, last in parts if passes is not None])


def _shared(n: int, weights: Sequence[Fraction]) -> list[int]:
    if len(weights) == 1:
        return [n]
    half = len(weights) // 2
    total, first = sum(weights), sum(weights[:half])
    share = math.floor(n * first / total + Fraction(1, 2)) if total else 0
    return _shared(share, weights[:half]) + _shared(n - share, weights[half:])


class Mixed:
    """Samples of several datasets under one numbering, one dataset after the other."""

    def __init__(self, sizes: Sequence[int], batches: Sequence[Callable[..., Any]]):
        self.sizes, self._batches = list(sizes), list(batches)
        self._starts = torch.tensor(list(accumulate(sizes, initial=0)))

    def __len__(self) -> int:
        return sum(self.sizes)

    def batch(self, indices: Tensor, frames: Tensor | None = None) -> Any:
        """Samples `indices` [B], in their order, as each dataset gives them; `frames` [B, ...] where it keeps none."""
        owner = torch.searchsorted(self._starts, indices.contiguous(), right=True) - 1
        order = owner.argsort(stable=True)
        parts = []
        for i in owner.unique().tolist():
            mine = owner == i
            given = () if frames is None else (frames[mine],)
            parts.append(self._batches[i](indices[mine] - self._starts[i], *given))
        place = order.argsort()
        return _joined(parts, place)


def _joined(parts: Sequence[Any], place: Tensor) -> Any:
    """Join batches, or what they consist of, of several datasets, and put the samples in their places."""
    first = parts[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else torch.cat(list(parts))[place]
    if isinstance(first, tuple):
        return type(first)(*(_joined(values, place) for values in zip(*parts, strict=True)))
    listed = [value for part in parts for value in part]
    return [listed[i] for i in place.tolist()]


class MixedWindows(Mixed):
    """Windows of several datasets; every chunk is normalised with its own dataset's normaliser."""

    def __init__(self, windows: Sequence[ActionWindows], normalizers: Sequence[Normalizer]):
        own = copy.deepcopy(list(normalizers))  # the model's move to its device

        def batch(part: ActionWindows, normalizer: Normalizer, indices: Tensor) -> ActionBatch:
            chunks, valid = part.batch(indices)
            return ActionBatch(normalizer(chunks), valid)

        batches = [partial(batch, *both) for both in zip(windows, own, strict=True)]
        super().__init__([len(part) for part in windows], batches)


class MixedPairs(Mixed):
    """Frame pairs of several datasets with `labelled`, `tasks` and `task_of` as `FramePairs` has them.

    Actions are normalised with statistics of their own dataset's labelled pairs; where a dataset has none they are
    zeros. `action_dim` is 0 where no dataset has any.
    """

    def __init__(self, parts: Sequence[FramePairs], weights: Sequence[float]):
        self.weights = list(weights)
        self.labelled = np.concatenate([part.labelled for part in parts])
        self.known = [int(part.labelled.sum()) for part in parts]
        self.tasks = tuple(task for part in parts for task in part.tasks)
        firsts = [0, *accumulate(len(part.tasks) for part in parts[:-1])]
        self.task_of = np.concatenate([first + part.task_of for first, part in zip(firsts, parts, strict=True)])
        shape = next((part.actions_of(np.arange(1)).shape[1:] for part in parts if part.labelled.any()), (0,))
        self.action_dim = shape[-1]
        super().__init__([len(part) for part in parts], [_normalised_pairs(part, shape) for part in parts])


def _normalised_pairs(part: FramePairs, shape: tuple[int, ...]) -> Callable[..., PairBatch]:
    if not (shape[-1] and part.labelled.any()):
        return lambda indices, *frames: part.batch(indices, *frames)._replace(actions=torch.zeros(len(indices), *shape))
    normalizer = Normalizer(shape[-1])
    normalizer.fit(torch.from_numpy(part.actions_of(part.labelled.nonzero()[0])).flatten(0, -2))

    def batch(indices: Tensor, frames: Tensor | None = None) -> PairBatch:
        pairs = part.batch(indices, frames)
        return pairs._replace(actions=normalizer(pairs.actions))

    return batch


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


@dataclass(frozen=True)
class Instructions:
    """Vectors of n instructions."""

    row_of: Mapping[str, int]
    vectors: Tensor  # [n, S, D] float32, zero beyond the words
    mask: Tensor  # [n, S] bool: which of them are words

    @classmethod
    def joined(cls, words: Mapping[str, Tensor]) -> Instructions:
        """Join vectors [words, D] of each text."""
        lengths = torch.tensor([len(vectors) for vectors in words.values()])
        padded = pad_sequence(list(words.values()), batch_first=True)
        row_of = {text: row for row, text in enumerate(words)}
        return cls(row_of, padded, torch.arange(padded.shape[1]) < lengths[:, None])

    def rows(self, texts: Iterable[str]) -> Tensor:
        """Return the rows of texts, int64."""
        return torch.tensor([self.row_of[text] for text in texts], dtype=torch.long)


class PairBatches:
    """Random pairs of step t, and `labelled` extra ones whose actions are known; with `words` their instructions.

    Images are changed as `changes` says, all frames of a sample and camera in the same way: what differs
    between them is what moved.
    """

    def __init__(
        self,
        pairs: FramePairs | MixedPairs,
        size: int,
        labelled: int,
        seed: int,
        words: Instructions | None = None,
        changes: Augmentation | None = None,
    ):
        self.pairs, self.seed, self.changes = pairs, seed, changes
        self.draw = _draw(pairs, False, size, seed)
        self.known = torch.from_numpy(pairs.labelled.nonzero()[0])
        extra = labelled if len(self.known) else 0
        self.samples = size + extra  # per step
        self.draw_known = _draw(pairs, True, extra, derive_seed(seed, 1)) if extra else None
        self.words = words
        self.text_of = None if words is None else words.rows(pairs.tasks)[torch.from_numpy(pairs.task_of)]

    def __call__(self, step: int, process: int, processes: int) -> PairBatch:
        chosen = self.draw(step)
        if self.draw_known is not None:
            chosen = torch.cat([chosen, self.known[self.draw_known(step)]])
        chosen = chosen[process::processes]
        batch = self.pairs.batch(chosen)
        if self.changes is not None and self.changes.changes:
            draws = draw(self.changes, self.samples, batch.frames.shape[2], self.seed, step)[process::processes]
            batch = batch._replace(frames=augment_alike(batch.frames, draws))
        if self.words is None or self.text_of is None:
            return batch
        rows = self.text_of[chosen]
        return batch._replace(text=self.words.vectors[rows], text_mask=self.words.mask[rows])


def _draw(pairs: FramePairs | MixedPairs, labelled: bool, size: int, seed: int) -> SeededBatches | MixedBatches:
    """Draw random pairs of every step, or of the labelled ones; in a mixture in its proportions."""
    if isinstance(pairs, FramePairs):
        return SeededBatches(int(pairs.labelled.sum()) if labelled else len(pairs), size, seed)
    return MixedBatches(pairs.known if labelled else pairs.sizes, pairs.weights, size, seed)
