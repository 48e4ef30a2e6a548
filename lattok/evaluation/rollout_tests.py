"""Differences of two methods by single rollouts, with p values, intervals, and what more rollouts would show.

Every difference is the mean over tasks, each counting alike. What is drawn by chance is one of

- seeds: three or more trainings of both methods; a paired t test of their mean scores,
- starts: episode N of a task begins alike for all methods; the signs of differences are flipped,
- episodes: all else; methods are exchanged within each task.

The last two are permutation tests; their intervals hold the differences that the test does not reject. They say what
these policies do, not what policies trained again would.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple, TypeVar

import numpy as np

from lattok.evaluation import student
from lattok.evaluation.rollout_scores import Attempt
from lattok.evaluation.wording import Interval

DRAWS = 20_000  # permutations: p is at least 1 / (DRAWS + 1)
BLOCK = 4_000_000  # numbers that are permuted at once
LEVEL, POWER = 0.05, 0.8
SEEDS = 3  # trainings of each method from which on they are the unit
MOST = 10_000  # units that are asked for; of seeds a tenth
UNITS = {"seeds": "training seeds", "starts": "equal starts", "episodes": "episodes"}
Key = TypeVar("Key", bound=Hashable)
ByTask = Mapping[str, Sequence[Attempt]]
Drawn = tuple[np.ndarray, np.ndarray]  # of draws [K]: u and v, so that a true difference d makes u - v d of it


class Difference(NamedTuple):
    """What the rollouts of two methods say about their difference, in tasks that both have tried."""

    unit: str  # a key of `UNITS`
    units: float  # seeds, or rollouts of a method in a task, on average
    difference: float
    interval: Interval | None  # None: nothing varies
    p: float
    variance: float  # of the difference, times the units

    def detectable(self, tests: int, units: float | None = None) -> float:
        """Return the true difference that so many units find with 80 % power, at the level of Holm's first step."""
        units = self.units if units is None else units
        tail = 1 - LEVEL / tests / 2
        if self.unit == "seeds":
            both = student.quantile(tail, round(units) - 1) + student.quantile(POWER, round(units) - 1)
        else:
            both = NormalDist().inv_cdf(tail) + NormalDist().inv_cdf(POWER)
        return both * math.sqrt(self.variance / units)

    def more(self, difference: float, tests: int) -> int | None:
        """Return how many further units find a true difference; None for more than anybody runs, or no variance."""
        if not self.variance:
            return None
        low, high = self.units - 1, MOST / 10 if self.unit == "seeds" else float(MOST)
        if self.detectable(tests, high) > difference:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.detectable(tests, max(middle, 2)) <= difference else (middle, high)
        return max(0, math.ceil(high - self.units))


def compare(first: ByTask, second: ByTask, paired: bool, draws: np.random.Generator) -> Difference:
    """Difference two methods in the tasks of both."""
    tasks = [task for task in first if task in second]
    pairs = [(first[task], second[task]) for task in tasks]
    seeds = set.intersection(*({row.seed for row in rows} - {""} for pair in pairs for rows in pair))
    if len(seeds) >= SEEDS:
        return _of_seeds(pairs, sorted(seeds))
    if paired:
        matched = [_matched(*pair) for pair in pairs]
        if all(map(len, matched)):
            return _of_starts(matched, draws)
    return _of_episodes([tuple(np.array([row.score for row in rows]) for rows in pair) for pair in pairs], draws)


def _of_seeds(pairs: Sequence[tuple[Sequence[Attempt], Sequence[Attempt]]], seeds: Sequence[str]) -> Difference:
    def mean(rows: Sequence[Attempt], seed: str) -> float:
        return fmean(row.score for row in rows if row.seed == seed)

    differences = np.array([fmean(mean(a, seed) - mean(b, seed) for a, b in pairs) for seed in seeds])
    count, found, spread = len(seeds), float(differences.mean()), float(differences.std(ddof=1))
    if not spread:
        return Difference("seeds", count, found, None, 1.0 if not found else 0.0, 0.0)
    error = spread / math.sqrt(count)
    half = student.quantile(1 - LEVEL / 2, count - 1) * error
    p = student.beyond(found / error, count - 1)
    return Difference("seeds", count, found, (found - half, found + half), p, spread**2)


def _matched(first: Sequence[Attempt], second: Sequence[Attempt]) -> np.ndarray:
    """Return the differences of rollouts of the same episode (and seed) of a task."""
    others = {(row.episode, row.seed): row.score for row in second}
    known = [row for row in first if (row.episode, row.seed) in others]
    return np.array([row.score - others[row.episode, row.seed] for row in known])


def _of_starts(matched: Sequence[np.ndarray], draws: np.random.Generator) -> Difference:
    weights = [1 / len(matched) / len(each) for each in matched]

    def flipped(count: int) -> Drawn:
        signs = [draws.choice((-1.0, 1.0), size=(count, len(each))) for each in matched]
        u = sum(weight * sign @ each for weight, sign, each in zip(weights, signs, matched, strict=True))
        v = sum(weight * sign.sum(1) for weight, sign in zip(weights, signs, strict=True))
        return np.asarray(u), np.asarray(v)

    found = fmean(float(each.mean()) for each in matched)
    units = fmean(map(len, matched))
    variance = sum(_variance(each) / len(each) for each in matched) / len(matched) ** 2 * units
    return _by_draws("starts", units, found, variance, flipped, sum(map(len, matched)))


def _of_episodes(pairs: Sequence[tuple[np.ndarray, ...]], draws: np.random.Generator) -> Difference:
    def exchanged(count: int) -> Drawn:
        u, v = np.zeros(count), np.zeros(count)
        for a, b in pairs:
            values = np.concatenate([a, b])
            order = draws.random((count, len(values))).argsort(1)
            shares = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))]) / len(pairs)
            u += values[order] @ shares
            v += (order < len(a)) @ shares
        return u, v

    found = fmean(float(a.mean() - b.mean()) for a, b in pairs)
    units = fmean(len(each) for pair in pairs for each in pair)
    variance = sum(_variance(each) / len(each) for pair in pairs for each in pair) / len(pairs) ** 2 * units
    return _by_draws("episodes", units, found, variance, exchanged, sum(len(each) for pair in pairs for each in pair))


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _by_draws(
    unit: str, units: float, found: float, variance: float, draw: Callable[[int], Drawn], width: int
) -> Difference:
    """Difference by draws in which there is no difference, and find the differences that such tests keep."""
    size = max(1, min(DRAWS, BLOCK // width))
    parts = [draw(min(size, DRAWS - start)) for start in range(0, DRAWS, size)]
    u, v = (np.concatenate(each) for each in zip(*parts, strict=True))

    def p_of(difference: float) -> float:
        return (1 + int((np.abs(u - v * difference) >= abs(found - difference) - 1e-9).sum())) / (DRAWS + 1)

    if not np.ptp(u):  # all scores are equal
        return Difference(unit, units, found, None, 1.0, variance)
    reach = max(math.sqrt(variance / units), float(np.abs(u).max()), 1e-6)
    ends = [_edge(p_of, found, found + side * 10 * reach) for side in (-1, 1)]
    return Difference(unit, units, found, (ends[0], ends[1]), p_of(0.0), variance)


def _edge(p_of: Callable[[float], float], kept: float, rejected: float) -> float:
    """Find where the test begins to reject, between a difference that it keeps and one that it rejects."""
    if p_of(rejected) > LEVEL:  # too few rollouts to reject any
        return math.copysign(math.inf, rejected - kept)
    for _ in range(30):
        middle = (kept + rejected) / 2
        kept, rejected = (middle, rejected) if p_of(middle) > LEVEL else (kept, middle)
    return kept


def holm(values: Mapping[Key, float]) -> dict[Key, float]:
    """Correct p values for their number: the smallest counts as many times as there are, the next one time less."""
    corrected, least = dict[Key, float](), 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(values) - rank)))
        corrected[name] = least
    return corrected
