"""Bootstrap over episodes: the same as a loop over drawn rows, wide where episodes differ, and it covers."""

import numpy as np
import torch

from lattok.evaluation.evidence.intervals import Bootstrap, jackknife
from lattok.evaluation.evidence.probes import judged


def test_draws_equal_r_squared_over_the_drawn_rows(rng: np.random.Generator):
    groups = np.array([4, 4, 4, 7, 7, 9])
    actual, predicted = torch.from_numpy(rng.standard_normal((2, 6, 2)))
    found = judged(predicted, actual, torch.zeros(2), 0.0, 0.0)
    bootstrap = Bootstrap(groups, seed=0)
    draws = bootstrap.r2(found)
    for draw in (0, 1, 500):
        times = dict(zip((4, 7, 9), bootstrap.weights[draw].int().tolist(), strict=True))
        rows = [row for row, group in enumerate(groups) for _ in range(times[int(group)])]
        errors, deviations = (predicted - actual)[rows] ** 2, actual[rows] ** 2
        torch.testing.assert_close(draws[draw], 1 - errors.sum(0) / deviations.sum(0))


def test_the_same_seed_draws_the_same_episodes():
    groups = np.arange(30) // 3
    assert torch.equal(Bootstrap(groups, 0).weights, Bootstrap(groups, 0).weights)
    assert not torch.equal(Bootstrap(groups, 0).weights, Bootstrap(groups, 1).weights)


def test_a_single_episode_has_no_interval(rng: np.random.Generator):
    bootstrap = Bootstrap(np.zeros(5), 0)
    found = judged(*torch.from_numpy(rng.standard_normal((2, 5, 1))), torch.zeros(1), 0.0, 0.0)
    assert bootstrap.interval(bootstrap.r2(found)[:, 0]) is None
    assert jackknife(1.0, [1.0]) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng: np.random.Generator):
    truth, covered, trials = 0.5, 0, 200  # error and action have variances 1 and 2, and an episode its own level
    for trial in range(trials):
        groups = np.repeat(np.arange(20), 10)
        level = np.repeat(np.exp(0.5 * rng.standard_normal(20)), 10)[:, None]
        actual = np.sqrt(2) * level * rng.standard_normal((200, 1))
        error = level * rng.standard_normal((200, 1))
        found = judged(torch.from_numpy(actual + error), torch.from_numpy(actual), torch.zeros(1), 0.0, 0.0)
        bootstrap = Bootstrap(groups, trial)
        low, high = bootstrap.interval(bootstrap.r2(found)[:, 0]) or (0.0, 0.0)
        covered += low <= truth <= high
    assert 0.86 <= covered / trials <= 0.99


def test_jackknife_of_a_mean_is_its_standard_error(rng: np.random.Generator):
    values = rng.standard_normal(12)
    low, high = jackknife(values.mean(), [np.delete(values, i).mean() for i in range(12)]) or (0.0, 0.0)
    expected = 1.96 * values.std(ddof=1) / np.sqrt(12)
    np.testing.assert_allclose([low, high], [values.mean() - expected, values.mean() + expected], rtol=1e-9)
