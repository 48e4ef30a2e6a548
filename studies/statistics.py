"""How the closed-loop study counts: pure functions of numbers, which know neither files nor rows.

The seed is the unit. `Interval.of` and `paired` are the paired t test over seeds, `holm` corrects for the number of
tests, `smallest_seen` says which true difference such a test would have found with 80 % power, by the noncentral t.

Two finer models of the same runs take differences of two rows d [S, T] of S seeds and T tasks, with the mean squares of
seeds, tasks and what is left: `TaskModels.these` holds the tasks fixed and pools the variance between seeds over tasks,
`TaskModels.any` draws tasks as well as seeds, with Satterthwaite's degrees of freedom. The first takes seeds to have no
effect on all tasks at once; where their mean square is `ratio` times what is left, `widened` allows for it. `blocks`
takes the error of a difference from all rows of a regime.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import optimize, stats

from lattok.evaluation.rollout_tests import holm as holm

LEVEL = 0.05
POWER = 0.8
LEAST = 3  # seeds of an interval: two may agree by chance

Key = TypeVar("Key", bound=Hashable)


class Interval(NamedTuple):
    """A mean over seeds, with the half width of its 95 % t interval and the p value of 0."""

    mean: float
    half: float
    p: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the mean of values that are one for each seed; fewer than three give no interval."""
        x = np.asarray(values, dtype=float)
        if len(x) < LEAST:
            return cls(float(x.mean()), math.nan, math.nan, len(x))
        return cls.by_error(x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x) - 1, len(x))

    @classmethod
    def by_error(cls, mean: float, error: float, freedom: float, seeds: int) -> "Interval":
        """Return the interval of a mean with a standard error of so many degrees of freedom."""
        p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
        return cls(float(mean), float(error * stats.t.ppf(1 - LEVEL / 2, freedom)), p, seeds)

    def text(self, signed: bool = False) -> str:
        """Return it as a cell of a table."""
        mean = f"{self.mean:+.3f}" if signed else f"{self.mean:.3f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.3f}"


def correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation of pairs of numbers."""
    found: Any = stats.spearmanr(x, y)
    return float(found.statistic)


def paired(runs: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return the differences of runs with the same seed, in the order of the seeds."""
    return [runs[seed] - others[seed] for seed in sorted(runs.keys() & others.keys())]


class Corrected(NamedTuple):
    """A p value after Holm's correction, and the number of tests that it was corrected for."""

    p: float
    tests: int


def by_family(values: Mapping[Key, float], family: Callable[[Key], Any]) -> dict[Key, Corrected]:
    """Correct p values within each family; those that are not known (nan) are no tests."""
    known = {name: p for name, p in values.items() if not math.isnan(p)}
    found: dict[Key, Corrected] = {}
    for kind in {family(name) for name in known}:
        members = {name: p for name, p in known.items() if family(name) == kind}
        found |= {name: Corrected(p, len(members)) for name, p in holm(members).items()}
    return found


def smallest_seen(half: float, seeds: int, tests: int = 1, power: float = POWER) -> float:
    """Return the true difference that is called one with this power, where intervals have this half width.

    `tests` > 1: at the level of Holm's first step. The standard error is taken for the true one; a difference that is
    called the other way round does not count.
    """
    freedom = seeds - 1
    bound = stats.t.ppf(1 - LEVEL / tests / 2, freedom)
    with np.errstate(divide="ignore"):  # old scipy at a shift of 0
        shift: Any = optimize.brentq(lambda shift: stats.nct.sf(bound, freedom, shift) - power, 0, 10 * bound)
    return float(shift * half / stats.t.ppf(1 - LEVEL / 2, freedom))


class TaskModels(NamedTuple):
    """What differences by seed and task say, if the tasks are all there is, and if they stand for others."""

    these: Interval
    any: Interval
    seeds_f: float  # mean square of seeds over what is left: near 1 where seeds do nothing to all tasks at once
    seeds_p: float
    tasks_f: float
    tasks_p: float  # that tasks do not differ in what they gain

    @classmethod
    def of(cls, differences: np.ndarray) -> "TaskModels":
        """Take differences [S, T]."""
        d = np.asarray(differences, dtype=float)
        seeds, tasks = d.shape
        mean, of_seeds, of_tasks = d.mean(), d.mean(1, keepdims=True), d.mean(0, keepdims=True)
        left, left_freedom = d - of_seeds - of_tasks + mean, (seeds - 1) * (tasks - 1)
        by_seed, by_task = tasks * of_seeds.var(ddof=1), seeds * of_tasks.var(ddof=1)  # mean squares
        by_left = (left**2).sum() / left_freedom
        within = d.var(0, ddof=1).mean()  # between seeds, pooled over tasks
        these = Interval.by_error(mean, math.sqrt(within / d.size), tasks * (seeds - 1), seeds)
        both = max(by_seed + by_task - by_left, by_left)  # variances are not negative
        parts = by_seed**2 / (seeds - 1) + by_task**2 / (tasks - 1) + by_left**2 / left_freedom
        general = Interval.by_error(mean, math.sqrt(both / d.size), both**2 / parts if parts else 1, seeds)
        f_seeds, f_tasks = (each / by_left if by_left else math.nan for each in (by_seed, by_task))
        p_seeds, p_tasks = stats.f.sf(f_seeds, seeds - 1, left_freedom), stats.f.sf(f_tasks, tasks - 1, left_freedom)
        return cls(these, general, float(f_seeds), float(p_seeds), float(f_tasks), float(p_tasks))


def widened(interval: Interval, freedom: int, ratio: float) -> Interval:
    """Return an interval of so many degrees of freedom with `ratio` times its variance; never a narrower one."""
    error = interval.half / float(stats.t.ppf(1 - LEVEL / 2, freedom))
    return Interval.by_error(interval.mean, error * math.sqrt(max(1.0, ratio)), freedom, interval.seeds)


def blocks(rows: np.ndarray) -> tuple[float, int]:
    """Return the standard error of a difference of two of `rows` [R, S], seeds being blocks, and its freedom."""
    x = np.asarray(rows, dtype=float)
    left = x - x.mean(0, keepdims=True) - x.mean(1, keepdims=True) + x.mean()
    freedom = (x.shape[0] - 1) * (x.shape[1] - 1)
    return math.sqrt(2 * (left**2).sum() / freedom / x.shape[1]), freedom


def mcnemar(alone: int, other: int) -> float:
    """Return the exact p value that of the cases which one of two has won alone, each has won as many."""
    return float(stats.binomtest(alone, alone + other).pvalue) if alone + other else 1.0
