"""Runs of consecutive whole numbers, such as the episodes that a model was trained on."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby


def index_runs(indices: Iterable[int]) -> list[list[int]]:
    """Return the first and last index of every run of consecutive ones."""
    runs = groupby(enumerate(indices), lambda placed: placed[1] - placed[0])  # which stays the same within one
    found = [[index for _, index in run] for _, run in runs]
    return [[run[0], run[-1]] for run in found]


def as_episodes(runs: Iterable[Sequence[int]]) -> str:
    """Return what is typed for episodes: "0,3:19" for runs [[0, 0], [3, 18]]."""
    return ",".join(f"{first}" if first == last else f"{first}:{last + 1}" for first, last in runs)


def run_of(index: int, runs: Sequence[Sequence[int]]) -> int | None:
    """Find which of `index_runs` an index is in, if any."""
    place = bisect_right(runs, index, key=lambda run: run[0]) - 1
    return place if place >= 0 and index <= runs[place][1] else None
