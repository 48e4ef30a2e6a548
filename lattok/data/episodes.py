"""Choosing episodes: explicit lists, ranges, the split by task, and shares of the demonstrations of every task."""

import math
import operator
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from lattok.data.copies import copies_text, first_of_copies
from lattok.data.instructions import task_group
from lattok.data.many import sample_of
from lattok.data.schema import Damage, RobotDataset
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.runs import as_episodes, index_runs
from lattok.utils.seeds import derive_seed

EpisodeSpec = str | Sequence[int] | None
FEW_HELD_OUT = 5  # episodes: fewer say little of any model
LEAST_EPISODES = 4  # of which two can judge
MORE = "record more, or cut the video: two of one task, or four in all"  # where none can be held out
EMPTY = "A range ends before its second number: 3:5 is 3 and 4."
SHOWN = 4  # numbers of episodes in a sentence
BISECT_COST = 32  # a bisection costs about as much as this many episodes in a pass


class _Splits(NamedTuple):
    """Splits of an open dataset, of which training asks several times."""

    episodes: Sequence[Episode]
    own: tuple[int, ...]  # that the files hold out
    by_count: dict[int | None, tuple[list[int], list[int]]]


_splits: "WeakKeyDictionary[RobotDataset, _Splits]" = WeakKeyDictionary()
_RANGE = re.compile(r"(\d*):(\d*)|(\d+)")
_SHARE = re.compile(r"(?:(\d{1,3}(?:\.\d{1,9})?) ?%|(\d{1,9}) per task)(?: seed (\d{1,9}))?")


def split_by_task(dataset: RobotDataset, held_out: int | None = None) -> tuple[list[int], list[int]]:
    """Episode indices for training and testing: the last `held_out` episodes of every task are the test.

    A task with no more than `held_out` episodes stays in training as a whole. By default the episodes that the files
    hold out themselves (`dataset.held_out`) are the test, else the last one of every task is held out. If these are
    fewer than five, a tenth of all episodes is: at least five, at most ten or a third of them (two of four or five),
    from the end of each task in turn, then from the end of the dataset. If the `action` of one of these was not
    measured (NaN, or inferred according to a `.filled` column), as many measured ones are held out instead if there
    are four: known actions are rare then, and most are needed for training. Equal episodes (`copies_of`)
    count as one, the first, and stay on its side.
    """
    if held_out is not None:
        checks.counts(held_out=held_out)
    known = _splits.get(dataset)
    if known is None or known.episodes is not dataset.episodes or known.own != dataset.held_out:
        known = _splits[dataset] = _Splits(dataset.episodes, dataset.held_out, {})
    if held_out not in known.by_count:
        known.by_count[held_out] = _split(dataset, held_out)
    train, test = known.by_count[held_out]
    return [*train], [*test]


def _split(dataset: RobotDataset, held_out: int | None) -> tuple[list[int], list[int]]:
    first = first_of_copies(dataset)
    episodes = [episode for episode in dataset.episodes if first.get(episode.index, episode.index) == episode.index]
    own = {episode.index for episode in episodes}.intersection(dataset.held_out)
    test = own if held_out is None and 0 < len(own) < len(episodes) else _last_of_tasks(episodes, held_out)
    marks = [name for name in dataset.features if name.endswith(".filled")]
    if unmeasured(dataset, "action", test, marks):
        unknown = unmeasured(dataset, "action", {episode.index for episode in dataset.episodes}, marks)
        measured = [episode for episode in episodes if episode.index not in unknown]
        test = (_last_in_turn(measured) if held_out is None else _last_of_tasks(measured, held_out)) or test
    test.update(index for index, leader in first.items() if leader in test)
    return [e.index for e in dataset.episodes if e.index not in test], sorted(test)


def _last_of_tasks(episodes: Sequence[Episode], held_out: int | None) -> set[int]:
    test = {i for group in _by_task(episodes) if len(group) > (held_out or 1) for i in group[-(held_out or 1) :]}
    return test | _last_in_turn(episodes) if held_out is None and len(test) < FEW_HELD_OUT else test


def _last_in_turn(episodes: Sequence[Episode]) -> set[int]:
    if (count := len(episodes)) < LEAST_EPISODES:
        return set()
    groups = _by_task(episodes)
    turn = {i: (place == len(group), place, -i) for group in groups for place, i in enumerate(group[::-1], 1)}
    most = min(10, max(FEW_HELD_OUT, math.ceil(count / 10)), max(2, count // 3))
    return {*sorted(turn, key=turn.__getitem__)[:most]}


def unmeasured(dataset: RobotDataset, key: str, indices: Collection[int], marks: Sequence[str] = ()) -> set[int]:
    """Find episodes whose column `key` is NaN throughout, or in which one of the columns `marks` says it was filled."""
    return set(unmeasured_in_turn(dataset, key, indices, marks))


def unmeasured_in_turn(
    dataset: RobotDataset, key: str, indices: Collection[int], marks: Sequence[str] = ()
) -> Iterator[int]:
    """Yield the same episodes as they are found: those who want one need not read all. None where a sample that speaks
    for all (see `many`) has none."""
    chosen = [episode for episode in dataset.episodes if episode.index in indices] if key in dataset.features else []
    sample = sample_of(dataset, chosen)
    if len(sample) < len(chosen) and not unmeasured(dataset, key, {episode.index for episode in sample}, marks):
        return
    for index, columns in dataset.columns_of(chosen, [key, *marks], False) if chosen else ():
        if not isinstance(columns, checks.LattokError):
            values = columns[key]
            if (values.dtype.kind == "f" and np.isnan(values).all()) or any(columns[mark].any() for mark in marks):
                yield index


def none_known(
    dataset: RobotDataset, key: str, chosen: Collection[int] = (), acting: EpisodeSpec = None
) -> tuple[str, str]:
    """Say that episodes have no known actions, and which have some, for an error: of `chosen` ones, among which
    `acting` named some, or of those that are not held out, before others."""
    every = [episode.index for episode in dataset.episodes]
    known = {*every} - unmeasured(dataset, key, every)
    if not known:
        return f"NaN in all of {dataset.name}", "Record some, or label them with a latent action model (image-lam)."
    if acting is not None and (inside := known.intersection(chosen)):
        option, found = "action_episodes", inside
    else:
        option, found = "episodes", known.intersection(split_by_task(dataset)[0]) or known
    return "NaN in all of these", f"It is known elsewhere: {option}={as_episodes(index_runs(sorted(found)))}."


def any_unmeasured(dataset: RobotDataset, key: str) -> bool:
    """Return whether there is an episode whose column `key` is unknown, or no such column."""
    every = {episode.index for episode in dataset.episodes}
    return key not in dataset.features or next(unmeasured_in_turn(dataset, key, every), None) is not None


def split_text(dataset: RobotDataset) -> str:
    """Return which episodes are for evaluation and which for training, unless others are asked for."""
    every = checks.counted(len(dataset.episodes), "episode")
    if not (test := split_by_task(dataset)[1]):
        return f"0 of {every} for evaluation, all for training; better: {MORE}"
    enough = 3 * FEW_HELD_OUT  # of these so many are held out, unless their actions are unknown
    noun = "episodes with known actions" if len(dataset.episodes) >= enough and not dataset.held_out else "episodes"
    more = f"record {enough} {noun} or more, of which {FEW_HELD_OUT} are held out"
    whose = ", as the files say" if dataset.held_out and {*test} == {*dataset.held_out} else ""
    if whose and len(dataset.episodes) >= enough:  # there are enough
        more = split_otherwise([episode.index for episode in dataset.episodes])
    few = f"; too few for intervals: {more}" if len(test) < FEW_HELD_OUT else ""
    return f"{len(test)} of {every} for evaluation ({checks.few_of(test, SHOWN)}){whose}, the others for training{few}"


def split_otherwise(known: Sequence[int]) -> str:
    """Say which of many known episodes to train on and to evaluate on, where files hold out too few."""
    cut = known[-FEW_HELD_OUT]
    return f"choose others (`episodes`), such as {known[0]}:{cut} to train and {cut}: to evaluate"


def _by_task(episodes: Iterable[Episode]) -> Iterable[list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for episode in episodes:
        found.setdefault(task_group(episode), []).append(episode.index)
    return found.values()


def select_episodes(
    dataset: RobotDataset,
    spec: EpisodeSpec = None,
    skip_damaged: bool = False,
    drawn_from: Collection[int] | None = None,
    argument: str = "episodes",
) -> list[Episode]:
    """Episodes named by `spec`, in the dataset's order. `argument` is what errors call it.

    `None` is all of them, "train" and "test" the halves of `split_by_task`, "0:40" a range (end excluded), "0,3,5:9" a
    list of numbers and ranges, a sequence of integers itself. "10%" and "5 per task" are drawn from the training
    episodes of every task, with `drawn_from` from those of them, so that a smaller share is part of a larger one; "10%
    seed 3" is another draw. Equal episodes count as one there, and come together. A range beyond the last episode is an
    error. Ranges skip damaged episodes; naming one is an error unless `skip_damaged`.
    """
    if spec is None:
        return list(dataset.episodes)
    numbers, ranges = _choice(dataset, spec, drawn_from, argument)
    wanted = numbers | _in_ranges(dataset, ranges, spec, argument)
    found = _find(dataset.episodes, sorted(wanted))
    missing = sorted(wanted - {episode.index for episode in found})
    damaged = {} if wanted and not missing else dict(damaged_among(dataset, spec))
    for index in missing or damaged:
        if index not in damaged:
            first, last = dataset.episodes[0].index, dataset.episodes[-1].index
            checks.fail(argument, f"indices from {first} to {last}", str(index))
        if not skip_damaged:
            checks.fail(argument, "episodes that can be read", str(index), damaged[index])
    if not wanted and not damaged:
        equal = f"{copies}; " if spec == "test" and (copies := copies_text(dataset)) else ""
        hint = f"None can be held out: {equal}{MORE}." if spec == "test" else EMPTY if ranges else ""
        checks.fail(argument, "a choice of at least one episode", repr(spec), hint)
    return found


def select_acting(dataset: RobotDataset, spec: EpisodeSpec, key: str | None) -> set[int]:
    """Return the episodes that `action_episodes` names; shares of tasks are drawn from those whose `key` is known."""
    known = None
    if isinstance(spec, str) and _SHARE.fullmatch(spec.strip()) and key in dataset.features:
        train = {*split_by_task(dataset)[0]}
        known = (train - unmeasured(dataset, key, train)) or None  # then whoever reads them says which are known
    return {each.index for each in select_episodes(dataset, spec, drawn_from=known, argument="action_episodes")}


def damaged_among(dataset: RobotDataset, spec: EpisodeSpec = None) -> list[Damage]:
    """Damaged episodes that `spec` covers, by number or by range; all by default."""
    if spec is None or not dataset.damaged:
        return list(dataset.damaged)
    numbers, ranges = _choice(dataset, spec)
    numbers.update(d.episode_index for d in dataset.damaged for a, b in ranges if a <= d.episode_index < b)
    return [damage for damage in dataset.damaged if damage.episode_index in numbers]


def _find(episodes: Sequence[Episode], wanted: list[int]) -> list[Episode]:
    """Bisect where a few of perhaps a million are wanted, as for a unit of work; else go through all."""
    if len(wanted) * BISECT_COST > len(episodes):
        chosen = set(wanted)
        return [episode for episode in episodes if episode.index in chosen]
    rows = (bisect_left(episodes, index, key=lambda episode: episode.index) for index in wanted)
    nearest = [episodes[min(row, len(episodes) - 1)] for row in rows]
    return [episode for index, episode in zip(wanted, nearest, strict=True) if episode.index == index]


def _choice(
    dataset: RobotDataset,
    spec: str | Sequence[int],
    drawn_from: Collection[int] | None = None,
    argument: str = "episodes",
) -> tuple[set[int], list[tuple[int, float]]]:
    """Return episodes by number, and ranges [first, end) of those that there are."""
    if not isinstance(spec, str | Iterable):
        checks.fail(argument, f'their numbers, such as [{spec}], or "{spec} per task"', repr(spec))
    if not isinstance(spec, str):
        return {_whole(value, argument) for value in spec}, []
    if spec.strip() in ("train", "test"):
        return set(split_by_task(dataset)[spec.strip() == "test"]), []
    share = _SHARE.fullmatch(spec.strip())
    numbers, ranges = set[int](), list[tuple[int, float]]()
    if share is not None and 0 < float(share[1] or 1) <= 100 and int(share[2] or 1):
        percent, count, seed = share.groups()
        first = first_of_copies(dataset)
        train = {index for index in split_by_task(dataset)[0] if first.get(index, index) == index}
        train = train if drawn_from is None else train.intersection(drawn_from)
        for group in _by_task(episode for episode in dataset.episodes if episode.index in train):
            most = int(count or 0) or max(1, round(Fraction(percent or 0) / 100 * len(group)))
            # in an order that follows from the seed: those of less are in more
            numbers.update(sorted(group, key=lambda index: derive_seed(int(seed or 0), index))[:most])
        return numbers | {index for index, leader in first.items() if leader in numbers}, ranges
    for part in spec.split(","):
        if (match := _RANGE.fullmatch(part.strip())) is None:
            expected = '"train", "test", "10%", "5 per task", numbers or ranges such as "0:40" or "0,3,5:9"'
            checks.fail(argument, expected, repr(spec))
        first, end, single = match.groups()
        if single:
            numbers.add(int(single))
        else:
            ranges.append((int(first or 0), int(end) if end else math.inf))
    return numbers, ranges


def _in_ranges(
    dataset: RobotDataset, ranges: list[tuple[int, float]], spec: str | Sequence[int], argument: str
) -> set[int]:
    """List the episodes in the ranges, which begin and end among the episodes, damaged ones included."""
    if not ranges:
        return set()
    known = [episode.index for episode in dataset.episodes]
    end = 1 + max([*known[-1:], *(damage.episode_index for damage in dataset.damaged)], default=-1)
    found: set[int] = set()
    for first, last in ranges:
        if first >= end or (last > end and last != math.inf):
            hint = f'All of them are "0:{end}", or "0:".'
            checks.fail(argument, f"ranges among the {checks.counted(end, 'episode')} of the dataset", repr(spec), hint)
        found.update(known[bisect_left(known, first) : bisect_left(known, last)])
    return found


def check_horizon(horizon: int, episodes: Iterable[Episode]) -> None:
    """A chunk to learn from is whole in at least one of the episodes: what lies beyond their ends is only padding."""
    longest = max((episode.length for episode in episodes), default=0)
    if horizon > longest:
        hint = "Beyond the end of an episode there is nothing to learn from."
        checks.fail(
            "horizon", f"at most the {checks.counted(longest, 'step')} of the longest chosen episode", horizon, hint
        )


def _whole(value: Any, argument: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        checks.fail(argument, "whole numbers", repr(value))


def missing_films(dataset: RobotDataset, indices: Iterable[int], cameras: Sequence[str]) -> dict[int, Path]:
    """Return the episodes of which a video file is not there, with the first such file. Those of the Hub can be."""
    found = dict[int, Path]()
    videos = [key for key in cameras if key in dataset.features and dataset.features[key].dtype == "video"]
    for index in indices if dataset.files.commit is None else ():
        spans = (dataset.video_span(index, key) for key in videos)
        if (path := next((span[0] for span in spans if span and not span[0].is_file()), None)) is not None:
            found[index] = path
    return found


def check_stride(stride: int, lengths: np.ndarray, fps: float, name: str = "stride", fixed: bool = False) -> None:
    """The stride must leave at least half of the frames with a partner in their episode; a model's own is `fixed`."""
    if not checks.is_int(stride) or stride < 1:
        checks.fail(name, "a whole number of frames of at least 1", repr(stride))
    total = int(lengths.sum())

    def pairs(gap: int) -> int:
        return int(np.maximum(lengths - min(gap, total), 0).sum())

    if 2 * pairs(stride) < total:
        usable = bisect_left(range(1, min(stride, total)), True, key=lambda gap: 2 * pairs(gap) < total)
        largest = f"The largest usable gap is {usable} ({usable / fps:.3g} s)."
        shorter = f" Take one, such as stride={min(usable, max(1, round(fps / 5)))}."
        largest += shorter if name == "stride" and not fixed else ""
        hint = largest if usable else "The episodes are too short for pairs."
        got = f"{checks.counted(stride, 'frame')} ({stride / fps:.3g} s), which leaves {pairs(stride)} of {total}"
        checks.fail(name, "a gap that leaves at least half of the frames with a partner in their episode", got, hint)


def check_strides_in(dataset: RobotDataset, episodes: str, strides: Iterable[int], name: str = "stride") -> None:
    """Do what `check_stride` does for each of `strides`, in these episodes of a dataset."""
    lengths = np.array([episode.length for episode in select_episodes(dataset, episodes)], dtype=np.int64)
    for stride in strides:
        check_stride(stride, lengths, dataset.fps, name)
