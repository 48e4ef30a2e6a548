"""The sums of the closed-loop study, against scipy's tests, least squares, integrals, brute force and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from studies.statistics import (
    Corrected,
    Interval,
    TaskModels,
    blocks,
    by_family,
    holm,
    mcnemar,
    paired,
    smallest_seen,
    widened,
)


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_an_interval_is_that_of_students_t(count):
    x = np.random.default_rng(count).normal(0.3, 1, count)
    expected = stats.ttest_1samp(x, 0)
    low, high = expected.confidence_interval(0.95)
    found = Interval.of(x.tolist())
    assert found.seeds == count
    assert found[:3] == pytest.approx((x.mean(), (high - low) / 2, expected.pvalue))
    assert Interval.of((-x).tolist()).p == pytest.approx(expected.pvalue)


def test_fewer_than_three_seeds_give_no_interval_and_equal_ones_no_doubt():
    two, same, nothing = Interval.of([0.2, 0.4]), Interval.of([0.25] * 4), Interval.of([0.0] * 3)
    assert two.mean == pytest.approx(0.3)
    assert two.seeds == 2
    assert math.isnan(two.half)
    assert math.isnan(two.p)
    assert same == (0.25, 0.0, 0.0, 4)
    assert nothing == (0.0, 0.0, 1.0, 3)
    assert (two.text(), two.text(signed=True)) == ("0.300", "+0.300")
    assert Interval(-0.0251, 0.0512, 0.1, 5).text(signed=True) == "-0.025 ± 0.051"
    assert Interval(0.8519, 0.0512, 0.1, 5).text() == "0.852 ± 0.051"


def test_runs_are_paired_by_their_seed():
    assert paired({3: 1.0, 0: 5.0, 7: 9.0}, {7: 2.0, 1: 100.0, 3: 0.5}) == [0.5, 7.0]
    assert paired({0: 1.0}, {1: 1.0}) == []


def test_holm_is_the_closure_of_bonferroni():
    """A hypothesis falls at a level if every intersection that has it falls by Bonferroni at that level."""
    random = np.random.default_rng(0)
    cases = [
        *(random.uniform(0, 0.4, size) ** 2 for size in (1, 2, 3, 5, 6)),
        np.array([0.01, 0.01, 0.3, 0.011, 0.9]),
        np.array([0.6, 0.9]),
    ]
    for p in cases:
        subsets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
        expected = [max(min(1, len(s) * p[list(s)].min()) for s in subsets if i in s) for i in range(len(p))]
        found = holm(dict(enumerate(p.tolist())))
        assert [found[i] for i in range(len(p))] == pytest.approx(expected)
    assert holm({}) == {}


def test_families_are_corrected_apart_and_what_is_not_known_is_no_test():
    p = {"a": 0.01, "b": 0.04, "B": 0.03, "c": math.nan, "A": 0.02, "C": 0.5, "D": math.nan, "1": 0.04}
    found = by_family(p, lambda name: (name.isupper(), name.isdigit()))
    expected = {"a": (0.02, 2), "b": (0.04, 2), "A": (0.06, 3), "B": (0.06, 3), "C": (0.5, 3), "1": (0.04, 1)}
    assert found.keys() == expected.keys()
    assert {name: tested.tests for name, tested in found.items()} == {n: tests for n, (_, tests) in expected.items()}
    assert [found[name].p for name in expected] == pytest.approx([p for p, _ in expected.values()])
    assert isinstance(found["a"], Corrected)


def power(shift: float, freedom: int, level: float) -> float:
    """P(T > bound) of a shifted normal over the root of a chi square, by its integral."""
    bound = stats.t.isf(level / 2, freedom)

    def above(u: float) -> float:
        return stats.chi2.pdf(u, freedom) * stats.norm.sf(bound * math.sqrt(u / freedom) - shift)

    return integrate.quad(above, 0, np.inf)[0]


@pytest.mark.parametrize(
    ("seeds", "tests", "wanted"), [(5, 1, 0.8), (5, 5, 0.8), (4, 4, 0.8), (3, 1, 0.8), (9, 2, 0.5)]
)
def test_the_smallest_difference_seen_has_that_power(seeds, tests, wanted):
    half = 0.07
    error = half / stats.t.isf(0.025, seeds - 1)
    seen = smallest_seen(half, seeds, tests, power=wanted)
    assert power(seen / error, seeds - 1, 0.05 / tests) == pytest.approx(wanted, abs=1e-6)


def test_eighty_percent_of_studies_see_the_smallest_difference_and_half_that_of_one_half_width():
    """By simulated studies of five seeds: 1.35 half widths alone, 2.1 as the first of five tests; one is not enough."""
    random, half = np.random.default_rng(0), 1.0
    error = half / stats.t.isf(0.025, 4)
    noise = random.normal(0, error * math.sqrt(5), (20_000, 5))
    for tests in (1, 5):
        seen = smallest_seen(half, 5, tests) if tests > 1 else smallest_seen(half, 5)
        assert seen == pytest.approx({1: 1.355, 5: 2.117}[tests], abs=2e-3)
        found = stats.ttest_1samp(noise + seen, 0, axis=1)
        assert ((found.pvalue < 0.05 / tests) & (found.statistic > 0)).mean() == pytest.approx(0.8, abs=0.01)
    assert (stats.ttest_1samp(noise + half, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.56, abs=0.01)


def rss(d: np.ndarray, *effects: str) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of a linear model, by least squares on dummies."""
    seeds, tasks = d.shape
    s, t = (index.ravel() for index in np.indices(d.shape))
    columns = [np.ones(d.size)]
    columns += [(s == i).astype(float) for i in range(1, seeds)] if "seeds" in effects else []
    columns += [(t == i).astype(float) for i in range(1, tasks)] if "tasks" in effects else []
    x = np.stack(columns, 1)
    return float(((d.ravel() - x @ np.linalg.lstsq(x, d.ravel(), rcond=None)[0]) ** 2).sum()), d.size - x.shape[1]


def gains(seeds: int, tasks: int, of_seeds: float, of_tasks: float, number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    parts = random.normal(0, of_seeds, (seeds, 1)), random.normal(0, of_tasks, (1, tasks))
    return 0.07 + parts[0] + parts[1] + random.normal(0, 0.1, (seeds, tasks))


@pytest.mark.parametrize(("seeds", "tasks", "number"), [(5, 8, 0), (4, 8, 1), (3, 2, 2)])
def test_models_of_tasks_are_those_of_least_squares(seeds, tasks, number):
    d = gains(seeds, tasks, 0.05, 0.2, number)
    found = TaskModels.of(d)
    (both, free), (no_seeds, task_free), (no_tasks, seed_free) = (
        rss(d, "seeds", "tasks"),
        rss(d, "tasks"),
        rss(d, "seeds"),
    )
    # tasks fixed: the mean of task means, with the error of the model that has them alone
    error = math.sqrt(no_seeds / task_free / d.size)
    low, high = stats.t.interval(0.95, task_free, d.mean(), error)
    p = 2 * stats.t.sf(d.mean() / error, task_free)
    assert found.these == pytest.approx((d.mean(), (high - low) / 2, p, seeds))
    # each factor by what leaving it out costs
    left = both / free
    square_seeds, square_tasks = (no_seeds - both) / (task_free - free), (no_tasks - both) / (seed_free - free)
    f = square_seeds / left, square_tasks / left
    p = stats.f.sf(f[0], seeds - 1, free), stats.f.sf(f[1], tasks - 1, free)
    assert found[2:] == pytest.approx((f[0], p[0], f[1], p[1]))
    # both random: Var(mean) = seeds / S + tasks / T + rest / ST, of variance components
    parts = (square_seeds - left) / tasks, (square_tasks - left) / seeds, left
    error = math.sqrt(parts[0] / seeds + parts[1] / tasks + parts[2] / d.size)
    squares = {square_seeds: seeds - 1, square_tasks: tasks - 1, left: free}
    freedom = (error**2 * d.size) ** 2 / sum(square**2 / each for square, each in squares.items())
    low, high = stats.t.interval(0.95, freedom, d.mean(), error)
    assert square_seeds + square_tasks > 2 * left  # so that no variance is cut at 0
    p = 2 * stats.t.sf(abs(d.mean()) / error, freedom)
    assert found.any == pytest.approx((d.mean(), (high - low) / 2, p, seeds))


def test_tasks_in_general_are_covered_where_both_are_drawn_and_seeds_do_not_count_below_nothing():
    covered, held = [], []
    for number in range(300):
        d = gains(5, 8, 0.05, 0.15, number)
        found = TaskModels.of(d)
        covered.append(abs(found.any.mean - 0.07) < found.any.half)
        held.append(abs(found.these.mean - 0.07) < found.these.half)
    assert 0.91 < np.mean(covered) <= 1
    assert np.mean(held) < 0.85  # which the tasks alone do not claim
    d = np.array([[1.0, -1, 0], [-1, 1, 0], [0.5, -0.5, 0], [-0.5, 0.5, 0]]) + 0.3  # no effect of seeds or tasks at all
    squares = (d - 0.3) ** 2
    found = TaskModels.of(d)
    assert found.seeds_f == pytest.approx(0, abs=1e-12)
    assert found.tasks_f == pytest.approx(0, abs=1e-12)
    assert found.any.half == pytest.approx(stats.t.isf(0.025, 6) * math.sqrt(squares.sum() / 6 / 12))


def test_rows_that_do_not_differ_have_no_f():
    found = TaskModels.of(np.zeros((4, 8)))
    assert found.these == found.any == (0.0, 0.0, 1.0, 4)
    assert math.isnan(found.seeds_f)
    assert math.isnan(found.tasks_p)


def test_a_widened_interval_has_so_many_times_the_variance():
    interval = TaskModels.of(gains(5, 8, 0, 0.1, 3)).these
    error = interval.half / stats.t.isf(0.025, 32)
    found = widened(interval, 32, 1.44)
    assert found.half == pytest.approx(1.2 * interval.half)
    assert found.p == pytest.approx(2 * stats.t.sf(interval.mean / (1.2 * error), 32))
    assert (found.mean, found.seeds) == (interval.mean, 5)
    assert widened(interval, 32, 0.5) == pytest.approx(interval)


def test_blocks_give_the_error_of_least_squares():
    random = np.random.default_rng(4)
    rows = random.normal(0, 0.1, (4, 1)) + random.normal(0, 0.3, (1, 5)) + random.normal(0, 0.05, (4, 5))
    r, s = (index.ravel() for index in np.indices(rows.shape))
    dummies = [(r == i).astype(float) for i in range(4)] + [(s == i).astype(float) for i in range(1, 5)]
    x = np.stack(dummies, 1)
    left = rows.ravel() - x @ np.linalg.lstsq(x, rows.ravel(), rcond=None)[0]
    contrast = np.array([1.0, 0, -1, 0, 0, 0, 0, 0])
    variance = (left**2).sum() / 12 * contrast @ np.linalg.inv(x.T @ x) @ contrast
    error, freedom = blocks(rows)
    assert freedom == 12
    assert error == pytest.approx(math.sqrt(variance))
    assert blocks(rows + 3 * random.normal(size=(1, 5)))[0] == pytest.approx(error)  # what a seed does to all rows


@pytest.mark.parametrize(("alone", "other"), [(0, 0), (1, 0), (3, 3), (2, 9), (14, 5)])
def test_mcnemar_counts_coins(alone, other):
    n, k = alone + other, min(alone, other)
    two_sided = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(alone, other) == pytest.approx(min(1, two_sided))
