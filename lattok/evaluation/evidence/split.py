"""Which episodes judge a model (held out), which ones fit its probes and controls, and which ones it learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset, select_episodes, split_by_task
from lattok.data.content import StoredDigests, digests, in_order, read_record
from lattok.data.schema import same_split
from lattok.evaluation.evidence.probes import Fold
from lattok.types import Episode
from lattok.utils import checks

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
        halves = ((len(self.held_out), self.held_out_available), (len(self.train), self.train_available))
        used = [f"{some}" if some == every else f"{some} of {every}" for some, every in halves]
        return f"{used[0]} held-out episodes; {used[1]} others fit probes and controls"


def split_episodes(dataset: RobotDataset, episodes: str | Sequence[int] | None, max_episodes: int) -> Split:
    """Hold out `episodes` and train on the rest; keep at most `max_episodes` of these and half as many of those."""
    checks.positive(max_episodes=max_episodes)
    held_out = [episode.index for episode in select_episodes(dataset, episodes)]
    train = [episode.index for episode in dataset.episodes if episode.index not in set(held_out)]
    if not train:
        hint = "Probes and controls are fitted to the episodes that are not held out."
        checks.fail("episodes", "a choice that leaves other episodes", repr(episodes), hint)
    some_train = [train[i] for i in evenly(len(train), max_episodes)]
    some_held_out = [held_out[i] for i in evenly(len(held_out), max(1, max_episodes // 2))]
    return Split(some_train, some_held_out, len(train), len(held_out))


def hold_out_more(dataset: RobotDataset, judge: str, *trained_on: Mapping[str, Any] | None) -> str:
    """Say how several episodes judge models of such histories: the last of every task, or where tasks are too few the
    last fifth, 2 to 20 episodes. `judge` is the command that does it, but for their names.
    """
    episodes = [episode.index for episode in dataset.episodes]
    held_out, option = split_by_task(dataset)[1], "test"
    if len(held_out) < 2:
        count = min(max(len(episodes) // 5, 2), 20)
        if len(episodes) <= count:
            return "Record more episodes: two at least have to judge, and others to be trained on."
        held_out = episodes[-count:]
        option = f"{held_out[0]}:{held_out[-1] + 1}"
    if not any(seen_episodes(known, dataset, held_out).episodes for known in trained_on):
        return f"Run: {judge} {option}"
    rest = "train" if option == "test" else f"{episodes[0]}:{held_out[0]}"
    return f"Run: lattok train ... --episodes {rest}, then {judge} {option}"


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
    text = f"{len(judged)} tasks in {count} folds: probes are fitted without the {size} they are judged on"
    return TaskFolds(tuple(folds), text)


def training_entries(trained_on: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """List all that a model has learned from, as its training.json says: `dataset`, `split` if it has any, `episodes`,
    and `content`, by which they are known again.

    What the models before it had learned from (`earlier`) is part of it.
    """
    known = trained_on or {}
    entries = [*known.get("mixture", [known]), *known.get("earlier", ())]
    wanted = ("dataset", "split", "episodes", "content")
    return [{name: entry[name] for name in wanted if name in entry} for entry in entries if "dataset" in entry]


class SeenEpisodes(NamedTuple):
    """Episodes, of those asked for, that a model has learned from."""

    episodes: list[int]
    complete: bool  # otherwise there may be more: of very many only a part is known again


def seen_episodes(trained_on: Mapping[str, Any] | None, dataset: RobotDataset, wanted: Sequence[int]) -> SeenEpisodes:
    """Find which of the `wanted` episodes a model has learned from, as far as its training.json says.

    Episodes are known again by their content, under any name of the dataset and with any numbers. Where one cannot be
    told from others by its content, or nothing is recorded, dataset and number count.
    """
    seen: set[int] = set()
    complete = True
    for entry in training_entries(trained_on):
        named = entry["dataset"] == dataset.name and same_split(entry.get("split"), dataset.split)
        numbers = {index for index in wanted if _among(index, entry.get("episodes", ()))}
        if "content" not in entry:
            seen |= numbers if named else set()
            continue
        found, undecided = _by_content(entry, dataset, wanted, numbers)
        complete = complete and (named or not undecided)
        seen |= found | (numbers & undecided if named else set())
    return SeenEpisodes(sorted(seen), complete)


def _by_content(
    entry: Mapping[str, Any], dataset: RobotDataset, wanted: Sequence[int], numbers: set[int]
) -> tuple[set[int], set[int]]:
    """Find which of the `wanted` episodes were trained on by their content, and for which it does not tell."""
    found, undecided, kinds = set[int](), set(wanted), read_record(entry["content"])
    for kind, known in kinds.items():
        for here in digests(dataset, wanted, kind):
            matching = {index for index, digest in here.items() if digest in known.digests}
            if not matching <= numbers and _numbered_alike(entry.get("episodes", ()), dataset, kind, known):
                matching &= numbers  # the same dataset: others merely look like one that was trained on
            found |= matching
            if kind == next(iter(kinds)):  # actions, where they were recorded: videos are encoded again sooner
                undecided &= {index for index in wanted if index not in here or known.undecided(here[index])}
    return found, undecided - found


def _numbered_alike(runs: Sequence[Sequence[int]], dataset: RobotDataset, kind: str, known: StoredDigests) -> bool:
    """Tell whether the episodes of these numbers are the ones that were trained on."""
    trained = [episode.index for episode in dataset.episodes if _among(episode.index, runs)]
    return any(in_order(here) == known.in_order for here in digests(dataset, trained, kind))


def _among(index: int, runs: Sequence[Sequence[int]]) -> bool:
    return any(first <= index <= last for first, last in runs)
