"""Batches that models of frames learn from: pairs with instructions, and policy samples with what teaches them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lattok.nn.losses import draw_flow
from lattok.samples.augment import Augmentation, augment_alike, draw
from lattok.samples.frame_pairs import FramePairs, MixedPairs
from lattok.samples.order import BatchSampler, order_of
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows
from lattok.samples.stream import FrameStream
from lattok.training.feed import BatchSource
from lattok.types import FlowDraws, PairBatch, PolicyBatch, Shares
from lattok.utils.seeds import derive_seed


@dataclass(frozen=True)
class Instructions:
    row_of: Mapping[str, int]
    vectors: Tensor  # [n, S, D] float32, zero beyond the words
    mask: Tensor  # [n, S] bool: which of them are words

    @classmethod
    def joined(cls, words: Mapping[str, Tensor]) -> "Instructions":
        """Join vectors [words, D] of each text."""
        lengths = torch.tensor([len(vectors) for vectors in words.values()])
        padded = pad_sequence(list(words.values()), batch_first=True)
        row_of = {text: row for row, text in enumerate(words)}
        return cls(row_of, padded, torch.arange(padded.shape[1]) < lengths[:, None])

    def rows(self, texts: Iterable[str]) -> Tensor:
        return torch.tensor([self.row_of[text] for text in texts], dtype=torch.long)


class FrameBatches(BatchSource):
    """Samples of one order whose frames are kept, or decoded when they are needed."""

    stream: FrameStream
    window: int | None  # frames that samples are shuffled among; None: all there are

    def started(self, first: int, last: int, own: Sequence[int], shares: int) -> AbstractContextManager[None]:
        """Decode ahead, unless frames are kept, as long as this lasts."""
        return self.stream.started(first, last, own, shares)

    def record(self) -> dict[str, Any]:
        """Return what the artefact says of the order, and of episodes that could not be read."""
        return ({} if self.window is None else {"shuffle_window": self.window}) | self.stream.record()


class PairBatches(FrameBatches):
    """Random pairs of step t, and `labelled` extra ones whose actions are known; with `words` their instructions.
    `changes` are those of images, the same for all frames of a sample and camera: what differs is what moved."""

    def __init__(
        self,
        pairs: FramePairs | MixedPairs,
        size: int,
        labelled: int,
        seed: int,
        words: Instructions | None = None,
        changes: Augmentation | None = None,
        window: int | None = None,
        memory: float | None = None,
    ):
        """`window`: see `order_of`; `memory`: see `FrameStream`."""
        self.pairs, self.seed, self.changes, self.window = pairs, seed, changes, window
        parts, weights = (pairs.parts, pairs.weights) if isinstance(pairs, MixedPairs) else ([pairs], [1.0])
        extra = labelled if pairs.labelled.any() else 0
        self.samples, streams = size + extra, 1 + bool(extra)  # per step
        draws = [BatchSampler(order_of(parts, weights, window, seed, None, streams), size, weights)]
        if extra:
            known = [part.labelled.nonzero()[0] for part in parts]
            order = order_of(parts, weights, window, derive_seed(seed, 1), known, streams)
            draws.append(BatchSampler(order, extra, weights))
        self.stream, self.words = FrameStream(parts, draws, memory), words
        self.text_of = None if words is None else words.rows(pairs.tasks)[torch.from_numpy(pairs.task_of)]

    def gather(self, step: int, share: int, shares: int) -> PairBatch:
        chosen, frames = self.stream.take(step, share, shares)
        batch, known = self.pairs.batch(chosen, frames), self.pairs.labelled[self.stream.samples(step)].sum()
        batch = batch._replace(acted=torch.tensor(known / shares, dtype=torch.float32))
        if self.words is None or self.text_of is None:
            return batch
        rows = self.text_of[chosen]
        return batch._replace(text=self.words.vectors[rows], text_mask=self.words.mask[rows])

    def change(self, batch: PairBatch, step: int, share: int, shares: int) -> PairBatch:
        if self.changes is None or not self.changes.changes:
            return batch
        draws = draw(self.changes, self.samples, batch.frames.shape[2], self.seed, step)[share::shares]
        return batch._replace(frames=augment_alike(batch.frames, draws, self.changes))


@dataclass(frozen=True)
class BatchOptions:
    """How policy samples are drawn, and what batches of them carry.

    Attributes:
        size: samples of a step, over all processes
        seed: seed of all draws
        window: frames of the shuffle window: see `order_of`
        memory: bytes for frames: see `FrameStream`
        acted_share: share of a batch with measured actions; 0: as they come
        changes: how images change
        flows: batches carry the draws of flow matching
        codes: chunks teach that can be coded as a whole
    """

    size: int
    seed: int
    window: int | None = None
    memory: float | None = None
    acted_share: float = 0.0
    changes: Augmentation = Augmentation()  # noqa: RUF009
    flows: bool = False
    codes: bool = False


class PolicyBatches(FrameBatches):
    """Random windows of step t with augmented images; sample i of a step is the same for any number of processes."""

    def __init__(
        self,
        samples: PolicyWindows | MixedPolicyWindows,
        options: BatchOptions,
        prepared: Callable[[PolicyBatch], PolicyBatch] = lambda batch: batch,
        encoded: Callable[[PolicyBatch], PolicyBatch] = lambda batch: batch,
    ):
        """`prepared` does what else can be done ahead of a step, `encoded` what is done in main memory."""
        self.windows, self.options, self.window = samples, options, options.window
        self._prepared, self._encoded = prepared, encoded
        teaching = samples.coding if options.codes else samples.teaching
        acted = None if teaching.all() else teaching
        counted = {"labelled": samples.labelled, "with_subtask": samples.has_subtask, "acted": acted}
        self._counted = {name: which for name, which in counted.items() if which is not None}
        parts, weights, chosen = samples.parts, samples.weights, None
        if options.acted_share:  # samples with measured actions, and the others of the same dataset
            parts, weights, chosen = _in_two(parts, weights, options.acted_share)
        order = order_of(parts, weights, options.window, options.seed, chosen)
        self.stream = FrameStream(parts, [BatchSampler(order, options.size, weights)], options.memory)

    def gather(self, step: int, share: int, shares: int) -> PolicyBatch:
        """Return samples of a step, and how many of an average share teach."""
        samples, rows = self.windows, self.stream.samples(step)
        own, frames = self.stream.take(step, share, shares)
        batch = samples.batch(own, frames)
        counts = {name: which[rows].sum() for name, which in self._counted.items()}
        if samples.reach.shape[1]:
            there = samples.reach[rows]
            counts.update(pairs=there.sum(), paired=there.any(1).sum(), whole=there.all(1).sum())
            batch = batch._replace(pairs=samples.reach[own].nonzero())
        batch = batch._replace(shares=Shares(**{name: count / shares for name, count in counts.items()}))
        if self.options.flows:  # for all samples, so that any number of processes learns from the same
            generator = torch.Generator().manual_seed(derive_seed(self.options.seed, step, 2))
            drawn = draw_flow((self.options.size, *batch.actions.shape[1:]), generator)
            batch = batch._replace(draws=FlowDraws(*(part[share::shares] for part in drawn)))
        return self._encoded(batch)

    def change(self, batch: PolicyBatch, step: int, share: int, shares: int) -> PolicyBatch:
        if not batch.images.shape[1]:
            return self._prepared(batch)
        options, views = self.options, batch.images.shape[1]
        draws = draw(options.changes, options.size, views, options.seed, step)[share::shares]
        frames = batch.images[:, None] if batch.later is None else torch.cat([batch.images[:, None], batch.later], 1)
        frames = augment_alike(frames, draws, options.changes)  # what differs between them is what moved
        later = None if batch.later is None else frames[:, 1:]
        return self._prepared(batch._replace(images=frames[:, 0], later=later))


def _in_two(
    parts: Sequence[PolicyWindows], weights: Sequence[float], share: float
) -> tuple[list[PolicyWindows], list[float], list[np.ndarray]]:
    """Return samples with measured actions, which are `share` of those of their dataset, and the others."""
    found: list[tuple[PolicyWindows, float, np.ndarray]] = []
    for measured in (True, False):
        for part, weight in zip(parts, weights, strict=True):
            chosen = (part.measured == measured).nonzero().flatten().numpy()
            own = share if measured else 1 - share
            if len(chosen):
                found.append((part, weight if len(chosen) == len(part) else weight * own, chosen))
    return [part for part, _, _ in found], [weight for _, weight, _ in found], [chosen for _, _, chosen in found]
