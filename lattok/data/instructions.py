"""The instruction of every frame: what `task_index` of its row, or the dataset's own `instruction_key`, says, however
many an episode has.

The list of an episode's instructions has no order: LeRobot writes it in that of a hash, another one in every process.
"""

from collections.abc import Sequence

import numpy as np

from lattok.data.many import sample_of
from lattok.data.schema import RobotDataset
from lattok.types import Episode
from lattok.utils import checks

TASK = "task_index"  # LeRobot's own, which the list of an episode's instructions is made of
SUBTASK = "subtask_index"  # of the sub-tasks that LeRobot lists beside them; -1: none


def frame_instructions(dataset: RobotDataset, episodes: Sequence[Episode]) -> tuple[tuple[str, ...], np.ndarray]:
    """Different instructions in the order of the frames, and the index of each frame's, int64 [F].

    Where columns lie among images, or in very many files, `task_index` is read of episodes with several instructions
    alone. Without such a column, all frames of an episode have its first one, or "". Numbers that stand for no
    instruction raise `LattokError`.
    """
    key = dataset.instruction_key
    several, apart = key in dataset.features and len(dataset.tasks) > 1, dataset.columns_apart or key != TASK
    apart = apart and (key != TASK or len(sample_of(dataset, episodes)) == len(episodes))
    asked = [e for e in episodes if several and (apart or len(e.tasks) > 1)]
    told: dict[int, np.ndarray] = {}
    for index, columns in dataset.columns_of(asked, [key], False) if asked else ():
        if isinstance(columns, checks.LattokError):
            raise columns
        told[index] = columns[key]
    number: dict[str, int] = {}
    parts = [np.empty(0, dtype=np.int64)]
    for episode in episodes:
        places = np.zeros(episode.length, dtype=np.int64)
        texts = [episode.tasks[0] if episode.tasks else ""]
        if episode.index in told:
            texts, places = row_instructions(dataset, told[episode.index], episode.index)
        parts.append(np.array([number.setdefault(text, len(number)) for text in texts])[places])
    return tuple(number), np.concatenate(parts)


def row_instructions(dataset: RobotDataset, values: np.ndarray, index: int) -> tuple[list[str], np.ndarray]:
    """Return the different instructions of an episode in the order of its frames, and the place of each frame's [T],
    from what `instruction_key` says of its rows: texts, or numbers."""
    if dataset.features[dataset.instruction_key].dtype == "string":
        texts = [value or "" for value in values.reshape(-1).tolist()]
        known = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return [*known], np.array([known[text] for text in texts], dtype=np.int64)
    numbers = _checked(dataset.instruction_key, values, index, dataset)
    rows, first, places = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return [dataset.tasks[row] for row in rows[order].tolist()], np.argsort(order)[places]


def instruction_of(dataset: RobotDataset, episode: Episode) -> str | list[str]:
    """Return the instruction of an episode, or of each of its frames where there are several."""
    texts, numbers = frame_instructions(dataset, [episode])
    return texts[0] if len(texts) == 1 else [texts[number] for number in numbers.tolist()]


def task_group(episode: Episode) -> tuple[str, ...]:
    """Return the instructions of an episode without order: episodes of one task have equal ones."""
    return tuple(sorted(set(episode.tasks)))


def _checked(key: str, numbers: np.ndarray, index: int, dataset: RobotDataset) -> np.ndarray:
    numbers, count = numbers.reshape(-1), len(dataset.tasks)
    least = -1 if key == SUBTASK else 0
    if numbers.dtype.kind not in "iu" or not least <= numbers.min(initial=0) <= numbers.max(initial=0) < count:
        got = f"{numbers.min()} to {numbers.max()} in episode {index}"
        checks.fail(key, f"numbers of the {checks.counted(count, 'instruction')}", got, "Copy the dataset again.")
    if key == TASK and (unknown := {*np.unique(numbers).tolist()}.intersection(dataset.unlisted_tasks)):
        got = f"{min(unknown)} in episode {index}, which none has"
        checks.fail(key, "numbers of instructions", got, "Copy the dataset again.")
    return numbers
