"""Whether the last action of every episode is one, or only fills the row.

RLDS aligns a step as (observation, action taken after it), so no action belongs to the last observation: where
`is_last` is true, action and reward are not valid (Ramos et al., 2021). Many writers follow that and store zeros or
the action before; others store a real one. Only the data can tell.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

NEARLY_ALL, HALF, FEW = 0.95, 0.5, 0.1  # of the episodes
FEWEST_BEGUN = 3  # episodes
LEAST_EPISODES = 2
ROWS = 4  # of the end of an episode that are looked at


def repeats_or_zero(actions: np.ndarray) -> np.ndarray:
    """Tell of rows 1 to T - 1 of actions [T, m] whether each number is 0, NaN or that of the row before, bool [T-1]."""
    later = actions[1:]
    return ((later == 0) | (later == actions[:-1]) | np.isnan(later)).all(1)


def fills_rows(ends: Sequence[np.ndarray]) -> bool:
    """Tell from the last rows of actions [up to 4, m] of several episodes whether the last one of each says nothing, as
    `repeats_or_zero` says, in nearly all of them, where in most the rows before do not."""
    said = [repeats_or_zero(rows) for rows in ends if len(rows) > 2]
    if len(said) < LEAST_EPISODES:
        return False
    before = np.mean([marks[:-1].any() for marks in said])
    return bool(np.mean([marks[-1] for marks in said]) >= NEARLY_ALL and before <= HALF)


def begins_empty(starts: Sequence[np.ndarray]) -> bool:
    """Tell from the first rows of actions [up to 4, m] of several episodes whether the first one of each is 0, in
    nearly all of them, where in most the rows after it are not."""
    zero = [(rows == 0).all(1) for rows in starts if len(rows) > 2]
    if len(zero) < FEWEST_BEGUN:
        return False
    after = np.mean([marks[1:].any() for marks in zero])
    return bool(np.mean([marks[0] for marks in zero]) >= NEARLY_ALL and after <= FEW)


def all_equal(ends: Sequence[np.ndarray]) -> bool:
    """Return whether the last actions of nearly all episodes are the same, and most of those before them others."""
    if len(longer := [rows for rows in ends if len(rows) > 1]) < LEAST_EPISODES:
        return False
    (usual, count), *_ = Counter(rows[-1].tobytes() for rows in longer).most_common(1)
    return bool(count >= NEARLY_ALL * len(longer) and np.mean([rows[-2].tobytes() == usual for rows in longer]) <= HALF)
