"""True and decoded transitions, no motion and half the motion, in worlds where the answers are known."""

from __future__ import annotations

import pytest
import torch

from lattok.evaluation import evaluate
from lattok.evaluation.questions.controllability import slope
from tests.evaluation.worlds import HELD_OUT, Linear, Oracle, Symmetric, World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")
CELLS = [f"controllability_{fitted}/{judged}" for fitted in ("true", "decoded") for judged in ("true", "decoded")]


def test_a_decoder_that_does_what_latents_say_gives_four_equal_figures():
    found = evaluate(tiny_lam(Linear), World(), episodes=HELD_OUT).figures
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


def test_without_actions_and_with_a_stride_of_one_there_is_less():
    world = World(black=True)
    assert "identity/model" not in evaluate(tiny_lam(Symmetric), world, episodes=HELD_OUT, action_key=None).figures
    found = evaluate(tiny_lam(Symmetric), world, episodes=HELD_OUT, stride=1).figures
    assert "calibration/half" not in found
    assert CELLS[3] in found
