"""Held-out tasks: every held-out pair is judged by a probe that was fitted without any pair of its task.

The tasks of the held-out episodes are dealt to at most five folds. The model may have seen all of them in training:
it is the probe that has to carry over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lattok.evaluation.probes import Fold
from lattok.types import Episode

FOLDS = 5


class TaskFolds(NamedTuple):
    """Folds over tasks, or why there are none."""

    folds: tuple[Fold, ...]
    text: str


def task_folds(episodes: Sequence[Episode], train: np.ndarray, held_out: np.ndarray) -> TaskFolds:
    """Folds from the episodes of training pairs [n] and held-out pairs [N]."""
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
