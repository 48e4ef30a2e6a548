"""Normalisers are invertible, match numpy, and leave constant dimensions alone."""

import numpy as np
import pytest
import torch

from lattok.checks import LattokError
from lattok.normalize import KINDS, Normalizer, read_statistics


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_and_numpy(kind):
    values = np.random.default_rng(0).standard_normal((200, 3)) * [1, 10, 0.01] + [0, 5, -3]
    x = torch.tensor(values, dtype=torch.float32)
    norm = Normalizer(3).fit(x, kind)
    torch.testing.assert_close(norm.inverse(norm(x)), x, rtol=1e-5, atol=1e-5)
    low, high = {
        "mean_std": (values.mean(0) - values.std(0), values.mean(0) + values.std(0)),
        "quantile": tuple(np.quantile(values, [0.01, 0.99], axis=0)),
        "min_max": (values.min(0), values.max(0)),
        "identity": (-np.ones(3), np.ones(3)),
    }[kind]
    np.testing.assert_allclose(norm(torch.tensor(low, dtype=torch.float32)), -np.ones(3), atol=1e-3)
    np.testing.assert_allclose(norm(torch.tensor(high, dtype=torch.float32)), np.ones(3), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dimension_that_never_moves_keeps_scale_one(kind):
    x = torch.randn(50, 2)
    x[:, 1] = 7.0
    norm = Normalizer(2).fit(x, kind)
    assert norm.scale[1] == 1
    torch.testing.assert_close(norm.inverse(norm(x)), x)


def test_bad_values_are_refused():
    with pytest.raises(LattokError, match="`values`: expected 2 dimensions, got 3"):
        Normalizer(2).fit(torch.zeros(4, 3))
    with pytest.raises(LattokError, match="finite"):
        Normalizer(2).fit(torch.full((4, 2), float("nan")))


def test_one_pair_of_several_statistics_is_chosen():
    every = {"mean": [1.0], "std": [2.0], "q01": [3.0], "q99": [4.0], "count": [9]}
    assert read_statistics(None) == (None, "identity")
    assert read_statistics(every) == ({"mean": [1.0], "std": [2.0]}, "mean_std")
    assert read_statistics({"action": every}, prefer="quantile") == ({"q01": [3.0], "q99": [4.0]}, "quantile")
    assert read_statistics(every, prefer="min_max")[1] == "mean_std"
    assert read_statistics(every, "quantile")[1] == "quantile"
    with pytest.raises(LattokError, match="`normalize`: expected one of mean_std, quantile, got 'min_max'"):
        read_statistics(every, "min_max")


def test_an_outlier_beyond_the_quantiles_changes_nothing():
    x = torch.linspace(-0.1, 0.1, 2001)[:, None]
    expected = Normalizer(1).fit(x, "quantile").scale
    x[7] = -1e6
    torch.testing.assert_close(Normalizer(1).fit(x, "quantile").scale, expected, rtol=1e-3, atol=0)
