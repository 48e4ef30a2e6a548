"""How many known actions are enough: a curve over training episodes whose ends are known."""

from typing import Any

import numpy as np
import pytest
import torch

from lattok.evaluation import evaluate
from lattok.evaluation.page import render
from lattok.image_lam.inverse import InferredActions
from lattok.training import LoopOptions
from tests.evaluation.test_inferred import HELD_OUT, LENGTH, Knowing, small
from tests.evaluation.worlds import STRIDE, World

pytestmark = pytest.mark.usefixtures("short_mlps")


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_curve_ends_at_the_probe_of_all_and_says_where_it_is_flat(noise):
    world = World(episodes=13, length=32)
    torch.manual_seed(0)
    wide = torch.from_numpy(world.actions) @ torch.randn(3, 40) + noise * torch.randn(13, 32, 40)
    report = evaluate(world, labels=[*wide], stride=STRIDE, episodes="8:13")
    found = report.figures
    assert found["r2_of_episodes/8"] == found["r2_from_latents/latents"]
    assert found["r2_of_scattered_pairs/8"] == pytest.approx(found["r2_of_episodes/8"], abs=1e-9)
    sizes = [int(key.split("/")[1]) for key in found if key.startswith("r2_of_episodes/")]
    assert sizes == [1, 2, 4, 8]
    assert "from 8 known episodes" not in render(report)  # which would be all beside all
    if noise:  # numbers to learn that one episode does not hold
        assert max(found["r2_of_episodes/1"], found["r2_of_episodes/2"]) < 0.95 * found["r2_of_episodes/8"]
        assert found["r2_of_scattered_pairs/1"] > found["r2_of_episodes/1"] - 0.2
        assert found["known_episodes_enough"] in (4, 8)
    else:
        assert found["known_episodes_enough"] <= 4  # 7 different actions an episode, of 40 numbers each


class Wide(Knowing):
    """Its latents hold the actions in forty numbers."""

    def infer_actions(self, frames: Any, unit: int, task: str = "", states: Any = None) -> InferredActions:
        rows = frames[:, 0, 0, :2, 0].astype(int) @ [1, 256]
        mixed = self.said[rows] @ np.random.default_rng(0).standard_normal((3, 40))
        noise = np.random.default_rng(rows).standard_normal(mixed.shape)
        latents = torch.from_numpy(mixed + noise)[:, None].float()
        return super().infer_actions(frames, unit)._replace(latents=latents)


def test_a_new_head_of_an_inverse_model_is_fitted_to_a_part_of_the_known_episodes():
    world, model = World(episodes=13, length=LENGTH, tasks=2), small(Wide)
    model.said = world.actions.reshape(-1, 3)
    report = evaluate(model, world, episodes=HELD_OUT)
    found, known = report.figures, 13 - len(HELD_OUT)
    sizes = [int(key.split("/")[1]) for key in found if key.startswith("r2_of_episodes/")]
    assert sizes == [1, 2, 4, known]
    train = [episode for episode in range(13) if episode not in HELD_OUT]
    x, x_test = (latents_of(model, world, chosen) for chosen in (train, HELD_OUT))
    y, y_test = (world.actions[chosen].reshape(-1, 3).astype(float) for chosen in (train, HELD_OUT))
    fitted = x_test @ np.linalg.lstsq(x, y, rcond=None)[0]
    r2 = 1 - ((fitted - y_test) ** 2).sum(0) / ((y.mean(0) - y_test) ** 2).sum(0)
    assert found[f"r2_of_episodes/{known}"] == pytest.approx(r2.mean(), abs=0.02)
    assert found["r2_of_episodes/1"] < found[f"r2_of_episodes/{known}"]
    assert abs(found[f"r2_of_state_changes/{known}"]) < 0.1  # states and frames are noise
    assert abs(found[f"r2_of_block_motion/{known}"]) < 0.2
    assert not any("trained_anew" in key for key in found)
    (section,) = [each for each in report.sections if each.title == "How many known actions are enough?"]
    assert "new head on an encoder" in section.text


def latents_of(model: Wide, world: World, episodes: list[int]) -> np.ndarray:
    said = (model.infer_actions(world.video[index], 1) for index in episodes)
    return np.concatenate([np.asarray(each.latents)[:, 0] for each in said]).astype(float)


def test_trained_controls_train_the_network_on_a_part_of_the_known_episodes():
    world, short = World(episodes=11, length=LENGTH), LoopOptions(steps=2, batch_size=8, device="cpu")
    found = evaluate(small(), world, episodes=HELD_OUT, controls="trained", control_loop=short).figures
    sizes = [int(key.split("/")[1]) for key in found if key.startswith("r2_of_episodes_trained_anew/")]
    assert sizes == [1, 3]
