"""A checkpoint of the plugin, behind the model server for vla-eval and in simulators: it acts as its policy does."""

import importlib
import json

import numpy as np
import pytest
import torch

from lattok.action_vq import UniformBins
from lattok.backbones.model import open_backbone
from lattok.utils.checks import LattokError
from lattok.vla import LatentVLA
from lattok.vla.config import TokenSpec
from tests.vla import fakes

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
SPACE = [{"part": "other", "n": fakes.M}]


@pytest.fixture
def export():
    """The plugin's own, which writes a policy as a checkpoint."""
    reason = "pip install ./integrations/lerobot_policy_lattok"
    return pytest.importorskip("lerobot_policy_lattok.export", reason=reason).export


@pytest.mark.parametrize("steps", [None, 2])
def test_the_servers_actions_are_those_of_the_policy(export, tmp_path, steps):
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    from lerobot_policy_lattok.modeling_lattok import LattokPolicy

    from lattok_vla_eval import PolicyServer

    made = fakes.policy(cameras=fakes.CAMERAS[:1], camera_sizes=((24, 32),)).eval()
    export(made, tmp_path)
    if steps is not None:  # as --policy.n_action_steps writes it
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"n_action_steps": steps}))
    args = {"cameras": {"agentview": "front"}, "state": "states", "benchmark_actions": SPACE, "policy_actions": SPACE}
    server = PolicyServer(str(tmp_path), **args, device="cpu")
    assert server.chunk_size == (steps or made.config.horizon)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    obs = {"images": {"agentview": image}, "states": np.arange(fakes.S), "task_description": "open the drawer"}
    actions = server.predict(obs, None)["actions"]
    batch = {
        fakes.CAMERAS[0]: torch.from_numpy(image).permute(2, 0, 1)[None] / 255,
        "observation.state": torch.arange(fakes.S)[None].float(),
        "task": ["open the drawer"],
    }
    theirs = LattokPolicy.from_pretrained(tmp_path).predict_action_chunk(batch)[0]
    np.testing.assert_array_equal(actions, theirs.numpy())


def test_only_a_new_folder_is_filled_and_a_failure_leaves_nothing(export, tmp_path, monkeypatch):
    made = fakes.policy(cameras=fakes.CAMERAS[:1], camera_sizes=((24, 32),)).eval()
    mine = made.save_pretrained(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    for model in (mine, made):
        with pytest.raises(LattokError, match="`folder`: expected a new or empty folder, got .*mine, which holds some"):
            export(model, mine)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before

    def full(config):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("lerobot_policy_lattok.export.make_lattok_pre_post_processors", full)
        with pytest.raises(OSError, match="no space left"):
            export(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = {path.name for path in export(mine, tmp_path / "out").iterdir()}
    assert written == {*importlib.import_module("lerobot_policy_lattok.export").OWN} - {"parts"}


def test_settings_changed_after_training_are_those_of_the_checkpoint(export, tmp_path):
    """They are exported, saved by LeRobot, and stay as they are in the policy that is exported."""
    from lerobot_policy_lattok.modeling_lattok import LattokPolicy

    tokenizer = UniformBins.fit(torch.randn(50, fakes.H, fakes.M), bins=8)
    made = fakes.config(
        cameras=fakes.CAMERAS[:1], camera_sizes=((24, 32),), head="tokens", tokens=TokenSpec.of(tokenizer)
    )
    policy = LatentVLA(made, open_backbone(made), tokenizer).eval()
    policy.head.temperature, policy.head.draws, policy.queues.n_action_steps = 0.7, 5, 2
    exported = LattokPolicy.from_pretrained(export(policy, tmp_path / "exported"))
    assert settings(policy) == settings(exported.model) == (0.7, 5, 2)
    observed = fakes.observation(made)
    torch.testing.assert_close(exported.predict_action_chunk(observed), policy.predict_chunk(observed))
    exported.model.head.temperature, exported.model.head.draws, exported.model.queues.n_action_steps = 1.0, 3, 1
    exported.save_pretrained(tmp_path / "saved")
    saved = LattokPolicy.from_pretrained(tmp_path / "saved")
    assert settings(saved.model) == (1.0, 3, 1)
    exported.model.head.temperature, exported.model.head.draws, exported.model.queues.n_action_steps = 0.7, 5, 2
    exported.save_pretrained(tmp_path / "back")
    assert settings(LattokPolicy.from_pretrained(tmp_path / "back").model) == (0.7, 5, 2)
    saved.config.n_action_steps = 3  # as a user of LeRobot asks for it
    saved.save_pretrained(tmp_path / "asked")
    assert settings(LattokPolicy.from_pretrained(tmp_path / "asked").model) == (1.0, 3, 3)


def settings(policy):
    return policy.head.temperature, policy.head.draws, policy.queues.n_action_steps


def test_in_a_simulator_it_acts_as_its_policy_does(export, tmp_path):
    pytest.importorskip("mujoco", reason="needs the extra sim")
    from lattok.sim import rollout
    from lattok.sim.agents import LeRobotAgent, open_agent
    from tests.sim.toy import Toy

    cameras = ("observation.images.front", "observation.images.wrist")
    names = {"proprio_names": Toy.state_names, "action_names": ("x", "y")}
    told = {"fps": 10.0, "instructions": ("go left", "go right"), "n_action_steps": 3}
    made = fakes.policy(
        cameras=cameras, camera_sizes=((16, 16),) * 2, proprio_dim=len(Toy.state_names), action_dim=2, **names, **told
    ).eval()
    export(made, tmp_path)
    agent = open_agent(str(tmp_path), device="cpu")
    assert isinstance(agent, LeRobotAgent)
    assert agent.steps == 3
    assert agent.describe()["type"] == "lerobot/lattok"
    assert rollout(agent, "toy", 4).episodes == rollout(made, "toy", 4).episodes
