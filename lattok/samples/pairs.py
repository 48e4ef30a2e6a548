"""Frame pairs drawn step by step, with extra labelled ones, changed images and the words of their instructions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lattok.samples.augment import Augmentation, augment_alike, draw
from lattok.samples.mixture import MixedBatches, MixedPairs
from lattok.samples.order import SeededBatches
from lattok.samples.windows import FramePairs
from lattok.seeds import derive_seed
from lattok.types import PairBatch


@dataclass(frozen=True)
class Instructions:
    """Vectors of n instructions."""

    row_of: Mapping[str, int]
    vectors: Tensor  # [n, S, D] float32, zero beyond the words
    mask: Tensor  # [n, S] bool: which of them are words

    @classmethod
    def joined(cls, words: Mapping[str, Tensor]) -> Instructions:
        """From vectors [words, D] of each text."""
        lengths = torch.tensor([len(vectors) for vectors in words.values()])
        padded = pad_sequence(list(words.values()), batch_first=True)
        row_of = {text: row for row, text in enumerate(words)}
        return cls(row_of, padded, torch.arange(padded.shape[1]) < lengths[:, None])

    def rows(self, texts: Iterable[str]) -> Tensor:
        """Rows of texts, int64."""
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
        self.text_of = None if words is None else words.rows(pairs.tasks[task] for task in pairs.task_of)

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
    """Random pairs of every step, or random ones of the labelled pairs; in a mixture in its proportions."""
    if isinstance(pairs, FramePairs):
        return SeededBatches(int(pairs.labelled.sum()) if labelled else len(pairs), size, seed)
    return MixedBatches(pairs.known if labelled else pairs.sizes, pairs.weights, size, seed)
