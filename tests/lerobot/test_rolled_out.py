"""A checkpoint of the plugin acts in simulators as the policy does that it was made of."""

from __future__ import annotations

import pytest

from tests.vla import fakes

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]


def test_a_checkpoint_acts_as_its_policy_does(tmp_path) -> None:
    pytest.importorskip("mujoco", reason="needs the extra sim")
    export = pytest.importorskip(
        "lerobot_policy_lattok.export", reason="pip install ./integrations/lerobot_policy_lattok"
    )
    from lattok.sim import rollout
    from lattok.sim.agents import LeRobotAgent, open_agent
    from tests.sim.toy import Toy

    cameras = ("observation.images.front", "observation.images.wrist")
    names = {"proprio_names": Toy.state_names, "action_names": ("x", "y")}
    told = {"fps": 10.0, "instructions": ("go left", "go right"), "n_action_steps": 3}
    made = fakes.policy(
        cameras=cameras, camera_sizes=((16, 16),) * 2, proprio_dim=len(Toy.state_names), action_dim=2, **names, **told
    ).eval()
    export.export(made, tmp_path)
    agent = open_agent(str(tmp_path), device="cpu")
    assert isinstance(agent, LeRobotAgent)
    assert agent.steps == 3
    assert agent.describe()["type"] == "lerobot/lattok"
    assert rollout(agent, "toy", 4).episodes == rollout(made, "toy", 4).episodes
