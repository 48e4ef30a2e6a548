"""Laws of latents, and transfer between scenes, in worlds where they hold exactly or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lattok.evaluation import evaluate
from lattok.evaluation.page import render
from lattok.evaluation.questions.structure import match
from tests.evaluation.worlds import HELD_OUT, Linear, Symmetric, World, holds, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=16, length=24, black=True, tasks=2)


def test_latents_that_are_sums_of_changes_obey_every_law():
    report = evaluate(tiny_lam(Linear), World(episodes=10), episodes=HELD_OUT)
    found = report.figures
    for law in ("additivity", "reversal"):
        assert found[f"{law}/model"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/raw_change"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/random"] < 0
    assert found["transfer_latents/model"] == pytest.approx(1, abs=1e-4)
    assert found["transfer_codes/model"] == 1
    assert found["transfer_latents/own"] < 0.2
    assert [holds(report)[key] for key in ("additive", "reversible", "transfers")] == [True] * 3


def test_latents_that_ignore_the_direction_of_time_obey_none():
    report = evaluate(tiny_lam(Symmetric), World(episodes=10), episodes=HELD_OUT)
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
    assert half.relative_error == pytest.approx(0.5)
    assert match(left, torch.from_numpy(rng.standard_normal((500, 3)))).scaled < 0.05
    assert match(left, torch.zeros_like(left)) == (0, 0, 0)


def test_a_stride_of_one_frame_has_no_middle(world: World):
    report = evaluate(tiny_lam(Linear), world, episodes=HELD_OUT, stride=1)
    assert "reversal/model" in report.figures
    assert "additivity/model" not in report.figures
    assert "not applicable: a stride of one frame" in render(report)
