"""Which episodes judge a model (held out) and which ones fit its probes and controls (all others)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok import checks
from lattok.data import RobotDataset, select_episodes
from lattok.evaluation.evidence.probes import Fold
from lattok.types import Episode

FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Episode indices of both halves, and how many there were before large datasets were thinned."""

    train: list[int]
    held_out: list[int]
    train_available: int
    held_out_available: int

    @property
    def text(self) -> str:
        """Both halves in one line, for the page."""

        def half(used: int, available: int) -> str:
            return f"{used}" if used == available else f"{used} of {available}"

        return (
            f"{half(len(self.held_out), self.held_out_available)} held-out episodes; "
            f"{half(len(self.train), self.train_available)} others fit probes and controls"
        )


def split_episodes(dataset: RobotDataset, episodes: str | Sequence[int] | None, max_episodes: int) -> Split:
    """Hold out `episodes` and train on the rest; keep at most `max_episodes` of these and half as many of those."""
    checks.positive(max_episodes=max_episodes)
    held_out = [episode.index for episode in select_episodes(dataset, episodes)]
    train = [episode.index for episode in dataset.episodes if episode.index not in set(held_out)]
    if not train:
        hint = "Probes and controls are fitted to the episodes that are not held out."
        checks.fail("episodes", "a choice that leaves other episodes", repr(episodes), hint)
    return Split(
        train=[train[i] for i in evenly(len(train), max_episodes)],
        held_out=[held_out[i] for i in evenly(len(held_out), max(1, max_episodes // 2))],
        train_available=len(train),
        held_out_available=len(held_out),
    )


def evenly(count: int, most: int) -> Tensor:
    """Choose at most `most` of `count` rows, evenly spaced, first and last included; int64."""
    return torch.from_numpy(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


class TaskFolds(NamedTuple):
    """Folds over tasks, or why there are none."""

    folds: tuple[Fold, ...]
    text: str


def task_folds(episodes: Sequence[Episode], train: np.ndarray, held_out: np.ndarray) -> TaskFolds:
    """Make folds from the episodes of training pairs [n] and held-out pairs [N]."""
    task_of = {episode.index: episode.tasks for episode in episodes}
    train_tasks, held_tasks = ([task_of[int(index)] for index in rows] for rows in (train, held_out))
    judged, known = sorted(set(held_tasks)), set(train_tasks)
    if len(known | set(judged)) < 2:
        return TaskFolds((), "not applicable: the dataset has one task")
    count = min(FOLDS, len(judged))
    folds = []
    for i in range(count):
        group = set(judged[i::count])
        fit = torch.tensor([row for row, task in enumerate(train_tasks) if task not in group], dtype=torch.long)
        if not len(fit):
            return TaskFolds((), "not applicable: all training pairs are of one task")
        folds.append(Fold(fit, torch.tensor([row for row, task in enumerate(held_tasks) if task in group])))
    each = sorted({len(judged[i::count]) for i in range(count)})
    size = " or ".join(map(str, each)) + (" task" if each == [1] else " tasks")
    return TaskFolds(
        tuple(folds),
        f"{len(judged)} tasks in {count} folds: probes are fitted without the {size} they are judged on",
    )
