"""Meta-World's paired scenes: they start in the middle, and show no goal. What every world promises: test_worlds.py."""

from importlib.util import find_spec

import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.sim import find_tasks, make

PAIRS = find_tasks("metaworld-pairs")


@pytest.mark.parametrize("name", PAIRS)
def test_experts_win_from_the_middle(name: str) -> None:
    env = make(name)
    for seed in range(3):
        env.start(seed)
        assert 0.45 <= env.objects()[0] <= 0.55  # of the joint's range
        while not env.outcome.decided and env.steps < env.max_steps:
            env.act(env.expert())
        assert env.outcome == (True, False)
        assert env.objects()[0] <= 0.15 or env.objects()[0] >= 0.85


def test_the_goal_of_a_pair_cannot_be_seen() -> None:
    env = make(PAIRS[0])
    model = env.cameras._model
    goals = [site for site in range(model.nsite) if model.site(site).name.startswith("goal")]
    assert goals
    assert (model.site_rgba[goals, 3] == 0).all()
