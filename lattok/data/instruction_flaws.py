"""What is wrong with instructions: lists and placeholders in place of them, variants of one, and rows that say others
than their episode."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from lattok.data import problems
from lattok.data.instructions import TASK
from lattok.data.problems import Rows
from lattok.data.schema import RobotDataset
from lattok.types import Episode
from lattok.utils.findings import Finding

LIST = re.compile(r"\s*(\[.*\]|\{.*\})\s*", re.DOTALL)
PLACEHOLDER = re.compile(
    r"(n/?a|null|nan|none|default|test|unknown|dummy|placeholder|untitled|(your|the|describe the)? ?task( description)?"
    r"|no (task|instruction)|instruction|todo\b.*|<.*>)",
    re.IGNORECASE,
)


def check_instructions(episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Find instructions that no model should be told."""
    of: dict[str, list[int]] = {}
    for episode in episodes:
        for text in episode.tasks:
            of.setdefault(text, []).append(episode.index)
    for problem, form in ((problems.LISTED_INSTRUCTIONS, LIST), (problems.PLACEHOLDERS, PLACEHOLDER)):
        if odd := [text for text in of if form.fullmatch(text.strip(" .!"))]:
            found = dict.fromkeys(index for text in odd for index in of[text])
            yield problem.finding(found, all=len(episodes), text=f"{odd[0]:.60}")
    alike: dict[str, list[str]] = {}
    for text in filter(None, of):
        alike.setdefault(" ".join(re.findall(r"\w+", text.casefold())), []).append(text)
    if several := [texts for texts in alike.values() if len(texts) > 1]:
        one, other, *_ = several[0]
        yield problems.VARIANTS.finding(count=len(several), one=f"{one!r:.60}", other=f"{other!r:.60}")


def check_task_numbers(dataset: RobotDataset, rows: Rows) -> Iterator[Finding]:
    """Find rows whose `task_index` says another instruction than meta/ lists for their episode, or none."""
    if dataset.instruction_key != TASK or TASK not in rows.columns:
        return
    listed = {episode.index: {*episode.tasks} for episode in dataset.episodes}
    unknown, others = list[int](), dict[int, str]()
    for span in rows.spans():
        index = int(rows.episodes[span.start])
        numbers = np.unique(rows.columns[TASK][span]).tolist()
        if any(not 0 <= number < len(dataset.tasks) or number in dataset.unlisted_tasks for number in numbers):
            unknown.append(index)
        elif said := {dataset.tasks[number] for number in numbers} - listed[index]:
            others[index] = min(said)
    if unknown:
        yield problems.NO_SUCH_TASK.finding(unknown, count_of=len(dataset.tasks))
    if others:
        first = min(others)
        told = {"text": f"{others[first]!r:.60}", "listed": f"{min(listed[first], default='')!r:.60}"}
        yield problems.OTHER_TASK.finding(others, all=len(listed), **told)
