"""What a policy knows of its robot's own numbers; the maps themselves are tested where they act: serving and sim."""

import json

import pytest

from lattok.data import ActionSpace
from lattok.data.views import trained_space
from lattok.vla import LatentVLA
from lattok.vla.spaces import robot_spaces
from tests.errors import refused
from tests.vla.fakes import config

OWN = {"actions": [{"part": "position", "arm": "left"}], "state": [{"part": "position", "mode": "absolute"}]}
SAID = {"episodes": [[0, 1]], "action_space": [{"part": "position"}]}


def test_the_policy_of_one_dataset_of_a_mixture_knows_its_robot(tmp_path):
    mixed = LatentVLA.build(config(normalizers=("a", "b"), backbone_train="full"))
    assert (trained_space(mixed.trained_on), robot_spaces(mixed)) == (None, {})
    mixed.trained_on = {"mixture": [{"dataset": "a", **SAID, "robot_spaces": OWN}, {"dataset": "b", **SAID}]}
    assert trained_space(mixed.trained_on) == ActionSpace.of(SAID["action_space"])
    assert robot_spaces(mixed) == robot_spaces(mixed.for_dataset("b")) == {}
    chosen = LatentVLA.from_pretrained(mixed.for_dataset("a").save_pretrained(tmp_path / "a"))
    assert robot_spaces(chosen) == {part: ActionSpace.of(space) for part, space in OWN.items()}


def test_grippers_are_found_in_a_robots_own_names(tmp_path):
    """Not in the name of its dataset, and a robot may have none."""
    names = ("arm.x", "arm.y", "arm.gripper", "gripper_cart.vx", "gripper_cart.vy")
    own = {"action_widths": (3, 2), "absent": ((3, 4), (0, 1, 2)), "action_dim": 5, "action_names": names}
    made = config(normalizers=("arm", "gripper_cart"), action_loss="l2_bce", backbone_train="full", **own)
    policy = LatentVLA.build(made)
    assert policy.config.gripper == policy.head.gripper == (2,)
    for name, dims, loss, grippers in (("arm", 3, "l2_bce", (2,)), ("gripper_cart", 2, "l2", ())):
        chosen = LatentVLA.from_pretrained(policy.for_dataset(name).save_pretrained(tmp_path / name))
        head = chosen.head
        assert (chosen.config.action_dim, head.kind, head.gripper) == (dims, loss, grippers)


LIST = ("robot_spaces.actions", "a list of objects, its parts")


@pytest.mark.parametrize(
    ("wrong", "where", "expected"),
    [([1], "robot_spaces", "a value of type dict"), ({"actions": "bridge"}, *LIST), ({"actions": [1]}, *LIST)],
)
def test_what_is_no_space_is_refused(wrong, where, expected, tmp_path):
    folder = LatentVLA.build(config(backbone_train="full")).save_pretrained(tmp_path / "p")
    (folder / "training.json").write_text(json.dumps({"dataset": "a", "robot_spaces": wrong}))
    refused(rf"`{where}` in `.*`: expected {expected}, got", LatentVLA.from_pretrained, folder)
