"""What learned nothing, for probes to read beside a model: principal coordinates, clusters; and folds over tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data.instructions import task_group
from lattok.evaluation.evidence.probes import Fold, Probe, choose_ridge, linear_probe, one_hot, pca
from lattok.nn.kmeans import nearest, residual_kmeans
from lattok.types import Episode

ITERATIONS = 50
FIT_ROWS = 50_000  # more rows than this do not move the centres, they only cost memory
BLOCK = 8192
PCA_SIZES = (32, 64, 128)
FOLDS = 5  # over tasks


@dataclass(frozen=True)
class ResidualKMeans:
    """`levels` codebooks [K, d] in a residual chain; one level is plain k-means."""

    books: tuple[Tensor, ...]

    @classmethod
    def fit(cls, vectors: Tensor, size: int, levels: int = 1, seed: int = 0) -> "ResidualKMeans":
        """Find the centres of vectors [N, d]; at most `FIT_ROWS` of them, evenly spaced, are used."""
        generator = torch.Generator().manual_seed(seed)
        rows = vectors[:: math.ceil(len(vectors) / FIT_ROWS)].float()
        return cls(tuple(residual_kmeans(rows, size, levels, ITERATIONS, generator)))

    def encode(self, vectors: Tensor) -> Tensor:
        """Turn vectors [N, d] into codes int64 [N, levels]."""
        blocks = []
        for left in vectors.float().split(BLOCK):
            codes = []
            for book in self.books:
                codes.append(nearest(left, book))
                left = left - book[codes[-1]]
            blocks.append(torch.stack(codes, 1))
        return torch.cat(blocks)

    def decode(self, codes: Tensor) -> Tensor:
        """Turn codes [N, levels] into vectors [N, d]."""
        return torch.stack([book[codes[:, i]] for i, book in enumerate(self.books)]).sum(0)


@dataclass(frozen=True)
class Target:
    """What probes predict: the mean action over the gap."""

    train: Tensor  # [n, m]
    episodes: np.ndarray  # [n]
    held_out: Tensor  # [N, m]

    def probe(self, train: Tensor, held_out: Tensor) -> Probe:
        """Fit on inputs [n, d], judge on [N, d]."""
        return linear_probe(train, self.train, self.episodes, held_out, self.held_out)

    def validation(self, train: Tensor) -> float:
        """Return R^2 of inputs [n, d] on training episodes left out."""
        return choose_ridge(train, self.train, self.episodes)[0]


@dataclass(frozen=True)
class Coordinates:
    """Principal coordinates of both splits, fitted to the training one: [n, k] and [N, k], k the largest size."""

    train: Tensor
    held_out: Tensor

    @classmethod
    def fit(cls, train: Tensor, held_out: Tensor, most: int = PCA_SIZES[-1]) -> "Coordinates":
        """Fit `most` components to rows [n, D]; project these and [N, D]."""
        components = pca(train, most)
        return cls(components.project(train), components.project(held_out))

    @property
    def sizes(self) -> list[int]:
        """Numbers of components to try; fewer when there are not that many."""
        return sorted({min(size, self.train.shape[1]) for size in PCA_SIZES})

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        return self.train[:, :size], self.held_out[:, :size]

    def best_size(self, target: Target) -> int:
        return max(self.sizes, key=lambda size: target.validation(self.first(size)[0]))


class CodeStream(NamedTuple):
    """Codes of one source on both splits."""

    key: str
    name: str
    train: Tensor  # [n, P]
    held_out: Tensor  # [N, P]
    size: int
    control: bool = True

    @property
    def one_hot(self) -> tuple[Tensor, Tensor]:
        return one_hot(self.train, self.train), one_hot(self.held_out, self.train)


def task_folds(episodes: Sequence[Episode], train: np.ndarray, held_out: np.ndarray) -> tuple[list[Fold], str]:
    """Make folds over tasks from episodes of training [n] and held-out pairs [N]; say which, or why there are none."""
    task_of = {episode.index: task_group(episode) for episode in episodes}
    train_tasks, held_tasks = ([task_of[int(index)] for index in rows] for rows in (train, held_out))
    judged, folds = sorted(set(held_tasks)), []
    if len({*train_tasks, *judged}) < 2:
        return [], "not applicable: the dataset has one task"
    count = min(FOLDS, len(judged))
    for i in range(count):
        group = set(judged[i::count])
        names = {name for task in group for name in task}  # an episode may have several
        others = [row for row, task in enumerate(train_tasks) if task not in group and names.isdisjoint(task)]
        fit = torch.tensor(others, dtype=torch.long)
        if not len(fit):
            return [], "not applicable: all training pairs are of one task"
        folds.append(Fold(fit, torch.tensor([row for row, task in enumerate(held_tasks) if task in group])))
    each = sorted({len(judged[i::count]) for i in range(count)})
    size = " or ".join(map(str, each)) + (" task" if each == [1] else " tasks")
    return folds, f"{len(judged)} tasks in {count} folds: probes are fitted without the {size} they are evaluated on"
