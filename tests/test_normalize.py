"""Normalisers are invertible, match numpy, and leave constant dimensions alone."""

import numpy as np
import pytest
import torch

from lattok.checks import LattokError
from lattok.normalize import KINDS, Normalizer, clipped_kinds, kinds_of, read_statistics


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_and_numpy(kind):
    values = np.random.default_rng(0).standard_normal((200, 3)) * [1, 10, 0.01] + [0, 5, -3]
    x = torch.tensor(values, dtype=torch.float32)
    norm = Normalizer(3).fit(x, kind)
    torch.testing.assert_close(norm.inverse(norm(x)), x, rtol=1e-5, atol=1e-5)
    assert norm.limit is None
    low, high = {
        "mean_std": (values.mean(0) - values.std(0), values.mean(0) + values.std(0)),
        "quantile": tuple(np.quantile(values, [0.01, 0.99], axis=0)),
        "min_max": (values.min(0), values.max(0)),
        "identity": (-np.ones(3), np.ones(3)),
        "bounded": (values.min(0), values.max(0)),
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


def test_a_dimension_counts_as_still_by_its_size():
    """Rounding of large values is no motion; the same spread about zero is."""
    noise = np.array([-1e-4, 1e-4] * 50)
    x = torch.tensor(np.stack([noise, 1000 + noise], 1), dtype=torch.float64)
    for kind, spread in {"mean_std": 1e-4, "quantile": 1e-4, "min_max": 1e-4}.items():
        scale = Normalizer(2).fit(x, kind).scale
        assert scale[0] == pytest.approx(spread)
        assert scale[1] == 1
    known = {"mean": [0.0, 1000.0], "std": [1e-4, 1e-4]}
    np.testing.assert_allclose(Normalizer(2).set(known).scale, [1e-4, 1.0])
    known = {"min": [-1e-4, 999.9999], "max": [1e-4, 1000.0001]}
    np.testing.assert_allclose(Normalizer(2).set(known).scale, [1e-4, 1.0], rtol=1e-5)


def test_outliers_are_clipped_to_the_range():
    """0.4 % of values at 400 times the range: squared, they drown every other value, clipped they do not."""
    rng = np.random.default_rng(0)
    values = np.concatenate([1e-3 * rng.standard_normal(4980), np.ones(20)])
    x = torch.tensor(values, dtype=torch.float32)[:, None]
    plain, clipped = (Normalizer(1, [clip]).fit(x, "quantile") for clip in (False, True))
    assert plain(x).square().mean() > 500
    assert clipped(x).square().mean() < 0.2
    low, high = np.quantile(values, [0.01, 0.99])
    expected = np.clip((2 * values - low - high) / (high - low), -1, 1)
    np.testing.assert_allclose(clipped(x)[:, 0], expected, atol=1e-4)
    back = clipped.inverse(clipped(x))[:, 0]  # what lies beyond comes back as the end of the range
    np.testing.assert_allclose(back, np.clip(values, low, high), atol=1e-7)
    assert clipped.state_dict().keys() == plain.state_dict().keys()


def test_only_the_named_dimensions_are_clipped():
    x = torch.randn(500, 3) * 100
    norm = Normalizer(3, [True, False, True]).fit(x, ["quantile", "mean_std", "min_max"])
    low, high = norm(10 * x).amin(0), norm(10 * x).amax(0)
    assert low.tolist()[::2] == [-1, -1]
    assert high.tolist()[::2] == [1, 1]
    assert low[1] < -2 < 2 < high[1]
    assert Normalizer(3, [False] * 3).limit is None
    with pytest.raises(LattokError, match="`clipped`: expected 3 flags, one per dimension, got 2"):
        Normalizer(3, [True, False])


def test_bounded_leaves_what_is_in_range():
    """A gripper from 0 to 1 or from -1 to 1 stays as it is; one in degrees gets the range."""
    x = torch.tensor([[0.0, -1.0, 0.0], [1.0, 1.0, 80.0], [0.5, 0.2, 20.0]])
    norm = Normalizer(3).fit(x, "bounded")
    torch.testing.assert_close(norm(x)[:, :2], x[:, :2])
    torch.testing.assert_close(norm(x)[:, 2], torch.tensor([-1.0, 1.0, -0.5]))


def test_kinds_by_name_index_and_pattern():
    names = ("x", "Left_Gripper", "y", "gripper.pos")
    assert kinds_of("quantile", ("*gripper*=identity", "2=min_max"), names, 4) == [
        "quantile", "identity", "min_max", "identity",
    ]  # fmt: skip
    assert kinds_of("quantile", ("gripper=identity",), ("a", "gripper", "b_gripper"), 3)[1:] == ["identity", "quantile"]
    assert kinds_of("quantile", ("*gripper*=identity",), (), 3) == ["quantile"] * 3
    assert kinds_of("quantile", ("*y=identity", "y=min_max"), names, 4) == [
        "quantile",
        "quantile",
        "min_max",
        "quantile",
    ]
    assert clipped_kinds(["quantile", "identity", "min_max", "mean_std", "bounded"], True) == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert clipped_kinds(["mean_std"], False) == [False]
    with pytest.raises(LattokError, match="`normalize_clip`: expected False unless normalize is quantile or min_max"):
        clipped_kinds(["mean_std", "identity"], True)
    with pytest.raises(LattokError, match="dimension among x, Left_Gripper, y, gripper.pos, got 'z=identity'"):
        kinds_of("quantile", ("z=identity",), names, 4)
    with pytest.raises(LattokError, match="`normalize`: expected one of mean_std"):
        kinds_of("log", (), (), 3)
    with pytest.raises(LattokError, match=r"dimension among 0\.\.2, got '3=identity'"):
        kinds_of("quantile", ("3=identity",), (), 3)
    with pytest.raises(LattokError, match="`normalize_exceptions .gripper=big.`: expected one of mean_std"):
        kinds_of("quantile", ("gripper=big",), (), 3)
