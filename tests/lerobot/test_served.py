"""A checkpoint of the plugin behind the model server for vla-eval: the actions are those of LeRobot's policy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.vla import fakes

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
SPACE = [{"part": "other", "n": fakes.M}]


@pytest.mark.parametrize("steps", [None, 2])
def test_the_servers_actions_are_those_of_the_policy(tmp_path, steps):
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    export = pytest.importorskip(
        "lerobot_policy_lattok.export", reason="pip install ./integrations/lerobot_policy_lattok"
    )
    from lerobot_policy_lattok.modeling_lattok import LattokPolicy

    from lattok_vla_eval import PolicyServer

    made = fakes.policy(cameras=fakes.CAMERAS[:1], camera_sizes=((24, 32),)).eval()
    export.export(made, tmp_path)
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
