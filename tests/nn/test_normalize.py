"""Normalisers are invertible, match numpy, and leave constant dimensions alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lattok.nn.normalize import KINDS, Normalizer, OpenChoice, clipped_kinds, for_dataset, kinds_of, read_statistics
from tests.errors import refused


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_statistics_are_exact_whatever_the_precision_of_the_values(dtype):
    """In half precision a sum of this many values would overflow, in single precision their deviation is rounded."""
    x = (torch.arange(20_000)[:, None] % 7 + 1000).to(dtype)
    norm = Normalizer(1).fit(x)
    np.testing.assert_allclose(norm.shift, x.double().numpy().mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.scale, x.double().numpy().std(0), rtol=1e-6)
    assert norm.half().shift.dtype == torch.float32  # nor does a model in half precision round them


def test_only_valid_values_count():
    rng = np.random.default_rng(0)
    values, valid = rng.standard_normal((50, 3)), rng.random((50, 3)) < 0.5
    values[~valid] = np.nan
    valid[:, 2] = False
    norm = Normalizer(3).fit(torch.from_numpy(values), valid=torch.from_numpy(valid))
    expected = [values[valid[:, d], d] for d in (0, 1)]
    np.testing.assert_allclose(norm.shift, [*(x.mean() for x in expected), 0], rtol=1e-5)
    np.testing.assert_allclose(norm.scale, [*(x.std() for x in expected), 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Normalizer(0), "`dim`"),
        (lambda: Normalizer(2).fit(torch.zeros(4)), "`values`"),
        (lambda: Normalizer(2).fit(torch.zeros(4, 3)), "`values`"),
        (lambda: Normalizer(2).fit(torch.zeros(4, 2), "log"), "`kind`"),
        (lambda: Normalizer(2).fit(torch.zeros(4, 2), ["identity"]), "`kind`"),
        (lambda: Normalizer(2).fit(torch.tensor([[0.0, 0], [0, np.nan]])), "`values`"),
        (lambda: Normalizer(2).set({"median": [0, 0], "mean": [0, 0]}), "`statistics`"),
        (lambda: Normalizer(2).set({}), "`statistics`"),
        (lambda: Normalizer(2).set({"mean": [0, 0], "std": [1, 1, 1]}), r"`statistics\['std'\]`: expected 2 numbers"),
        (
            lambda: Normalizer(2).set({"mean": ["a", "b"], "std": [1, 1]}),  # pyright: ignore[reportArgumentType]
            r"`statistics\['mean'\]`: expected numbers, got \['a', 'b'\]",
        ),
        (lambda: Normalizer(2).set({"min": [0, 0], "max": [1, np.inf]}), r"`statistics\['max'\]`: expected finite"),
        (lambda: Normalizer(2).set({"mean": [0, 0], "std": [1, -0.1]}), r"`statistics\['std'\]`: expected a spread of"),
        (lambda: Normalizer(2).set({"q01": [0, 2], "q99": [1, 1]}), r"`statistics\['q99'\]`: expected a spread of at"),
        (lambda: Normalizer(2).set({"q01": [-1e308, 0], "q99": [1e308, 1]}), "`statistics`"),
        (lambda: read_statistics([1, 2]), "`statistics`"),  # pyright: ignore[reportArgumentType]
        (lambda: read_statistics(None, "quantile"), "`normalize`"),
        (lambda: read_statistics({"mean": [0.0]}), "`statistics`"),
    ],
)
def test_what_does_not_fit_is_one_line(call, text):
    refused(text, call)


@pytest.mark.parametrize(
    ("shift", "scale", "text"),
    [
        ([0, -5], [0.5, 2], ""),
        ([0, np.nan], [1, 1], "shift has numbers that are not finite, or beyond +-1e+30"),
        ([0, -2e30], [1, 1], "shift has numbers that are not finite, or beyond +-1e+30"),
        ([0, 0], [1, 0], "scale must be above 0 and at most 1e+30, got 0 to 1"),
        ([0, 0], [-0.5, 1], "scale must be above 0 and at most 1e+30, got -0.5 to 1"),
        ([0, 0], [1, np.inf], "scale must be above 0 and at most 1e+30, got 1 to inf"),
        ([0, 0], [1, 3e38], "scale must be above 0 and at most 1e+30, got 1 to 3e+38"),
    ],
)
def test_a_map_from_a_file_is_invertible_or_unsound(shift, scale, text):
    norm = Normalizer(2)
    norm.load_state_dict({"shift": torch.tensor(shift), "scale": torch.tensor(scale)})
    assert norm.unsound() == [text] * bool(text)


def test_known_statistics_make_the_map_of_the_values_that_they_are_of():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 3)) * [1, 10, 0.01] + [0, 5, -3]
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    known = {
        "mean_std": {"mean": values.mean(0), "std": values.std(0)},
        "quantile": {"q01": low.tolist(), "q99": high.tolist(), "min": values.min(0), "max": values.max(0), "mean": 0},
        "min_max": {"min": values.min(0)[:, None], "max": values.max(0)[:, None], "std": 0},
    }
    for kind, statistics in known.items():
        expected, norm = Normalizer(3).fit(torch.from_numpy(values), kind), Normalizer(3)
        assert norm.set(statistics) is norm
        torch.testing.assert_close(norm.state_dict(), expected.state_dict())
    norm = Normalizer(1).set({"min": [4.0], "max": [4.0]})
    assert (norm.shift.item(), norm.scale.item()) == (4, 1)
    norm = Normalizer(1).set({"mean": [4.0], "std": [0.0]})
    assert (norm.shift.item(), norm.scale.item()) == (4, 1)


def test_one_pair_of_several_statistics_is_chosen():
    every = {"mean": [1.0], "std": [2.0], "q01": [3.0], "q99": [4.0], "count": [9]}
    assert read_statistics(None) == (None, "identity")
    assert read_statistics(every) == ({"mean": [1.0], "std": [2.0]}, "mean_std")
    assert read_statistics({"action": every}, prefer="quantile") == ({"q01": [3.0], "q99": [4.0]}, "quantile")
    assert read_statistics(every, prefer="min_max")[1] == "mean_std"
    assert read_statistics(every, "quantile")[1] == "quantile"
    refused("`normalize`", read_statistics, every, "min_max")


def test_statistics_of_a_file_may_hold_other_entries_that_are_not_numbers(tmp_path):
    (tmp_path / "stats.json").write_text('{"action": {"min": [1.0], "max": [2.0], "mean": [NaN]}, "reward": {}}')
    assert read_statistics(tmp_path / "stats.json") == ({"min": [1.0], "max": [2.0]}, "min_max")
    (tmp_path / "flat.json").write_text(json.dumps({"mean": [1.0], "std": [2.0]}))
    assert read_statistics(str(tmp_path / "flat.json"), "mean_std") == ({"mean": [1.0], "std": [2.0]}, "mean_std")
    assert read_statistics(None, "identity") == (None, "identity")


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


@pytest.mark.parametrize("size", [0.0, 1.0, -1000.0])
def test_what_moves_by_less_than_a_millionth_of_its_size_is_still(size):
    spread = 1e-6 * (1 + abs(size))
    for std, scale in ((0.9 * spread, 1), (1.1 * spread, 1.1 * spread)):
        assert Normalizer(1).set({"mean": [size], "std": [std]}).scale.item() == pytest.approx(scale)
        x = torch.tensor([[size - std], [size + std]], dtype=torch.float64)
        for kind in ("mean_std", "min_max"):
            assert Normalizer(1).fit(x, kind).scale.item() == pytest.approx(scale, rel=1e-4)


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


def test_the_share_that_is_clipped_is_of_what_counts():
    x = torch.tensor([[0.0, 5.0], [1.0, -5.0], [1.5, 0.0], [-0.5, 0.9]])
    valid = torch.tensor([[True, False], [True, True], [True, True], [False, True]])
    clipped = Normalizer(2, [True, True])._set(np.array([0.5, 0.0]), np.array([0.5, 1.0]))
    assert clipped.clipped(x, valid) == pytest.approx(2 / 6)  # 1.5 and -5; what is not valid, or at an end, is not
    assert clipped.clipped(x, torch.zeros_like(valid)) == 0
    assert Normalizer(2)._set(np.array([0.5, 0.0]), np.array([0.5, 1.0])).clipped(x, valid) == 0


def test_only_the_named_dimensions_are_clipped():
    x = torch.randn(500, 3) * 100
    norm = Normalizer(3, [True, False, True]).fit(x, ["quantile", "mean_std", "min_max"])
    low, high = norm(10 * x).amin(0), norm(10 * x).amax(0)
    assert low.tolist()[::2] == [-1, -1]
    assert high.tolist()[::2] == [1, 1]
    assert low[1] < -2 < 2 < high[1]
    assert Normalizer(3, [False] * 3).limit is None
    refused("`clipped`", Normalizer, 3, [True, False])


def test_bounded_leaves_what_is_in_range():
    """A gripper from 0 to 1 or from -1 to 1 stays as it is; one in degrees, or just beyond, gets the range."""
    x = torch.tensor([[0.0, -1.0, 0.0, 0.0], [1.0, 1.0, -80.0, 1.2], [0.5, 0.2, -20.0, 0.3]])
    norm = Normalizer(4).fit(x, "bounded")
    torch.testing.assert_close(norm(x)[:, :2], x[:, :2])
    torch.testing.assert_close(norm(x)[:, 2], torch.tensor([1.0, -1.0, 0.5]))
    torch.testing.assert_close(norm(x)[:, 3], torch.tensor([-1.0, 1.0, -0.5]))


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
    assert clipped_kinds(["mean_std", "quantile"], False) == [False, False]
    refused("`normalize_clip`", clipped_kinds, ["mean_std", "identity"], True)
    refused("dimension among x, Left_Gripper, y, gripper.pos, got", kinds_of, "quantile", ("z=identity",), names, 4)
    refused("`normalize`", kinds_of, "log", (), (), 3)
    refused(r"dimension among 0\.\.2, got '3=identity'", kinds_of, "quantile", ("3=identity",), (), 3)
    refused("`normalize_exceptions .gripper=big.`: expected one of", kinds_of, "quantile", ("gripper=big",), (), 3)


def test_a_normaliser_that_is_still_to_be_chosen_says_among_which():
    unchosen = OpenChoice(["bridge", "droid"])
    message = r"one of its datasets to be chosen \(bridge, droid\), got none. tokenizer.for_dataset\('bridge'\)"
    for call in (
        lambda: unchosen.shift,
        lambda: unchosen.scale,
        lambda: unchosen(torch.zeros(2)),
        lambda: unchosen.inverse(torch.zeros(2)),
    ):
        refused(message, call)


def test_a_model_with_one_normaliser_is_used_as_it_is():
    assert for_dataset(SimpleNamespace(datasets=("a", "b"), for_dataset=str.upper), "b") == "B"
    model = SimpleNamespace(datasets=())
    assert for_dataset(model, "b") is model
