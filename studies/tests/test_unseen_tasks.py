"""The study of tasks that bundled models have not seen: what teaches, and its table."""

import numpy as np
from scipy import stats

import lattok
from studies.unseen_tasks import FOLDS, ROWS, parted, table


def test_each_task_is_unseen_in_one_fold():
    task = {episode.index: episode.tasks[0] for episode in lattok.open_dataset("sample/dataset").episodes}
    judged = []
    for fold in range(FOLDS):
        seen, unseen = ([index for episodes in part for index in episodes] for part in parted(fold))
        assert not {task[index] for index in seen} & {task[index] for index in unseen}
        assert sorted(seen + unseen) == sorted(task)
        judged += unseen
    assert sorted(judged) == sorted(task)


def test_the_table_has_intervals_over_folds():
    values = np.random.default_rng(0).uniform(size=(FOLDS, 2))
    runs = {f"idm.{f}.{s}": dict.fromkeys(ROWS["idm"], float(values[f, s])) for f in range(FOLDS) for s in range(2)}
    means = values.mean(1)
    half = stats.sem(means) * stats.t.ppf(0.975, FOLDS - 1)
    assert f"{means.mean():.3f} ± {half:.3f}" in table(runs)
