"""What every world promises: equal seeds, paired scenes, experts that win, what a variation changes and what not."""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from gymnasium.utils.env_checker import check_env

from lattok.sim import SimEnv, Variation, find_tasks, make, worlds
from lattok.utils.registry import Registry
from tests.errors import refused

pytestmark = pytest.mark.ci

HERE = ["metaworld"] + ["ogbench"] * (find_spec("ogbench") is not None)  # not for Python 3.13
DRAWERS = ["metaworld-pairs/drawer-open", *(f"{world}/drawer-open" for world in HERE[1:])]
PAIRS = [
    ("metaworld-pairs", "drawer-open", "drawer-close"),
    ("metaworld-pairs", "faucet-open", "faucet-close"),
    *(("ogbench", *pair) for pair in (("drawer-open", "drawer-close"), ("cube-left", "cube-right")) if HERE[1:]),
]
Maker = Callable[[str], SimEnv]


def played(env: SimEnv, seed: int) -> list[np.ndarray]:
    """States of robot and objects while the expert acts until the end of the episode."""
    env.start(seed)
    states = [np.concatenate([env.state(), env.objects()])]
    while not env.outcome.decided and env.steps < env.max_steps:
        env.act(env.expert())
        states.append(np.concatenate([env.state(), env.objects()]))
    return states


@pytest.fixture(scope="module")
def made() -> Iterator[Maker]:
    """A task, made once: an episode does not depend on what was before."""
    known: dict[str, SimEnv] = {}

    def get(name: str) -> SimEnv:
        if name not in known:
            known[name] = make(name, size=32)
        return known[name]

    yield get
    for env in known.values():
        env.close()


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_the_tasks_of_a_pair_start_the_same_and_the_end_of_one_is_the_failure_of_the_other(
    pair: tuple[str, str, str], images: None, made: Maker
) -> None:
    world, *tasks = pair
    one, other = (made(f"{world}/{task}") for task in tasks)
    assert (one.instruction, one.opposite) == (other.opposite, other.instruction)
    for seed in range(2):
        one.start(seed)
        other.start(seed)
        first, second = one.observe(), other.observe()
        for key in one.features:
            np.testing.assert_array_equal(first[key], second[key])
        while not other.outcome.decided:
            other.act(one.expert())
            one.act(one.expert())
        assert (one.outcome, other.outcome) == ((True, False), (False, True))


@pytest.mark.parametrize("name", DRAWERS)
def test_an_episode_is_its_seed_whatever_was_before(name: str, made: Maker) -> None:
    env, fresh = made(name), make(name)
    other = played(env, 3)
    before = played(env, 5)
    np.testing.assert_array_equal(before, played(fresh, 5))
    assert not np.array_equal(other[0], before[0])


@pytest.mark.parametrize("name", DRAWERS)
def test_what_comes_after_the_outcome_does_not_change_it(name: str, made: Maker) -> None:
    env = made(name)
    played(env, 0)
    for _ in range(20):
        env.act(np.eye(len(env.action_names))[1] * 0.5)
    assert env.outcome == (True, False)


@pytest.mark.parametrize("name", DRAWERS)
def test_every_variation_changes_the_picture_and_nothing_else(name: str, images: None, made: Maker) -> None:
    env = made(name)
    env.start(1)
    plain = env.observe()
    key = f"observation.images.{env.cameras.names[0]}"
    varied = make(name, size=32, variation=Variation(background=True))
    try:
        for variation in (None, Variation(light=True), Variation(camera=True), Variation(distractors=5)):
            varied.cameras._variation = variation or varied.cameras._variation  # to make an environment takes a second
            pictures = []
            for seed in (1, 2, 1):
                varied.start(seed)
                pictures.append(varied.observe())
            np.testing.assert_array_equal(pictures[0][key], pictures[2][key])  # drawn from the seed
            assert np.abs(pictures[0][key].astype(int) - plain[key]).mean() > 0.5
            for state in ("observation.state", "observation.environment_state"):
                np.testing.assert_array_equal(pictures[0][state], plain[state])
    finally:
        varied.close()


@pytest.mark.parametrize("name", [name for name in DRAWERS if name.startswith("metaworld")])
def test_another_layout_is_beyond_the_usual_one_and_can_be_solved(name: str, made: Maker) -> None:
    usual, env = made(name), make(name, size=32, variation=Variation(layout=True))
    places = []
    for seed in range(12):
        usual.start(seed)
        env.start(seed)
        places.append((usual.objects()[1], env.objects()[1]))  # x of the drawer's handle
        while not env.outcome.decided and env.steps < env.max_steps:
            env.act(env.expert())
        assert env.outcome.success, seed
    inside, outside = np.abs(np.array(places).T)
    assert inside.max() <= 0.1 < outside.min() <= outside.max() <= 0.15 + 1e-6
    env.start(0)
    assert env.objects()[1] == places[0][1]  # drawn from the seed


@pytest.mark.skipif(not HERE[1:], reason="ogbench is not installed")
def test_a_world_that_cannot_be_rearranged_says_so() -> None:
    refused("^`variation`: expected layout only", lambda: make("ogbench/drawer-open", variation=Variation(layout=True)))


@pytest.mark.parametrize("name", DRAWERS)
@pytest.mark.filterwarnings("ignore:.*Box observation space m:UserWarning")  # states have no limits
def test_gymnasium_accepts_it(name: str, images: None, made: Maker) -> None:
    env = made(name)
    check_env(env, skip_render_check=True)
    _, reward, terminated, truncated, info = env.step(np.zeros(len(env.action_names)))
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"success": False, "failure": False})
    assert env.render().shape == (32, 32, 3)


@pytest.mark.parametrize("name", DRAWERS)
def test_wrong_actions_are_refused(name: str, made: Maker) -> None:
    env = made(name)
    env.start(0)
    count, names = len(env.action_names), ", ".join(env.action_names)
    why = rf"^`action`: expected {count} numbers \({names}\) for {name}, got shape \[3\]"
    refused(why, env.act, np.zeros(3))
    refused(r"^`action`: expected finite numbers, got nan in", env.act, np.where(np.arange(count) == 2, np.nan, 0))


@pytest.mark.parametrize(
    ("world", "python", "why"),
    [
        ("ogbench", (3, 13, 0), "labmaze, which its dm-control needs, has no wheel for this Python. Use Python 3.12.$"),
        ("metaworld-pairs", (3, 14, 1), "its mujoco 3.3.0 has no wheel for this Python. Use Python 3.13.$"),
        ("metaworld", (3, 13, 9), r"which is not installed. Run: pip install .*\[sim\]"),
    ],
)
def test_a_world_that_this_python_cannot_have_says_which_can(
    world: str, python: tuple[int, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "metaworld", "ogbench")
    monkeypatch.setattr("sys.version_info", python)
    refused(why, find_tasks, world)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let these packages be missing, and nobody have looked at a world."""
    ours = Registry[type[SimEnv]]("lattok.worlds", named=worlds.WORLDS.named)
    monkeypatch.setattr(worlds, "WORLDS", ours)
    for name in worlds.MODULES.values():
        monkeypatch.delitem(sys.modules, f"lattok.sim.worlds.{name}", raising=False)
    for name in {*packages, *(name for name in sys.modules if name.split(".")[0] in packages)}:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", find_tasks(HERE))
def test_experts_win(name: str) -> None:
    env = make(name)
    won = []
    for seed in range(5):
        played(env, seed)
        won.append(env.outcome.success)
    assert sum(won) >= (3 if env.world == "metaworld" else 4)
