"""Ridge, MLPs, R², PCA and intervals against numpy, loops and closed forms that share no code with ours."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lattok.evaluation.evidence.probes import (
    Bootstrap,
    Fold,
    Probe,
    linear_probe,
    merge_folds,
    mlp_probe,
    one_hot,
    pca,
    score,
    validation_rows,
)
from lattok.nn.ridge import ridge_weights
from tests.errors import refused

CENTRED = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # training actions, whose mean is 0


def bootstraps(count: int) -> list[Bootstrap]:
    """Draws of so many episodes with a row each, of ten seeds."""
    return [Bootstrap(np.arange(count), seed) for seed in range(10)]


@pytest.mark.parametrize("shape", [(50, 6), (20, 40)])  # more rows than columns, and fewer
def test_ridge_equals_the_closed_form(rng: np.random.Generator, shape: tuple[int, int]):
    x, y = rng.standard_normal(shape), rng.standard_normal((shape[0], 3))
    ridges = (1e-2, 1.0)
    for ridge, got in zip(ridges, ridge_weights(torch.from_numpy(x), torch.from_numpy(y), ridges), strict=True):
        expected = np.linalg.solve(x.T @ x + ridge * shape[0] * np.eye(shape[1]), x.T @ y)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_r_squared_is_about_the_training_mean():
    actual, train = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [1.0]])
    assert float(score(torch.zeros(3, 1), actual, train).r2) == 0  # knowing the training mean is worth nothing
    assert float(score(actual, actual, train).r2) == 1
    assert float(score(torch.full((3, 1), 2.0), actual, train).r2) == pytest.approx(1 - 2 / 14)
    assert torch.isnan(score(torch.zeros(3, 1), torch.zeros(3, 1), train).r2).all()  # nothing to explain


def test_a_dimension_that_stands_all_but_still_where_it_is_judged_decides_nothing():
    """It stands .003 deviations from the training mean: a probe that is off by .1 would have R² of -1,000 there."""
    train = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    actual = torch.tensor([[1.0, 0.003], [2.0, 0.003], [3.0, 0.003]])
    found = score(actual + 0.1, actual, train).r2
    assert float(found[0]) == pytest.approx(1 - 0.03 / 14)
    assert torch.isnan(found[1])
    assert float(score(actual + 0.1, actual * torch.tensor([1, 10]), train).r2[1]) < 0  # three hundredths count


def test_predictions_that_are_no_numbers_are_refused():
    """A dimension with NaN would leave the mean, and the others would look better for it."""
    actual = torch.tensor([[1.0, 5.0], [2.0, -5.0]])
    predicted = torch.tensor([[1.0, torch.nan], [2.0, 0.0]])
    refused("predictions of the actions.*expected finite numbers, got NaN", score, predicted, actual, actual)


def test_probe_finds_a_linear_map_and_nothing_in_noise(rng: np.random.Generator):
    x, groups = torch.from_numpy(rng.standard_normal((400, 6))), np.arange(400) // 20
    weights = torch.from_numpy(rng.standard_normal((6, 2)))
    y = x @ weights * 100 + 5  # units do not matter
    found = linear_probe(x[:300], y[:300], groups[:300], x[300:], y[300:])
    assert found.r2.min() > 0.999
    torch.testing.assert_close(found.predicted, y[300:], atol=0.1, rtol=0)
    noise = torch.from_numpy(rng.standard_normal((400, 6)))
    assert linear_probe(noise[:300], y[:300], groups[:300], noise[300:], y[300:]).r2.max() < 0.1


def test_regularisation_is_chosen_on_episodes_left_out():
    groups = np.repeat([3, 5, 8, 9, 11, 12, 20, 21], 2)
    assert groups[validation_rows(groups).numpy()].tolist() == [9, 9, 21, 21]
    assert validation_rows(np.zeros(8)).tolist() == [False] * 6 + [True] * 2
    assert validation_rows(np.array([1, 2])).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(12, 5000), (40, 7)])  # Gram in blocks, covariance
def test_pca_equals_the_svd_of_numpy(rng: np.random.Generator, shape: tuple[int, int]):
    rows = rng.standard_normal(shape) * np.linspace(1, 5, shape[1]) + 3
    components = pca(torch.from_numpy(rows), 4)
    _, _, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    overlap = np.abs(np.sum(components.basis.numpy().T * axes[:4], axis=1))  # signs are free
    np.testing.assert_allclose(overlap, 1, atol=1e-8)
    expected = (rows - rows.mean(0)) @ components.basis.numpy()[:, :2]
    np.testing.assert_allclose(components.project(torch.from_numpy(rows))[:, :2].numpy(), expected, atol=1e-8)


def test_one_hot_marks_the_known_codes_of_each_position():
    known = torch.tensor([[1, 0], [60_000, 0]])
    assert one_hot(torch.tensor([[1, 0], [60_000, 7], [2, 0]]), known).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_columns_for_codes_that_no_training_row_has_would_change_nothing(rng: np.random.Generator):
    codes, y = torch.from_numpy(rng.integers(0, 6, (300, 2)) * 5), torch.from_numpy(rng.standard_normal((300, 2)))
    y[:, 0] += codes[:, 0]
    groups, (train, held_out) = np.arange(200) // 20, codes.split([200, 100])
    wide = [torch.nn.functional.one_hot(each, 40).flatten(1) for each in (train, held_out)]
    expected = linear_probe(wide[0], y[:200], groups, wide[1], y[200:])
    found = linear_probe(one_hot(train, train), y[:200], groups, one_hot(held_out, train), y[200:])
    torch.testing.assert_close(found.predicted, expected.predicted)
    assert found.ridge == expected.ridge


def test_components_of_rows_that_hardly_vary_are_finite():
    torch.manual_seed(0)
    for shape in [(300, 40), (40, 300)]:
        rows = torch.zeros(shape)
        rows[:, 0] = torch.randn(shape[0])
        rows[:, 1:] += 1e-12 * torch.randn(shape[0], shape[1] - 1)
        found = pca(rows, 8)
        assert torch.isfinite(found.basis).all()
        torch.testing.assert_close(found.project(rows)[:, 0].abs(), (rows[:, 0] - rows[:, 0].mean()).abs())


def test_draws_equal_r_squared_over_the_drawn_rows(rng: np.random.Generator):
    groups = np.array([4, 4, 4, 7, 7, 9])
    actual, predicted = torch.from_numpy(rng.standard_normal((2, 6, 2)))
    found = score(predicted, actual, CENTRED.repeat(1, 2))
    bootstrap = Bootstrap(groups, seed=0)
    draws = bootstrap.r2(found)
    for draw in (0, 1, 500):
        times = dict(zip((4, 7, 9), bootstrap.weights[draw].int().tolist(), strict=True))
        rows = [row for row, group in enumerate(groups) for _ in range(times[int(group)])]
        errors, deviations = (predicted - actual)[rows] ** 2, actual[rows] ** 2
        torch.testing.assert_close(draws[draw], 1 - errors.sum(0) / deviations.sum(0))


def test_a_single_episode_has_no_interval(rng: np.random.Generator):
    bootstrap = Bootstrap(np.zeros(5), 0)
    found = score(*torch.from_numpy(rng.standard_normal((2, 5, 1))), CENTRED)
    assert bootstrap.interval(bootstrap.r2(found)[:, 0]) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng: np.random.Generator):
    truth, covered, trials = 0.5, 0, 200  # error and action have variances 1 and 2, and an episode its own level
    for trial in range(trials):
        groups = np.repeat(np.arange(20), 10)
        level = np.repeat(np.exp(0.5 * rng.standard_normal(20)), 10)[:, None]
        actual = np.sqrt(2) * level * rng.standard_normal((200, 1))
        error = level * rng.standard_normal((200, 1))
        found = score(torch.from_numpy(actual + error), torch.from_numpy(actual), CENTRED)
        bootstrap = Bootstrap(groups, trial)
        low, high = bootstrap.interval(bootstrap.r2(found)[:, 0]) or (0.0, 0.0)
        covered += low <= truth <= high
    assert 0.86 <= covered / trials <= 0.99


@pytest.mark.parametrize("count", [5, 8, 20])
def test_the_interval_of_a_mean_over_episodes_is_students(count: int):
    """Percentiles alone hold the mean of five normal numbers in 84 % of cases."""
    values = stats.norm.ppf((np.arange(count) + 0.5) / count)  # as even as chance can be
    spans = [bootstrap.interval(bootstrap.mean(torch.from_numpy(values))) for bootstrap in bootstraps(count)]
    expected = stats.sem(values) * stats.t.ppf(0.975, count - 1)
    low, high = np.mean(spans, 0)
    assert -low == pytest.approx(expected, rel=0.06)
    assert high == pytest.approx(expected, rel=0.06)


ROWS, JUDGED = 600, 200
GROUPS = np.arange(ROWS) // 30


def both(x: Tensor, y: Tensor) -> tuple[Probe, Probe]:
    own, test, own_y, test_y = x[:ROWS], x[ROWS:], y[:ROWS], y[ROWS:]
    linear = linear_probe(own, own_y, GROUPS, test, test_y)
    return linear, mlp_probe(own, own_y, GROUPS, test, test_y, linear, seed=0)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS + JUDGED, 4, generator=torch.Generator().manual_seed(0))


def test_a_hidden_layer_reads_what_no_line_can(x: Tensor):
    linear, hidden = both(x, x[:, :1].abs() + x[:, 1:2])
    assert float(linear.r2) < 0.8
    assert float(hidden.r2) > 0.93
    torch.testing.assert_close(
        hidden.errors[:, 0], (hidden.predicted - (x[ROWS:, :1].abs() + x[ROWS:, 1:2]))[:, 0] ** 2
    )


def test_noise_and_straight_lines_are_left_to_the_linear_probe(x: Tensor):
    noise = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))
    linear, hidden = both(x, noise)
    assert float(hidden.r2) < 0.05
    linear, hidden = both(x, x[:, :2] * 3 + noise)
    torch.testing.assert_close(hidden.r2, linear.r2, atol=0.02, rtol=0)


def test_folds_put_together_are_in_the_order_of_the_rows(x: Tensor):
    """Each fold is judged on its own rows, and a fold never sees the rows that it does not train on."""
    half = torch.arange(ROWS // 2)
    folds = (Fold(half, torch.arange(0, JUDGED, 2)), Fold(half + ROWS // 2, torch.arange(1, JUDGED, 2)))

    def predicted(y: Tensor) -> Tensor:
        parts = [linear_probe(x[f], y[f], GROUPS[f.numpy()], x[ROWS:][h], y[ROWS:][h]) for f, h in folds]
        return merge_folds(parts, folds).predicted

    y = x[:, :1] * 2
    torch.testing.assert_close(predicted(y), y[ROWS:].double(), atol=1e-3, rtol=0)
    spoiled = y.clone()
    spoiled[ROWS // 2 : ROWS] = 1000.0
    assert torch.equal(predicted(y)[::2], predicted(spoiled)[::2])
    assert not torch.equal(predicted(y)[1::2], predicted(spoiled)[1::2])
