"""Tokenizer figures against a computation by hand, and controls that must not see padding."""

import numpy as np
import pytest
import torch

from lattok import FAST, LattokError, UniformBins
from lattok.evaluation import evaluate
from lattok.evaluation.page import render
from lattok.samples import ActionWindows
from lattok.types import ActionTokenizer
from tests.errors import refused
from tests.evaluation.worlds import World, rows, tables


class Rounding(ActionTokenizer):
    """The sign of each action's first dimension; decodes to plus or minus one half, and to junk where padded."""

    horizon, action_dim, vocab_size, tokens_per_chunk = 8, 3, 2, 8

    def encode(self, chunks: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        assert valid is not None
        self.valid = valid
        return (chunks[..., 0] > 0).long()

    def decode(self, codes: torch.Tensor, *, repair: bool = False) -> torch.Tensor:
        chunks = (codes - 0.5)[..., None].repeat(1, 1, 3)
        return chunks.masked_fill(~self.valid[..., None], 1e6) if len(codes) == len(self.valid) else chunks


@pytest.fixture
def world() -> World:
    return World(episodes=6, length=20, names=("x", "y", "gripper"))


def test_errors_equal_a_computation_by_hand_and_padding_does_not_count(world: World):
    report = evaluate(Rounding(), world, episodes=[5])
    actual = np.concatenate([world.actions[5, t : t + 8] for t in range(20)])  # valid steps of all windows
    training = world.actions[:5].reshape(-1, 3).astype(np.float64)
    gap = np.where(actual[:, :1] > 0, 0.5, -0.5) - actual
    normalised = (gap / training.std(0)) ** 2
    figures = report.figures
    assert figures["normalised_mse"] == pytest.approx(normalised.mean(), rel=1e-5)
    assert figures["normalised_l1"] == pytest.approx(np.sqrt(normalised).mean(), rel=1e-5)
    middle = np.percentile(training[:, 2], [1, 99]).mean()
    right = (np.where(actual[:, 0] > 0, 0.5, -0.5) > middle) == (actual[:, 2] > middle)
    assert figures["gripper_accuracy"] == pytest.approx(right.mean())
    mean = ((training.mean(0) - actual) / training.std(0)) ** 2
    assert figures["normalised_mse/mean"] == pytest.approx(mean.mean(), rel=1e-5)
    assert figures["tokens_per_second"] == 10
    assert figures["bits_per_second"] == 10
    own = rows(report, "Squared error, physical units")["model"]["values"]
    np.testing.assert_allclose([own[name] for name in ("x", "y", "gripper")], (gap**2).mean(0), rtol=1e-5)


def test_controls_spend_the_same_bits(world: World):
    report = evaluate(Rounding(), world, episodes=[5])  # one bit per step: two centres, two bins
    assert report.figures["codes_used_train/kmeans"] == 2
    assert report.figures["normalised_mse/kmeans"] < report.figures["normalised_mse/mean"] + 0.1
    wins = tables(report)["Normalised squared error"]["controls_that_win"]
    errors = {
        key: report.figures.get(f"normalised_mse/{key}", 1e9) for key in ("kmeans", "uniform_bins", "fast", "mean")
    }
    better = [key for key, error in errors.items() if error < report.figures["normalised_mse"]]
    assert wins == better
    assert ("control wins" in render(report).split("<body>")[1].split("<section>")[1]) == bool(wins)


def test_fast_stands_beside_a_tokenizer_that_has_the_bits_for_it(world: World):
    tokenizer = Rounding()
    tokenizer.vocab_size = 2**20
    report = evaluate(tokenizer, world, episodes=[5])
    assert report.figures["normalised_mse/fast"] < report.figures["normalised_mse"]
    assert "Error" in report.to_text()
    assert "not below FAST" in report.to_text()
    assert "normalised_mse/kmeans" not in report.figures
    assert "not run: equal bits would need 2^20 centres" in render(report)
    coarse = evaluate(Rounding(), world, episodes=[5])  # one bit per step
    assert ("normalised_mse/fast" in coarse.figures) != ("even its coarsest scale takes more bits" in render(coarse))


def test_variable_length_codes_are_counted_without_their_padding(world: World):
    class Padded(Rounding):
        fixed_length = False

        def encode(self, chunks, valid=None):
            return torch.nn.functional.pad(super().encode(chunks, valid)[:, :4], (0, 4), value=-1)

        def decode(self, codes, *, repair=False):
            return torch.zeros(len(codes), 8, 3)

    report = evaluate(Padded(), world, episodes=[5])
    assert report.figures["tokens_per_second"] == 5
    assert report.figures["codes_used"] == 2


def test_other_actions_are_an_error_that_says_so(world: World):
    tokenizer = Rounding()
    tokenizer.action_dim = 7
    refused("`action`", evaluate, tokenizer, world, episodes=[5])


def test_nothing_left_to_fit_controls_is_an_error(world: World):
    refused("a choice that leaves other episodes", lambda: evaluate(Rounding(), world, episodes=None))


def test_large_datasets_are_thinned_evenly_and_say_so(world: World):
    report = evaluate(Rounding(), world, episodes=[3, 4, 5], max_episodes=2)
    assert report.provenance["split"]["held_out"] == [3]
    assert report.provenance["split"]["training"] == [0, 2]
    assert "1 of 3 held-out episodes; 2 of 3 others" in render(report)


class Levels(Rounding):
    """Eight levels with 16 codes each, of which the third one uses a single code."""

    vocab_size, shared_vocabulary = 16, False

    def encode(self, chunks: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        self.valid = valid
        codes = ((chunks[..., 0] + 2) * 4).long().clamp(0, 15)
        codes[:, 2] = 5
        return codes


def test_a_collapsed_level_is_seen_among_healthy_ones(world: World):
    report = evaluate(Levels(), world, episodes=[5])
    assert report.verdicts[-1].text.startswith("1 of 16 codes at position 3 of 8 in use: the codebook has collapsed")
    assert report.verdicts[-1].holds is False
    assert (report.figures["codes_used"], report.figures["perplexity_train"]) == (1, 1)
    pooled = Levels()
    pooled.shared_vocabulary = True
    assert evaluate(pooled, world, episodes=[5]).verdicts[-1].holds is True


def windows(world: World) -> torch.Tensor:
    return ActionWindows(world, 8, "action", "0:5").all().chunks  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "options", "key"),
    [(FAST, {"vocab_size": 300, "scale": 4.0}, "fast"), (UniformBins, {"bins": 4}, "uniform_bins")],
)
def test_a_tokenizer_is_not_its_own_control(world: World, family, options, key):
    report = evaluate(family.fit(windows(world), **options), world, episodes=[5])
    row = rows(report, "Normalised squared error")[key]
    assert row["not_run"] == "not run: the tokenizer itself"
    assert f"normalised_mse/{key}" not in report.figures
    other = "uniform_bins" if key == "fast" else "fast"
    assert f"normalised_mse/{other}" in report.figures


def test_the_headline_names_the_controls_that_could_be_run(world: World):
    report = evaluate(UniformBins.fit(windows(world)), world, episodes=[5])  # too many bits for k-means, too
    assert "training actions; at equal bits FAST" in report.headline


def test_a_single_code_is_no_division_by_zero(world: World):
    class Nothing(Rounding):
        vocab_size = 1

        def encode(self, chunks, valid=None):
            return super().encode(chunks, valid) * 0

    report = evaluate(Nothing(), world, episodes=[5])
    assert report.figures["bits_per_second"] == 0
    raw = rows(report, "Rate")["float32"]["values"]
    assert (raw["bits per second"], raw["bits per step"]) == (960, 96)


def test_the_reason_why_fast_could_not_be_fitted_is_the_true_one(world: World, monkeypatch):
    def fail(*args, **options):
        raise LattokError("too wild")

    monkeypatch.setattr(FAST, "fit", fail)
    row = rows(evaluate(Rounding(), world, episodes=[5]), "Normalised squared error")["fast"]
    assert row["not_run"] == "not run: too wild"
