"""Conventions of published datasets: recognised by evidence, against the code and recordings of their makers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from docs.convention_page import MARK, on_page_markdown
from lattok.data import convert_actions, inspect_dataset, open_dataset
from lattok.data.actions import conventions
from lattok.data.actions.conventions import CONVENTIONS, Convention, convention_of, convention_text
from lattok.data.actions.space import PRESETS, ActionSpace
from lattok.data.schema import Feature
from tests.real import BRIDGE, REAL, needs_real

OSC = {"type": "OSC_POSE", "output_max": [0.05] * 3 + [0.5] * 3, "control_delta": True}
OSC_15 = {"type": "BASIC", "body_parts": {"right": {**OSC, "input_type": "delta", "input_ref_frame": "base"}}}


def control_of(each: Convention) -> Any:
    """What the files of it say of their controller."""
    ours = {"robosuite": {"env_kwargs": {"controller_configs": OSC}}, "Isaac Lab": {"env_name": "Isaac-Lift-v0"}}
    return {**ours, "ManiSkill, Panda": "pd_joint_pos"}.get(each.name)


def dataset_of(each: Convention, **changes: Any) -> Any:
    """A dataset with no more than the evidence."""
    traits, control = each.traits, control_of(each)
    action = each.action(control) if callable(each.action) else each.action
    size = action.dim if isinstance(action, ActionSpace) else 7
    keys = dict(traits.columns) or dict.fromkeys(each.joined or ["action"], 1)
    if isinstance(action, ActionSpace) and not traits.columns:
        first, *rest = each.joined or ["action"]
        keys = {first: size - len(rest)} | dict.fromkeys(rest, 1)
    features = {key: Feature("float32", (width,), None) for key, width in keys.items()}
    if traits.names:
        width = max(len(traits.names), keys.get("action", 0))
        names = (*traits.names, *map(str, range(width - len(traits.names))))
        features["action"] = Feature("float32", (width,), names)
    origin = traits.origin[0] if traits.origin else ""
    facts = {"origin": origin, "features": features, "robot": traits.robot.replace("*", "x"), "control": control}
    facts["actions_as"] = {}
    return SimpleNamespace(**{**facts, "fps": traits.fps or each.rate or 5.0, **changes})


@pytest.mark.parametrize("each", CONVENTIONS, ids=lambda each: each.name)
def test_a_dataset_is_recognised_by_all_of_the_evidence_alone(each: Convention):
    dataset = dataset_of(each)
    known = convention_of(dataset)
    assert known is not None
    assert known[0] is each
    assert convention_text(dataset).startswith(f"{each.name}: ")
    assert any(character.isdigit() for character in each.source) or "/" in each.source
    other = {key: feature._replace(shape=(99,), names=None) for key, feature in dataset.features.items()}
    none = SimpleNamespace(**{**vars(dataset), "origin": "mine", "robot": "mine", "control": None, "features": other})
    assert convention_of(none) is None  # type: ignore[arg-type]


def test_of_converted_actions_nothing_is_said():
    (libero,) = (each for each in CONVENTIONS if each.name == "LIBERO")
    assert convention_text(dataset_of(libero, actions_as={"action": "open_x"})) == ""


def test_another_rate_is_said():
    (libero,) = (each for each in CONVENTIONS if each.name == "LIBERO")
    assert "recorded at 20 fps" in convention_text(dataset_of(libero, fps=10.0))
    assert "recorded" not in convention_text(dataset_of(libero, fps=20.0))


@pytest.mark.parametrize("config", [OSC, OSC_15])
def test_robosuite_says_its_controller(config: dict[str, Any]):
    assert conventions._osc_pose({"env_kwargs": {"controller_configs": config}}) == PRESETS["robomimic"]


OTHERS = ({"control_delta": False}, {"output_max": [1] * 6}, {"type": 1}, {"input_ref_frame": "world"})


@pytest.mark.parametrize("config", [None, 3, *({**OSC, **other} for other in OTHERS)])
def test_of_another_controller_nothing_is_said(config: Any):
    assert conventions._osc_pose({"env_kwargs": {"controller_configs": config}}) is None
    assert conventions._osc_pose({"env_kwargs": config}) is None


def clipped_and_inverted(gripper: np.ndarray) -> np.ndarray:
    return 1 - np.clip(gripper, 0, 1)  # as Octo and OpenVLA do to LIBERO, where 1 is to close


@pytest.mark.parametrize(
    ("name", "ends", "opened"),
    [
        ("LIBERO of OpenVLA", (-1.0, 1.0), clipped_and_inverted),
        ("BridgeData V2", (0.0, 1.0), lambda gripper: gripper),  # binarised, 1 stays 1
        ("TOTO", (0.0, 1.0), lambda gripper: gripper),  # open_gripper
    ],
)
def test_grippers_as_published_transforms_turn_them(name: str, ends: tuple[float, float], opened: Any):
    (each,) = (each for each in CONVENTIONS if each.name == name)
    assert isinstance(each.action, ActionSpace)
    actions = np.zeros((2, each.action.dim), np.float32)
    actions[:, -1] = ends
    made = convert_actions(actions, each.action, "open_x")
    np.testing.assert_array_equal(made[:, -1], opened(np.array(ends, np.float32)))


@needs_real
def test_bridge_as_it_was_recorded():
    """Changes of the state follow the action, and the gripper is open after a 1."""
    dataset = open_dataset(BRIDGE)
    rows = [dataset.columns(episode.index, ["action", "observation.state"]) for episode in dataset.episodes]
    actions = np.concatenate([each["action"][:-1] for each in rows])
    changes = np.concatenate([np.diff(each["observation.state"], axis=0) for each in rows])
    for i in range(6):
        assert np.corrcoef(actions[:, i], changes[:, i])[0, 1] > 0.7
    gripper = np.concatenate([each["observation.state"][1:, 6] for each in rows])
    assert gripper[actions[:, 6] > 0.5].mean() > gripper[actions[:, 6] < 0.5].mean() + 0.3
    assert "means     BridgeData V2: x y z (delta, m)" in inspect_dataset(dataset).render()


@needs_real
def test_unitree_as_it_was_recorded():
    """Actions are where the joints are a tenth of a second later."""
    dataset = open_dataset(REAL / "g1_bottle_v21")
    rows = dataset.columns(0, ["action", "observation.state"])
    assert np.abs(rows["action"][:-3, :14] - rows["observation.state"][3:, :14]).mean(0).max() < 0.05
    assert convention_text(dataset).startswith("Unitree G1: ")


def test_files_of_a_program_are_recognised(tmp_path):
    pytest.importorskip("h5py")
    from tests.data.specimens import WRITERS

    for name, said in (("aloha", "ALOHA / ACT: left 6 joints"), ("robotwin", "RoboTwin"), ("hdf5", "LIBERO: x y z")):
        dataset = open_dataset(WRITERS[name](tmp_path / name), fps=20)
        assert convention_text(dataset).startswith(said)


def test_the_page_shows_every_row():
    page = on_page_markdown(MARK)
    assert all(f"| {each.name} | " in page and each.source in page for each in CONVENTIONS)
    assert len({line.count(" | ") for line in page.splitlines()[2:]}) == 1
