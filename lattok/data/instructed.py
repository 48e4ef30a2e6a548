"""Datasets whose instructions another column says: one that numbers them, as `task_index` does, or one of texts."""

from lattok.data.instructions import SUBTASK, TASK, row_instructions
from lattok.data.schema import INDEX_KEYS, RobotDataset
from lattok.data.table_dataset import tables_of
from lattok.data.views import View
from lattok.utils import checks


def with_instruction(dataset: RobotDataset, instruction: str) -> RobotDataset:
    """Return the dataset with the instructions that its column `instruction` says: texts, or numbers of `tasks`;
    those of `subtask_index` are of the dataset's sub-tasks.

    Which texts an episode has is only in its rows: the column of all of them is read here.
    """
    view = numbered(dataset, instruction)
    found: dict[int, tuple[str, ...]] = {}
    for index, columns in dataset.columns_of(dataset.episodes, [instruction], False):
        if isinstance(columns, checks.LattokError):
            continue  # whoever reads this episode says it
        texts, _ = row_instructions(view, columns[instruction], index)
        found[index] = tuple(texts)
    view.episodes = tuple(each._replace(tasks=found.get(each.index, each.tasks)) for each in dataset.episodes)
    if dataset.features[instruction].dtype == "string":
        view.tasks = tuple(dict.fromkeys(text for texts in found.values() for text in texts))
    return view


def numbered(dataset: RobotDataset, instruction: str) -> RobotDataset:
    """Return the dataset with another column of instructions; which an episode has is left as it was."""
    one = {key: feature.dtype for key, feature in dataset.features.items() if feature.shape == (1,)}
    source = tables_of(dataset)
    subtasks = source.subtask_texts if source is not None else ()
    odd = {*INDEX_KEYS, *([] if subtasks else [SUBTASK])} - {TASK}
    whole = [key for key, dtype in one.items() if "int" in dtype and key not in odd]
    texts = [key for key, dtype in one.items() if dtype == "string"]
    if instruction not in (*whole, *texts):
        likely = [key for key in whole if key.startswith("annotation.") or key in (TASK, SUBTASK)]
        named = checks.listed([*likely, *texts]) or TASK
        checks.fail("instruction", f"a column such as {named}", f"{instruction!r:.60}")
    view = View(dataset)
    view.instruction_key = instruction
    if instruction == SUBTASK:
        view.tasks = (*subtasks, "")  # -1 stands for none
    return view
