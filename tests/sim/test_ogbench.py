"""OGBench's tasks: what counts as done, where episodes start. What every world promises: test_worlds.py."""

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("ogbench") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.sim import SimEnv, make
from lattok.sim.worlds.ogbench import TASKS

RNG = np.random.default_rng(0)


def play(env: SimEnv, seed: int) -> list[np.ndarray]:
    """Let the expert act, with noise, until the episode is over: the objects' states."""
    env.start(seed)
    states = [env.objects()]
    while not env.outcome.decided and env.steps < env.max_steps:
        env.act(env.expert() + RNG.normal(scale=0.1, size=5))
        states.append(env.objects())
    return states


def test_a_cube_that_is_stacked_lies_on_the_other_and_is_let_go() -> None:
    env = make("ogbench/stack-red")
    for seed in range(3):
        states = play(env, seed)
        assert env.outcome.success
        red, blue = states[-1][:3], states[-1][3:6]
        np.testing.assert_allclose(red - blue, [0, 0, 0.04], atol=0.04)
        assert abs(red[2] - blue[2] - 0.04) <= 0.01
        assert env.state()[-1] < 0.1  # touches nothing
        assert np.linalg.norm(states[0][:2] - states[0][3:5]) > 0.1
        assert not states[0][6:].any()  # no drawer, no window, no buttons


def test_a_cube_goes_into_the_drawer_which_is_open_and_not_locked() -> None:
    env = make("ogbench/cube-drawer")
    for seed in range(2):
        states = play(env, seed)
        assert env.outcome.success
        np.testing.assert_allclose(states[0][6:], [-0.16, 0, 1, 1], atol=1e-6)
        assert states[-1][1] < -0.2  # y: left
        assert states[-1][2] > 0.05  # off the table


def test_a_button_that_was_pressed_has_another_state() -> None:
    env = make("ogbench/button-right")
    for seed in range(3):
        states = play(env, seed)
        assert env.outcome.success
        np.testing.assert_array_equal((states[0][8:], states[-1][8:]), [[1, 1], [1, 0]])


def test_every_task_has_an_opposite_in_its_scene_with_other_words() -> None:
    for name, task in TASKS.items():
        other = TASKS[task.opposite]
        assert (other.opposite, other.scene) == (name, task.scene)
    assert len({task.instruction for task in TASKS.values()}) == len(TASKS)
