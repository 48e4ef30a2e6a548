"""A distractor in worlds where it is known what each stream sees."""

from dataclasses import replace

import pytest
import torch

from lattok.evaluation import evaluate
from lattok.evaluation.questions import distractor
from lattok.evaluation.questions.distractor import SIZE, Estimate, Overlay
from tests.evaluation.worlds import HELD_OUT, Oracle, World, answer_of, holds, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


def test_a_patch_is_drawn_where_it_says_and_its_motion_is_what_moved():
    overlay = Overlay.random(50, seed=0)
    frames = torch.zeros(50, 2, 2, 32, 48, 3, dtype=torch.uint8)
    drawn = overlay.draw(frames, torch.arange(50))
    assert frames.sum() == 0
    assert torch.equal(drawn[:, :, 0], drawn[:, :, 1])  # all cameras alike
    covered = (drawn[:, :, 0] > 0).any(-1)
    assert int(covered.sum((2, 3)).max()) <= 8 * 12
    assert float(covered.float().mean()) > 0.95 * SIZE**2
    corner = covered.any(3).float().argmax(2), covered.any(2).float().argmax(2)  # first row, first column
    moved = torch.stack([(c[:, 1] - c[:, 0]) / size for c, size in zip(corner, (32, 48), strict=True)], 1)
    torch.testing.assert_close(moved, overlay.motion, atol=0.07, rtol=0)
    assert overlay.motion.abs().max() <= SIZE + 1e-6
    assert (overlay.places >= 0).all()
    assert (overlay.places <= 1).all()


def test_where_each_stream_sees_its_own_both_verdicts_hold(black_world: World):
    report = evaluate(tiny_lam(Oracle, black_world, streams="joint"), black_world, episodes=HELD_OUT)
    found = report.figures
    assert found["separation/action_kept/latents"] > 0.99
    assert found["separation/distractor/latents"] < 0.1
    assert found["separation/distractor/env_latents"] > 0.8
    assert holds(report)["action_under_distractors"] is True
    assert holds(report)["env_takes_distractor"] is True


def test_a_stream_that_looks_at_the_patch_loses_the_action(black_world: World):
    class Swapped(Oracle):
        def encode_features(self, features, text=None, text_mask=None):
            found = super().encode_features(features)
            assert found.env is not None
            return replace(found.env, env=replace(found, env=None))

    report = evaluate(tiny_lam(Swapped, black_world, streams="joint"), black_world, episodes=HELD_OUT)
    assert report.figures["separation/distractor/latents"] > 0.8
    assert holds(report)["env_takes_distractor"] is False


def test_labels_that_say_nothing_lose_nothing(black_world: World):
    """A share of next to nothing is a matter of chance: there is no verdict about it, and no warning in the answer."""
    report = evaluate(tiny_lam(), black_world, episodes=HELD_OUT)
    clean = report.figures["separation/action_clean/codes"]
    assert clean < 0.05
    assert "separation/action_kept/codes" not in report.figures
    assert "action_under_distractors" not in holds(report)
    assert "suffer" not in answer_of(report).text
    (reading,) = [s.reading for s in report.sections if s.title == "Do labels survive something else that moves?"]
    assert reading.startswith("The one-hot codes say too little about the action to lose any of it")


@pytest.mark.parametrize(("value", "spread", "expected"), [(0.85, 0.1, None), (0.85, 0.01, True), (0.5, 0.01, False)])
def test_a_share_that_may_lie_on_either_side_of_the_bound_is_unclear(
    value: float, spread: float, expected: bool | None, black_world: World, monkeypatch: pytest.MonkeyPatch
):
    measured = distractor.separation

    def near(evidence):
        carried, bootstrap, size = measured(evidence)
        draws = value + spread * torch.linspace(-2, 2, 1000, dtype=torch.float64)
        for found in carried.values():
            if "action_kept" in found:
                found["action_kept"] = Estimate(value, draws, bootstrap.interval(draws))
        return carried, bootstrap, size

    monkeypatch.setattr(distractor, "separation", near)
    report = evaluate(tiny_lam(Oracle, black_world, streams="joint"), black_world, episodes=HELD_OUT)
    assert holds(report)["action_under_distractors"] is expected
