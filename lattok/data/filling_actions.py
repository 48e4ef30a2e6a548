"""Actions that only fill the first or the last row of episodes, of recorders that keep a row for each observation.

After T actions there are T + 1 observations. Some recorders fill the last row of actions; those of dm_env, and
Dreamer's, fill the first one, and store beside every other observation the action before it.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from lattok.data import problems
from lattok.data.formats import last_step
from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.problems import Rows
from lattok.data.schema import RobotDataset, described_by
from lattok.data.views import unwrap
from lattok.utils.findings import Finding

ELSE = "If so, write the dataset again, each action a row earlier."


def check_filling(dataset: RobotDataset, rows: Rows, columns: Iterable[str]) -> Iterator[Finding]:
    """Find columns of actions of which the first or the last row says nothing in nearly every episode."""
    asks = "last_action" in unwrap(dataset).options  # whoever opens it says what becomes of the last actions
    for key in (key for key in columns if key.split(".")[0] == "action"):
        values = rows.columns[key].reshape(len(rows.frames), -1)
        episodes = np.split(values, np.flatnonzero(rows.frames == 0)[1:])
        if not asks and last_step.fills_rows([each[-last_step.ROWS :] for each in episodes]):
            yield problems.LAST_ACTION_FILLS.finding(column=key)
        if last_step.begins_empty([each[: last_step.ROWS] for each in episodes]):
            yield problems.FIRST_ACTION_ZERO.finding(column=key, way_out=_a_row_earlier(dataset, key))


def _a_row_earlier(dataset: RobotDataset, key: str) -> str:
    """Say how a column of files of arrays is read a row earlier, where every episode is an array."""
    source = unwrap(dataset)
    if not isinstance(source, ArrayDataset) or not source.whole or "layout" in dataset.opened_with:
        return ELSE
    return f"If so, {described_by(dataset, source.described_ahead(key))}"
