"""How many known actions are enough: a curve over training episodes whose ends are known."""

import pytest
import torch

from lattok.evaluation import evaluate
from tests.evaluation.worlds import STRIDE, World


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_curve_ends_at_the_probe_of_all_and_says_where_it_is_flat(noise):
    world = World(episodes=13, length=32)
    torch.manual_seed(0)
    wide = torch.from_numpy(world.actions) @ torch.randn(3, 40) + noise * torch.randn(13, 32, 40)
    found = evaluate(world, labels=[*wide], stride=STRIDE, episodes="8:13").figures
    assert found["r2_of_episodes/8"] == found["r2_from_latents/latents"]
    assert found["r2_of_scattered_pairs/8"] == pytest.approx(found["r2_of_episodes/8"], abs=1e-9)
    sizes = [int(key.split("/")[1]) for key in found if key.startswith("r2_of_episodes/")]
    assert sizes == [1, 2, 4, 8]
    if noise:  # numbers to learn that one episode does not hold
        assert found["r2_of_episodes/1"] < found["r2_of_episodes/2"] < 0.95 * found["r2_of_episodes/8"]
        assert found["r2_of_scattered_pairs/1"] > found["r2_of_episodes/1"] - 0.2
        assert found["known_episodes_enough"] in (4, 8)
    else:
        assert found["known_episodes_enough"] <= 4  # 7 different actions an episode, of 40 numbers each
