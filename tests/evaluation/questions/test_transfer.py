"""Latents of one clip applied to another, in worlds where that works exactly or not at all."""

import pytest

from lattok.evaluation import evaluate
from tests.evaluation.worlds import HELD_OUT, Linear, Symmetric, World, holds, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


def test_latents_that_are_changes_come_back_where_the_decoder_adds_them():
    report = evaluate(tiny_lam(Linear), World(), episodes=HELD_OUT)
    found = report.figures
    assert found["transfer_latents/model"] == pytest.approx(1, abs=1e-4)
    assert found["transfer_codes/model"] == 1
    assert found["transfer_latents/own"] < 0.2
    assert holds(report)["transfers"] is True


def test_no_latent_comes_back_from_a_decoder_that_does_nothing():
    report = evaluate(tiny_lam(Symmetric), World(), episodes=HELD_OUT)
    assert report.figures["transfer_latents/model"] < 0.5
    assert holds(report)["transfers"] is False
