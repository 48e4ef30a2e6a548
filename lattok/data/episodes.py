"""Choosing episodes: explicit lists, ranges, and the split by task."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from lattok import checks
from lattok.data.schema import RobotDataset
from lattok.types import Episode

FEW = 32  # a bisection costs about as much as this many episodes in a pass
_RANGE = re.compile(r"(\d*):(\d*)|(\d+)")


def split_by_task(dataset: RobotDataset, held_out: int = 1) -> tuple[list[int], list[int]]:
    """Episode indices for training and testing: the last `held_out` episodes of every task are the test.

    A task with no more than `held_out` episodes stays in training as a whole.
    """
    if isinstance(held_out, bool) or not isinstance(held_out, int) or held_out < 1:
        checks.fail("held_out", "a whole number of at least 1", repr(held_out))
    by_task: dict[tuple[str, ...], list[int]] = {}
    for episode in dataset.episodes:
        by_task.setdefault(episode.tasks, []).append(episode.index)
    test = {index for group in by_task.values() if len(group) > held_out for index in group[-held_out:]}
    return [e.index for e in dataset.episodes if e.index not in test], sorted(test)


def select_episodes(dataset: RobotDataset, spec: str | Sequence[int] | None = None) -> list[Episode]:
    """Episodes named by `spec`, in the dataset's order.

    `None` is all of them, "train" and "test" the halves of `split_by_task`, "0:40" a range (end excluded),
    "0,3,5:9" a list of numbers and ranges, a sequence of integers itself.
    """
    if spec is None:
        return list(dataset.episodes)
    wanted = _parse(dataset, spec.strip()) if isinstance(spec, str) else {_whole(value) for value in spec}
    if not wanted:
        hint = "No task has an episode to spare: name some, here and in training, such as 0:40 and 40:50."
        checks.fail("episodes", "a choice of at least one episode", repr(spec), hint if spec == "test" else "")
    found = _find(dataset.episodes, sorted(wanted))
    unknown = sorted(wanted - {episode.index for episode in found})
    if unknown:
        first, last = dataset.episodes[0].index, dataset.episodes[-1].index
        checks.fail("episodes", f"indices from {first} to {last}", str(unknown[0]))
    return found


def _find(episodes: Sequence[Episode], wanted: list[int]) -> list[Episode]:
    """By bisection where a few of perhaps a million are wanted, as for a unit of work; else in one pass."""
    if len(wanted) * FEW > len(episodes):
        chosen = set(wanted)
        return [episode for episode in episodes if episode.index in chosen]
    rows = (bisect_left(episodes, index, key=lambda episode: episode.index) for index in wanted)
    nearest = [episodes[min(row, len(episodes) - 1)] for row in rows]
    return [episode for index, episode in zip(wanted, nearest, strict=True) if episode.index == index]


def _parse(dataset: RobotDataset, spec: str) -> set[int]:
    if spec in ("train", "test"):
        return set(split_by_task(dataset)[spec == "test"])
    wanted: set[int] = set()
    known = [episode.index for episode in dataset.episodes]
    for part in spec.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            checks.fail("episodes", '"train", "test", numbers or ranges such as "0:40" or "0,3,5:9"', repr(spec))
        first, last, single = match.groups()
        if single:
            wanted.add(int(single))
        else:
            # a range is cut at the last episode, as a slice is; a start beyond the end selects nothing
            low, high = int(first or 0), int(last) if last else known[-1] + 1
            wanted.update(known[bisect_left(known, low) : bisect_left(known, high)])
    return wanted


def _whole(value: object) -> int:
    try:
        return int(value.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        checks.fail("episodes", "whole numbers", repr(value))
