"""Held-out tasks: nobody is judged on a task that the probe was fitted to."""

import numpy as np
import pytest

from lattok.evaluation.evidence.split import FOLDS, task_folds
from lattok.types import Episode


@pytest.mark.parametrize("tasks", [2, 3, 5, 12])
def test_every_pair_is_judged_once_and_without_its_task(tasks: int):
    episodes = [Episode(i, 10, (f"task {i % tasks}",)) for i in range(3 * tasks)]
    train, held_out = np.repeat(np.arange(2 * tasks), 4), np.repeat(np.arange(2 * tasks, 3 * tasks), 4)
    found = task_folds(episodes, train, held_out)
    assert len(found.folds) == min(tasks, FOLDS)
    assert sorted(row for fold in found.folds for row in fold.held_out.tolist()) == list(range(len(held_out)))
    for fold in found.folds:
        fitted = {int(train[row]) % tasks for row in fold.train.tolist()}
        judged = {int(held_out[row]) % tasks for row in fold.held_out.tolist()}
        assert not fitted & judged
        assert fitted | judged == set(range(tasks))  # nothing else is left out
    assert f"{tasks} tasks" in found.text


def test_one_task_has_nothing_to_leave_out():
    episodes = [Episode(i, 10, ("go",)) for i in range(4)]
    found = task_folds(episodes, np.array([0, 1, 2]), np.array([3]))
    assert found.folds == ()
    assert found.text.startswith("not applicable")


def test_training_pairs_of_the_judged_task_alone_cannot_judge_it():
    episodes = [Episode(0, 10, ("go",)), Episode(1, 10, ("go",)), Episode(2, 10, ("stop",))]
    assert task_folds(episodes, np.array([0]), np.array([1, 2])).folds == ()
