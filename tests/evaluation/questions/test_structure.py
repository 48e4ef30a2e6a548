"""Laws of latents, transfer between scenes and latents as actions, in worlds where they hold exactly or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lattok.evaluation import Report, evaluate
from lattok.evaluation.page import render
from lattok.evaluation.questions.structure import match, slope
from tests.evaluation.worlds import HELD_OUT, Linear, Oracle, Symmetric, World, holds, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")
CELLS = [f"controllability_{fitted}/{judged}" for fitted in ("true", "decoded") for judged in ("true", "decoded")]


@pytest.fixture(scope="module")
def linear() -> Report:
    return evaluate(tiny_lam(Linear), World(), episodes=HELD_OUT)


def test_latents_that_are_sums_of_changes_obey_every_law(linear: Report):
    found = linear.figures
    for law in ("additivity", "reversal"):
        assert found[f"{law}/model"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/raw_change"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/random"] < 0
    assert found["transfer_latents/model"] == pytest.approx(1, abs=1e-4)
    assert found["transfer_codes/model"] == 1
    assert found["transfer_latents/own"] < 0.2
    assert [holds(linear)[key] for key in ("additive", "reversible", "transfers")] == [True] * 3


def test_latents_that_ignore_the_direction_of_time_obey_none():
    report = evaluate(tiny_lam(Symmetric), World(), episodes=HELD_OUT)
    found = report.figures
    assert found["reversal/model"] == pytest.approx(-3, abs=0.01)  # the same vector with the wrong sign
    assert found["additivity/model"] < 0.9
    assert found["transfer_latents/model"] < 0.5  # its decoder does nothing: no latent ever comes back
    assert holds(report)["reversible"] is False
    assert holds(report)["transfers"] is False


def test_a_match_forgives_offsets_and_the_best_factor_forgives_size(rng: np.random.Generator):
    left = torch.from_numpy(rng.standard_normal((500, 3)))
    exact = match(left, left + 7)
    assert exact.explained == pytest.approx(1)
    half = match(left, left / 2)
    assert half.explained == pytest.approx(0.75)
    assert (half.scaled, half.factor) == pytest.approx((1, 2))
    assert match(left, torch.from_numpy(rng.standard_normal((500, 3)))).scaled < 0.05
    assert match(left, torch.zeros_like(left)) == (0, 0, 0)


def test_a_decoder_that_does_what_latents_say_gives_four_equal_figures(linear: Report):
    found = linear.figures
    assert [found[cell] for cell in CELLS] == pytest.approx([found[CELLS[0]]] * 4, abs=1e-3)
    assert found["identity/model"] == pytest.approx(0, abs=1e-9)


def test_a_model_that_knows_the_action_is_calibrated_and_its_random_decoder_is_not_believed():
    world = World()
    found = evaluate(tiny_lam(Oracle, world), world, episodes=HELD_OUT).figures
    assert found["controllability_true/true"] > 0.99
    assert found["controllability_true/decoded"] < 0.1
    assert found["calibration/whole"] == pytest.approx(1, abs=0.01)
    assert found["calibration/half"] == pytest.approx(1, abs=0.01)
    assert found["identity/model"] == 0
    assert found["identity/untrained"] > 0


def test_slopes_are_those_of_a_line_through_all_dimensions():
    actual = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    assert slope(actual * 0.5 + 3, actual, torch.ones(3)) == pytest.approx(0.5)
    scaled = slope(actual * torch.tensor([1.0, 1.0, 0.0]), actual, torch.tensor([1.0, 1.0, 1e9]))
    assert scaled == pytest.approx(1)


def test_without_actions_and_with_a_stride_of_one_frame_there_is_less(black_world: World):
    unacted = evaluate(tiny_lam(Symmetric), black_world, episodes=HELD_OUT, action_key=None)
    assert "identity/model" not in unacted.figures
    report = evaluate(tiny_lam(Symmetric), black_world, episodes=HELD_OUT, stride=1)
    assert {"reversal/model", CELLS[3]} <= report.figures.keys()
    assert not {"additivity/model", "calibration/half"} & report.figures.keys()
    assert "not applicable: a stride of one frame" in render(report)
