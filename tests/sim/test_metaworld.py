"""Meta-World's tasks: equal seeds, paired scenes, experts, what a variation changes and what not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from gymnasium.utils.env_checker import check_env

from lattok.checks import LattokError
from lattok.sim import SimEnv, Variation, find_tasks, make

PAIRS = find_tasks("metaworld-pairs")


def played(env: SimEnv, seed: int) -> list[np.ndarray]:
    """States of the objects while the expert acts until the end of the episode."""
    env.start(seed)
    states = [env.objects()]
    while not env.outcome.decided and env.steps < env.max_steps:
        env.act(env.expert())
        states.append(env.objects())
    return states


@pytest.fixture
def drawer(images: None) -> Iterator[SimEnv]:
    env = make("metaworld-pairs/drawer-open", size=32)
    yield env
    env.close()


@pytest.mark.parametrize("name", PAIRS)
def test_experts_win_from_the_middle(name: str) -> None:
    env = make(name)
    for seed in range(3):
        states = played(env, seed)
        assert env.outcome == (True, False)
        assert 0.45 <= states[0][0] <= 0.55  # of the joint's range
        assert states[-1][0] <= 0.15 or states[-1][0] >= 0.85


@pytest.mark.parametrize("scene", ["drawer-open drawer-close", "faucet-open faucet-close"])
def test_the_tasks_of_a_pair_start_the_same_and_the_end_of_one_is_the_failure_of_the_other(
    scene: str, images: None
) -> None:
    one, other = (make(f"metaworld-pairs/{task}", size=32) for task in scene.split())
    try:
        for seed in range(3):
            one.start(seed)
            other.start(seed)
            first, second = one.observe(), other.observe()
            for key in one.features:
                np.testing.assert_array_equal(first[key], second[key])
            assert one.instruction != other.instruction
            while not other.outcome.decided:
                other.act(one.expert())
                one.act(one.expert())
            assert (one.outcome, other.outcome) == ((True, False), (False, True))
    finally:
        one.close()
        other.close()


def test_an_episode_is_its_seed_whatever_was_before() -> None:
    env, fresh = make("metaworld-pairs/faucet-open"), make("metaworld-pairs/faucet-open")
    other = played(env, 3)
    before = played(env, 5)
    np.testing.assert_array_equal(before, played(fresh, 5))
    assert not np.array_equal(other[0], before[0])


def test_what_comes_after_the_outcome_does_not_change_it(drawer: SimEnv) -> None:
    played(drawer, 0)
    for _ in range(20):
        drawer.act(np.array([0, 0.5, 0, 0]))
    assert drawer.outcome == (True, False)


def test_every_variation_changes_the_picture_and_nothing_else(drawer: SimEnv) -> None:
    drawer.start(1)
    plain = drawer.observe()
    for variation in (
        Variation(background=True),
        Variation(light=True),
        Variation(camera=True),
        Variation(distractors=5),
    ):
        varied = make(drawer.name, size=32, variation=variation)
        try:
            pictures = []
            for seed in (1, 2, 1):
                varied.start(seed)
                pictures.append(varied.observe())
            key = "observation.images.corner2"
            np.testing.assert_array_equal(pictures[0][key], pictures[2][key])  # drawn from the seed
            assert np.abs(pictures[0][key].astype(int) - plain[key]).mean() > 0.5
            for state in ("observation.state", "observation.environment_state"):
                np.testing.assert_array_equal(pictures[0][state], plain[state])
        finally:
            varied.close()


@pytest.mark.filterwarnings("ignore:.*Box observation space m:UserWarning")  # states have no limits
def test_gymnasium_accepts_it(drawer: SimEnv) -> None:
    check_env(drawer, skip_render_check=True)
    _, reward, terminated, truncated, info = drawer.step(np.zeros(4))
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"success": False, "failure": False})
    assert drawer.render().shape == (32, 32, 3)


def test_the_goal_of_a_pair_cannot_be_seen() -> None:
    env = make(PAIRS[0])
    model = env.cameras._model
    goals = [site for site in range(model.nsite) if model.site(site).name.startswith("goal")]
    assert goals
    assert (model.site_rgba[goals, 3] == 0).all()


def test_wrong_actions_and_names_are_refused() -> None:
    env = make(PAIRS[0])
    env.start(0)
    with pytest.raises(
        LattokError, match=r"^`action`: expected 4 numbers \(x, y, z, gripper\) for .*, got shape \[3\]"
    ):
        env.act(np.zeros(3))
    with pytest.raises(LattokError, match=r"^`action`: expected finite numbers, got nan in dimension z"):
        env.act(np.array([0, 0, np.nan, 0]))
    with pytest.raises(LattokError, match="metaworld-pairs/drawer-open"):
        make("metaworld-pairs/drawer-opn")
    with pytest.raises(LattokError, match="metaworld-pairs"):
        find_tasks("meta-world-pairs")
    with pytest.raises(LattokError, match="one task"):
        make("metaworld-pairs")


@pytest.mark.slow
@pytest.mark.parametrize("name", find_tasks("metaworld"))
def test_experts_win_the_standard_tasks(name: str) -> None:
    env = make(name)
    won = []
    for seed in range(5):
        played(env, seed)
        won.append(env.outcome.success)
    assert sum(won) >= 3
