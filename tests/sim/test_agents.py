"""Policies as agents: what they are shown and told, what is refused before anything moves, what is only noted."""

import json
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("gymnasium") is None or find_spec("mujoco") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

import lattok
from lattok.cli import main
from lattok.data import ActionSpace
from lattok.data.actions.space import UNIFIED, UNIFIED_STATE
from lattok.sim import rollout
from lattok.sim.agents import open_agent
from lattok.sim.rollout import SEEDS
from lattok.sim.worlds import tasks_by_instructions
from lattok.types import Policy, PolicyBatch
from tests.errors import refused
from tests.sim.toy import Toy
from tests.vla.fakes import policy

FRONT = "observation.images.front"
SIZES: dict[str, Any] = {
    "cameras": (FRONT,),
    "camera_sizes": ((16, 16),),
    "proprio_dim": 1,
    "proprio_names": ("place",),
    "action_dim": 2,
    "action_names": ("x", "y"),
    "horizon": 4,
    "n_action_steps": 3,
    "fps": 10.0,
}


def trained(kind: Any = None, **changes: Any) -> Any:
    """A policy that goes somewhere, by tokens of that kind."""
    chunks = 0.5 + torch.randn(50, 4, 2, generator=torch.Generator().manual_seed(0))
    model = policy(**SIZES | changes, tokenizer=None if kind is None else kind.fit(chunks))
    model.action_normalizer.fit(0.5 + torch.randn(50, model.config.action_dim))
    return model


def test_a_policy_sees_its_own_cameras_at_their_size_and_plans_in_one_batch(monkeypatch) -> None:
    model, seen = trained(), []
    predict = model.predict_chunk
    monkeypatch.setattr(model, "predict_chunk", lambda observation: seen.append(observation) or predict(observation))
    Toy.made.clear()
    found = rollout(model, "toy", 2, batch=4)
    assert seen[0]["task"] == ["go left", "go right"] * 2
    assert seen[0].keys() == {FRONT, "observation.state", "task"}
    assert seen[0][FRONT].shape == (4, 16, 16, 3)
    assert {name for env in Toy.made for name in env.cameras.rendered} == {"front"}
    assert len(seen) == -(-max(played.decisions for played in found.episodes) // 3)
    assert found.options["execute"] == 3
    assert found.agent == model.describe()
    assert found.notes == ()


class Leftwards(Policy):
    """A policy of another package: left where it is told so, as fast as its state says."""

    type, horizon, cameras, image_size, state_key = "leftwards", 2, (FRONT,), 8, "observation.state"

    def predict_chunk(self, batch: PolicyBatch) -> torch.Tensor:
        assert batch.images.shape[1:] == (1, 8, 8, 3)
        assert batch.proprio is not None
        ways = torch.tensor([-1.0 if "left" in text else 1.0 for text in batch.texts])
        return torch.stack([ways + 0 * batch.proprio[:, 0], 0 * ways], 1)[:, None].repeat(1, self.horizon, 1)


def test_a_policy_of_another_package_acts() -> None:
    found = rollout(Leftwards(), "toy", 2)
    assert found.agent["type"] == "leftwards"
    alone = rollout(lambda _, text: [[-1.0 if "left" in text else 1.0, 0.0]] * 2, "toy", 2)
    assert found.episodes == alone.episodes
    other = Leftwards()
    other.state_key = "observation.arm"
    refused("the policy reads observation.arm, and toy/left has none", rollout, other, "toy", 1)


@pytest.mark.parametrize("kind", [None, lattok.UniformBins, lattok.FAST])
def test_a_policy_does_the_same_whatever_stands_beside_it(kind: Any) -> None:
    alone = rollout(trained(kind), "toy", 5, batch=1)
    assert len({played.decisions for played in alone.episodes}) > 1
    assert rollout(trained(kind), "toy", 5, batch=4).episodes == alone.episodes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cameras": ("observation.images.top",)}, "the policy looks at observation.images.top, and toy/left has"),
        ({"proprio_dim": 3, "proprio_names": ()}, "the policy reads 3 numbers of observation.state, and toy/left"),
        ({"action_dim": 3, "action_names": ()}, "the policy's actions have 3 numbers, and toy/left takes 2 (x, y)."),
        ({"fps": 20.0}, "toy/left takes 10 decisions a second, and the policy learned from 20. Give repeat=2."),
        ({"camera_sizes": ((16, 24),)}, "`model`: expected a policy with square images of one size, as simulators"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    said = refused(None, lambda: rollout(trained(**changes), "toy/left", 1))
    assert said.startswith(text)


ROBOT = {
    "actions": [{"part": "position", "axes": ["x", "-y"], "scale": 0.5, "arm": "left"}],
    "state": [{"part": "position", "mode": "absolute", "axes": ["-x"], "arm": "left"}],
}


def unified(**trained_on: Any) -> Any:
    """A policy of the unified spaces that learned from the point's demonstrations, its actions in half metres."""
    absent = (tuple(range(2, 44)),)
    names = {"action_names": UNIFIED.names, "proprio_names": UNIFIED_STATE.names, "absent": absent}
    model: Any = policy(**SIZES | {"action_dim": 44, "proprio_dim": 46, **names})
    model.proprio_normalizer.fit(torch.randn(50, 46) * (torch.arange(46) == 0))
    model.trained_on = {"dataset": "point", "action_space": UNIFIED.to_json(), "robot_spaces": ROBOT} | trained_on
    return model


def test_a_policy_of_other_numbers_than_its_robots_acts_in_the_robots(monkeypatch) -> None:
    """Its state is minus the point's x, as the left arm's; x is its actions in units of half a metre."""
    model, seen, plans = unified(), [], []
    predict = model.predict_chunk

    def watched(observation: dict[str, Any]) -> torch.Tensor:
        seen.append(observation["observation.state"])
        plans.append(predict(observation))
        return plans[-1]

    monkeypatch.setattr(model, "predict_chunk", watched)
    Toy.made.clear()
    told = {part: ActionSpace.of(space).to_json() for part, space in ROBOT.items()}
    assert rollout(model, "toy/left", 1, batch=1).agent == model.describe() | {"robot_spaces": told}
    (env,), states = Toy.made, torch.cat(seen)
    assert states.shape[1:] == (46,)
    assert not states[:, 1:].any()
    assert states[0, 0] == pytest.approx(-np.random.default_rng([SEEDS, 0]).uniform(-0.3, 0.3))
    planned = torch.cat([chunk[0, :3, :2] for chunk in plans]).numpy()[: len(env.actions)]
    np.testing.assert_allclose(np.stack(env.actions), (planned * [2, -2]).clip(-1, 1), atol=1e-6)


def test_what_a_policy_of_other_numbers_lacks_is_named() -> None:
    moved = unified()
    moved.proprio_normalizer.fit(torch.randn(50, 46) * (torch.arange(46) < 2))
    refused("`robot_spaces`: expected left_y too, as in the policy's training, got posi", rollout, moved, "toy", 1)
    three = [{"part": "position", "arm": "left"}]
    refused(r"the policy's actions have 3", lambda: rollout(unified(robot_spaces=ROBOT | {"actions": three}), "toy", 1))
    absolute = [{"part": "position", "mode": "absolute", "arm": "left"}]
    refused("unified actions are not", lambda: rollout(unified(robot_spaces=ROBOT | {"actions": absolute}), "toy", 1))
    joints = [*ROBOT["actions"], {"part": "joints", "n": 3, "arm": "left"}]
    refused("unified actions are not", lambda: rollout(unified(robot_spaces=ROBOT | {"actions": joints}), "toy", 1))


def test_actions_that_were_converted_to_a_simulators_are_given_as_they_are() -> None:
    """Only what is unified is given in the robot's own numbers: the robot of the data may be another one."""
    plain, said = trained(), trained()
    said.trained_on = {
        "dataset": "a",
        "action_space": [{"part": "position", "axes": ["x", "y"]}],
        "robot_spaces": ROBOT,
    }
    said.load_state_dict(plain.state_dict())
    assert rollout(said, "toy", 2).episodes == rollout(plain, "toy", 2).episodes


def test_what_may_be_meant_is_only_noted() -> None:
    model = trained(fps=5.0, instructions=("go left", "go up"))
    assert rollout(model, "toy", 1, repeat=4).notes == (
        "toy/left takes 10 decisions a second, and the policy learned from 5",
        "toy/right takes 10 decisions a second, and the policy learned from 5",
        "the policy never saw the instruction 'go right' (toy/right)",
    )
    assert rollout(model, "toy/right", 1, repeat=8, instruction="blank").notes == ()
    deaf = trained(prompt="What now?", instructions=("go up",))
    assert rollout(deaf, "toy", 1).notes == ()


class Lerobot(torch.nn.Module):
    """What a rollout uses of a policy of LeRobot; goes where the image is bright."""

    def __init__(self, n_obs_steps: int = 1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        shapes = {FRONT: (3, 16, 16), "observation.state": (1,)}
        self.config = SimpleNamespace(
            type="act",
            n_obs_steps=n_obs_steps,
            n_action_steps=2,
            input_features={key: SimpleNamespace(shape=shape) for key, shape in shapes.items()},
            output_features={"action": SimpleNamespace(shape=(2,))},
        )

    def predict_action_chunk(self, batch: dict[str, Any]) -> torch.Tensor:
        assert batch[FRONT].shape[1:] == (3, 16, 16)
        assert batch[FRONT].dtype == torch.float32
        place = (batch[FRONT].mean((1, 2, 3)) * 255 - 128) / 100
        torch.testing.assert_close(place, batch["observation.state"][:, 0], atol=0.02, rtol=0)
        way = [1.0 if "right" in text else -1.0 for text in batch["task"]]
        return torch.tensor(way)[:, None, None].expand(-1, 4, 2) / 2


def test_a_policy_of_lerobot_acts_through_its_own_methods() -> None:
    found = rollout(Lerobot(), "toy", 2)
    assert found.score().success == 1
    assert found.options["execute"] == 2
    assert found.agent["type"] == "lerobot/act"
    assert len(found.agent["weights_sha256"]) == 64
    refused("`model`: expected a policy that looks at one", lambda: rollout(Lerobot(n_obs_steps=2), "toy", 1))


def test_the_command_rolls_out_and_says_what_it_found(tmp_path, capsys) -> None:
    trained(instructions=("go left",)).save_pretrained(tmp_path / "policy")
    words = ["rollout", str(tmp_path / "policy"), "--env", "toy", "--episodes", "2", "--variation", "light"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "all " in said.out
    assert "toy/right " in said.out
    assert said.err == "note: the policy never saw the instruction 'go right' (toy/right)\n"
    folder = tmp_path / "policy" / "rollouts"
    assert f"Results: {folder / 'rollouts.json'}" in said.out
    page = (folder / "rollouts.html").read_text()
    assert page.count("<video") == 2
    outcomes = [each["success"] for each in json.loads((folder / "rollouts.json").read_text())["episodes"][::2]]
    assert page.count("success, seed ") == sum(outcomes)
    assert sorted(path.name for path in folder.iterdir()) == [
        "rollouts.html",
        "rollouts.json",
        "sheet.png",
        "speed.json",
        "toy-left-1000000.mp4",
        "toy-right-1000000.mp4",
    ]
    for more, text in (
        (["toy", "--variation", "lights"], "`variation`: expected one of background, light, camera, distractors"),
        (["toy", "--variation", "distractors"], "`variation`: expected distractors=N with a whole number, got"),
        (["toy", "--variation", "light=off"], "`variation`: expected light without a value, got 'light=off'. Leave it"),
        (["toy/up"], "`tasks`: expected one of toy/left, toy/right, got 'toy/up'"),
    ):
        assert main([*words[:2], "--env", *more]) == 2
        assert text in capsys.readouterr().err


def test_without_tasks_it_acts_where_it_knows_what_it_is_told(tmp_path, capsys) -> None:
    trained(instructions=("go left", "fly")).save_pretrained(tmp_path / "policy")
    words = ["rollout", str(tmp_path / "policy"), "--episodes", "1", "--videos", "0"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("Tasks with instructions that the policy knows: toy/left\n")
    assert "Watch it" not in said
    trained(instructions=("fly",)).save_pretrained(tmp_path / "bird")
    assert main(["rollout", str(tmp_path / "bird")]) == 2
    assert (
        "`env`: expected tasks, or a policy that knows the instruction of one, got neither" in capsys.readouterr().err
    )


def test_tasks_are_those_of_the_world_that_knows_most_of_what_is_told_and_has_the_pace() -> None:
    known = lattok.LatentVLA.from_pretrained("sample/policy").config
    found = tasks_by_instructions(known.instructions, known.fps)
    assert len(found) == 9  # its own `reach` names a colour
    assert {name.partition("/")[0] for name in found} == {"metaworld"}
    assert tasks_by_instructions(("open the drawer", "close the drawer"), 80 / 4) == [  # the first of two with as many
        "metaworld-pairs/drawer-open",
        "metaworld-pairs/drawer-close",
    ]
    assert tasks_by_instructions(("open the drawer",), 7.0) == []
    assert tasks_by_instructions((), None) == []


def test_without_lerobot_its_checkpoints_are_refused(tmp_path) -> None:
    if find_spec("lerobot") is not None:
        pytest.skip("lerobot is there")
    (tmp_path / "config.json").write_text('{"type": "act"}')
    refused("`model`: expected a policy of lattok, or LeRobot installed", open_agent, str(tmp_path))
