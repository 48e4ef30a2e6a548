"""Whether the latents help a decoder is judged by what is printed."""

import pytest

from lattok.evaluation import evaluate
from lattok.evaluation.questions.dependence import AGAINST_BLIND, BLIND, DEPENDENCE, _verdicts
from tests.evaluation.worlds import HELD_OUT, World, tiny_lam


@pytest.mark.parametrize(
    ("true", "holds", "text"),
    [(0.9, True, "below"), (0.9975, None, "about"), (1.004, None, "about"), (1.1, False, "above")],
)
def test_a_loss_that_is_printed_as_equal_is_not_called_less(true: float, holds: bool | None, text: str):
    """As of a decoder that hardly uses latents, whose loss is .9975 of that without them."""
    (verdict,) = [
        each for each in _verdicts({"true": true, "shuffled_in_episode": 1, BLIND: 1}) if each.about == AGAINST_BLIND
    ]
    assert (verdict.holds, f"is {text} that of" in verdict.text) == (holds, True)


@pytest.mark.ci
def test_without_another_pair_in_any_episode_nothing_is_said_of_exchanging_them():
    """Such pairs kept their own latents, and a good decoder was said to depend on none."""
    model, world = tiny_lam(stride="1"), World(episodes=10, length=2)
    report = evaluate(model, world, episodes=HELD_OUT)
    assert "prediction_loss/shuffled" in report.figures
    assert "prediction_loss/shuffled_in_episode" not in report.figures
    assert not [each for each in report.verdicts if each.about == DEPENDENCE]
