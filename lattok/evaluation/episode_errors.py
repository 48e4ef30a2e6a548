"""Which episodes and tasks are labelled worst: squared errors by episode, divided by the variance of what is true."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset
from lattok.data.instructions import task_group
from lattok.evaluation.report import Table, TableRow

WORST = 10  # episodes and tasks that a table names
NOTE = "Mean squared error over the dimensions that move, divided by their variance: 1 is no better than their mean."


def error_tables(dataset: RobotDataset, episode_of: np.ndarray, lines: Mapping[str, tuple[str, Tensor]]) -> list[Table]:
    """Name the worst episodes and tasks. `lines`: what "truth", "model" and perhaps "rival" are called and say of all
    rows, [N, m], which are of episodes `episode_of` [N]. None where nothing moves."""
    true = lines["truth"][1].double()
    scale = true.var(0, correction=0)
    moving = scale > 1e-12 * true.square().mean(0)
    if not bool(moving.any()):
        return []
    others = [each for key, each in lines.items() if key != "truth"]
    gaps = [(values.double() - true)[:, moving].square() / scale[moving] for _, values in others]
    errors = torch.stack([gap.mean(1) for gap in gaps], 1).numpy()  # n of each source
    numbers, row_of = np.unique(episode_of, return_inverse=True)
    episodes = {each.index: each for each in dataset.episodes}
    tasks = [", ".join(task_group(episodes[index])) or "no task" for index in numbers.tolist()]
    named = [f"episode {index}: {task}" for index, task in zip(numbers.tolist(), tasks, strict=True)]
    columns = tuple(said for said, _ in others)
    found = [_table("episodes", named, row_of, errors, columns)]
    if 1 < len(set(tasks)) < len(tasks):
        found.append(_table("tasks", tasks, row_of, errors, columns))
    return found


def _table(what: str, names: Sequence[str], row_of: np.ndarray, errors: np.ndarray, columns: tuple[str, ...]) -> Table:
    groups = np.array(names)[row_of]
    means = {name: errors[groups == name].mean(0) for name in dict.fromkeys(names)}
    order = sorted(means, key=lambda name: -means[name][0])
    rows = tuple(TableRow(name, name, tuple(means[name].tolist()), control=False) for name in order[:WORST])
    more = f", the worst {WORST} of {len(order)}" if len(order) > WORST else ", the worst first"
    return Table(f"Error of held-out {what}{more}", columns, rows, "lower", digits=".2f", note=NOTE)
