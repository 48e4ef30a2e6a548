"""Action spaces: conversions against scipy's rotations and by hand, what is refused, and datasets in another space."""

import json
import pickle
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Scipy

from lattok.data import action_spaces, declare, open_dataset, with_actions
from lattok.data.actions.convert import convert_actions
from lattok.data.actions.rotations import SIZES, from_matrix, to_matrix
from lattok.data.actions.space import PRESETS, ActionSpace, Gripper, Joints, Other, Position, Rotation
from lattok.data.alike import check_actions
from lattok.data.views import View, with_dimensions
from lattok.samples import ActionWindows
from tests.errors import refused

POSE = ActionSpace((Position("absolute"), Rotation("quaternion_xyzw", "absolute")))


def scipy_numbers(rotation, form):
    """One form by scipy alone."""
    if form == "euler_xyz":
        return rotation.as_euler("xyz")
    if form == "axis_angle":
        return rotation.as_rotvec()
    if form.startswith("quaternion"):
        return rotation.as_quat(canonical=True, scalar_first=form == "quaternion_wxyz")
    matrix = rotation.as_matrix()
    if form == "matrix":
        return matrix.reshape(-1, 9)
    columns = np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1)
    return columns if form == "rot6d" else np.concatenate([matrix[:, 0], matrix[:, 1]], axis=1)


@pytest.mark.parametrize("form", SIZES)
def test_every_form_is_scipys(form, rng):
    rotation = Scipy.random(500, random_state=1)
    np.testing.assert_allclose(to_matrix(scipy_numbers(rotation, form), form), rotation.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(from_matrix(rotation.as_matrix(), form), scipy_numbers(rotation, form), atol=1e-9)


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        ("quaternion_xyzw", [0, 0, 0, 1.1]),
        ("quaternion_wxyz", [0, 0, 0, 0]),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1]),
        ("matrix", [2, 0, 0, 0, 1, 0, 0, 0, 1]),
        ("rot6d", [1, 0, 0, 1, 0, 0]),
    ],
)
def test_numbers_that_are_no_rotation(form, numbers):
    refused(
        rf"`{form}`: expected .*, got a row that is none \(row 1\). Is the declared",
        lambda: convert_actions(
            [from_matrix(np.eye(3)[None], form)[0], numbers], [Rotation(form)], [Rotation("axis_angle")]
        ),
    )


def poses(rng, n):
    """Poses as states [n, 7], with their rotations."""
    rotation = Scipy.random(n, random_state=int(rng.integers(100)))
    return np.concatenate([rng.standard_normal((n, 3)), rotation.as_quat(canonical=True)], axis=1), rotation


def test_deltas_of_both_frames_and_absolute_poses_by_hand(rng):
    state, old = poses(rng, 30)
    target, new = poses(rng, 30)
    step = target[:, :3] - state[:, :3]
    spaces = {
        "absolute": (POSE, target),
        "base": (
            ActionSpace((Position(), Rotation("axis_angle"))),
            np.concatenate([step, (new * old.inv()).as_rotvec()], axis=1),
        ),
        "tool": (
            ActionSpace((Position(frame="tool"), Rotation("rot6d", frame="tool"))),
            np.concatenate([old.inv().apply(step), scipy_numbers(old.inv() * new, "rot6d")], axis=1),
        ),
    }
    for (source, actions), (space, expected) in product(spaces.values(), spaces.values()):
        out = convert_actions(actions, source, space, state=state, state_space=POSE)
        np.testing.assert_allclose(out, expected, atol=2e-5)
        if source != space:
            refused(
                "`state`: expected the (position|rotation) that a step starts from",
                convert_actions,
                actions,
                source,
                space,
            )


def test_increments_are_added_to_angles_and_are_no_rotation(rng):
    angles = rng.uniform(-1, 1, (20, 3))
    grown = rng.uniform(-0.5, 0.5, (20, 3))
    space, state_space = [Rotation("euler_xyz", "increment")], [Rotation("euler_xyz", "absolute")]
    given = {"state": angles, "state_space": state_space}
    out = convert_actions(grown, space, [Rotation("quaternion_xyzw", "absolute")], **given)
    np.testing.assert_allclose(out, Scipy.from_euler("xyz", angles + grown).as_quat(canonical=True), atol=1e-6)
    delta = convert_actions(grown, space, [Rotation("axis_angle")], **given)
    expected = Scipy.from_euler("xyz", angles + grown) * Scipy.from_euler("xyz", angles).inv()
    np.testing.assert_allclose(delta, expected.as_rotvec(), atol=1e-6)
    np.testing.assert_allclose(convert_actions(delta, [Rotation("axis_angle")], space, **given), grown, atol=1e-6)
    assert np.abs(delta - grown).max() > 0.01  # the two differ, which is why one is not taken for the other
    refused("`state`: expected the rotation that a", lambda: convert_actions(grown, space, [Rotation("axis_angle")]))
    other = {"state": Scipy.from_euler("xyz", angles).as_quat(), "state_space": POSE.parts[1:]}
    refused("`state_space`: expected a", lambda: convert_actions(grown, space, [Rotation("axis_angle")], **other))


@settings(max_examples=60)
@given(
    st.integers(0, 2**31), st.sampled_from(["absolute", "delta", "velocity"]), st.sampled_from(["absolute", "delta"])
)
def test_joints_there_and_back(seed, mode, other):
    rng = np.random.default_rng(seed)
    actions, state = rng.uniform(-3, 3, (5, 4)), rng.uniform(-180, 180, (5, 4))
    source, target = [Joints(4, mode)], [Joints(4, other, scale=np.pi / 180)]
    given = {"state": state, "state_space": [Joints(4, scale=np.pi / 180)], "fps": 20.0}
    there = convert_actions(actions, source, target, **given)
    back = convert_actions(there.astype(np.float64), target, source, **given)
    np.testing.assert_allclose(back, actions, atol=1e-3 if mode == "velocity" else 1e-4)
    radians = {"absolute": actions, "delta": actions + np.radians(state)}.get(mode, actions / 20 + np.radians(state))
    if other == "absolute":
        np.testing.assert_allclose(there, np.degrees(radians), atol=1e-3)


def test_axes_signs_scales_and_grippers():
    source = ActionSpace((Position(scale=0.05, axes=("y", "-x", "z")), Gripper("closed_is_plus_1"), Other(2)))
    target = ActionSpace((Other(2), Gripper("open_is_1"), Position()))
    out = convert_actions([[1.0, 2, 3, -1, 7, 8], [0, 0, 0, 0.5, 7, 8]], source, target)
    np.testing.assert_allclose(out, [[7, 8, 1, -0.1, 0.05, 0.15], [7, 8, 0.25, 0, 0, 0]], atol=1e-7)
    conventions = ("open_is_1", "closed_is_1", "open_is_plus_1", "closed_is_plus_1")
    opened, closed = (
        dict(zip(conventions, (1, 0, 1, -1), strict=True)),
        dict(zip(conventions, (0, 1, -1, 1), strict=True)),
    )
    for before, after in product(conventions, conventions):
        out = convert_actions([[opened[before]], [closed[before]]], [Gripper(before)], [Gripper(after)])
        assert out[:, 0].tolist() == [opened[after], closed[after]]  # to the bit


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ([Joints(7, "delta")], "bridge", "position.*Where joints bring the tool is the robot's kinematics"),
        ([Position()], [Joints(7)], "joints.*Which joints reach a pose is the robot's inverse kinematics"),
        ([Gripper("width")], [Gripper("open_is_1")], "a gripper of the convention width, got open_is_1. A width in"),
        ("bridge", "metaworld", r"every part of the source, rotation\(form='euler_xyz'\).*drop=\('rotation',\)"),
        ("metaworld", "bridge", r"`target`: expected parts that the source has \(position\(scale=0.01\), gripper"),
        ([Joints(3)], [Joints(4)], "`target`: expected 3 joints, got 4"),
        ([Joints(2)], [Joints(2, "velocity")], "`fps`: expected frames per second, for joints from absolute to"),
        ([Position(axes=("x", "y"))], [Position()], "`target`: expected the axes x, y in any order, got x, y, z"),
        ([Other(2)], [Other(3)], r"expected other\(n=2\), which is passed on as it is, got other\(n=3\)"),
        ("aloha", [Joints(6, arm="up")], "Leave it out of the target, or name arms alike|joints"),
        ("nowhere", "bridge", "`source`: expected one of bridge, open_x.*got 'nowhere'"),
        ([{"part": "gripper"}], "bridge", "`source: gripper`: expected the fields of Gripper"),
        ([{"part": "claw"}], "bridge", "`source: part`: expected one of position, rotation, joints, gripper, other"),
        ([{"part": "gripper", "way": 1}], "bridge", "`source: gripper`: expected names among arm, convention, got way"),
        ([{"part": "position", "scale": "m"}], "bridge", "`source: position.scale`: expected a value of type float"),
        ([{"part": "position", "axes": 3}], "bridge", "`source: position.axes`: expected a value of type tuple"),
        (3, "bridge", "`source`: expected a list of parts, or one of bridge"),
        ([], "bridge", "`action_space`: expected at least one part, got none"),
        ([{"part": "gripper", "convention": "width", "arm": ["l"]}], "bridge", "`source: gripper.arm`: expected a"),
        ([Gripper("open_is_1"), Gripper("width")], "bridge", "parts that differ in kind or `arm`, got two of kind"),
    ],
)
def test_what_is_not_exact_is_refused_with_the_reason(source, target, text):
    refused(text, lambda: convert_actions(np.zeros((1, ActionSpace.of(source, "source").dim)), source, target))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Position("absolute", "tool"), "`frame`: expected base with mode=absolute, got 'tool'"),
        (lambda: Position(frame="tool", axes=("x", "y")), "`axes`: expected all three in the frame of the tool"),
        (lambda: Position(axes=("x", "-x")), "`axes`: expected different ones of"),
        (lambda: Rotation("quaternion_xyzw", "increment"), "`form`: expected euler_xyz with increments"),
        (lambda: Rotation("rot6d", scale=2), "`scale`: expected 1 for rot6d, whose numbers are no angles"),
        (lambda: Rotation("yaw"), "`form`: expected one of euler_xyz"),
        (lambda: Joints(0), "`n`: expected a whole number of at least 1"),
        (lambda: Joints(10**12), "`n`: expected at most 65,536, got 1000000000000"),  # names, before anything else
        (lambda: ActionSpace.of([{"part": "other", "n": 1}] * 1001), "`action_space`: expected at most 1,000 parts"),
        (lambda: Gripper("open"), "`convention`: expected one of open_is_1"),
        (lambda: convert_actions([[0.0] * 6], "bridge", "bridge"), r"`actions`: expected 7 dimensions \(x, y, z, roll"),
        (lambda: convert_actions([[np.nan] * 7], "bridge", "bridge"), "finite numbers, got nan in row .0."),
        (lambda: convert_actions(["a"], "bridge", "bridge"), "`actions`: expected an array of numbers"),
        (lambda: convert_actions(np.zeros((2, 7)), "bridge", "bridge", state=[1.0]), "expected state and"),
        (lambda: convert_actions(np.zeros((2, 7)), "bridge", "bridge", drop=["joints"]), "`drop`: expected one of"),
        (lambda: convert_actions(np.zeros((2, 7)), "bridge", "metaworld", drop="rotation"), "`drop`: expected a"),
        (
            lambda: convert_actions(
                np.zeros((2, 1)), [Joints(1)], [Joints(1, "delta")], state=[[1.0]], state_space=[Joints(1)]
            ),
            r"`state`: expected one row for each of the actions \[2\], got \[1\]",
        ),
        (
            lambda: convert_actions([[1.0]], [Joints(1)], [Joints(1)], state=[[1.0]], state_space=[Joints(1, "delta")]),
            "`state_space`: expected absolute parts, got joints",
        ),
    ],
)
def test_bad_input(make, text):
    refused(text, make)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_json_and_have_names(name):
    space = PRESETS[name]
    stored = json.loads(json.dumps(space.to_json()))
    assert stored == space.to_json()  # which is how provenance is compared
    assert ActionSpace.of(stored) == space
    assert len(set(space.names)) == space.dim == sum(part.size for part in space.parts)
    assert space.spans()[-1][1].stop == space.dim


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([12, 15])


def test_a_dataset_offers_its_actions_in_another_space(dataset):
    plain = [Position("absolute", axes=("x", "y")), Gripper("open_is_1")]
    view = with_actions(
        declare(dataset, {"action": plain}), [Gripper("closed_is_1"), Position("absolute", axes=("y", "-x"))]
    )
    before, after = dataset.columns(1, ["action", "reward"]), view.columns(1, ["action", "reward"])
    np.testing.assert_allclose(after["action"][:, 0], 1 - before["action"][:, 2], atol=1e-6)
    np.testing.assert_array_equal(after["action"][:, 1:] * [1, -1], before["action"][:, [1, 0]])
    np.testing.assert_array_equal(after["reward"], before["reward"])
    assert view.features["action"].names == ("gripper", "y", "-x")
    assert (view.name, view.fps, view.episodes, view.kind) == (dataset.name, dataset.fps, dataset.episodes, "lerobot")
    assert ActionWindows(view, 4).action_names == ("gripper", "y", "-x")
    again = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(again.columns(1, ["action"])["action"], after["action"])
    assert view.actions_as["action"][0] == {"part": "gripper", "convention": "closed_is_1", "arm": ""}
    assert repr(view) == f"Conversion(Declaration({dataset!r}))"
    with pytest.raises(AttributeError):
        _ = view.nothing


def test_the_state_is_read_where_deltas_need_it(dataset):
    spaces = {
        "action": [Position("absolute", axes=("x", "y")), Gripper("open_is_1")],
        "observation.state": [Position("absolute", axes=("y", "x"))],
    }
    view = with_actions(declare(dataset, spaces), [Position(axes=("x", "y")), Gripper("open_is_1")])
    raw = dataset.columns(0, ["action", "observation.state"])
    assert list(view.columns(0, ["action"])) == ["action"]
    expected = raw["action"][:, :2] - raw["observation.state"][:, ::-1]
    np.testing.assert_allclose(view.columns(0, ["action"])["action"][:, :2], expected, atol=1e-6)
    each, unchecked = (dict(view.columns_of(view.episodes, ["action"], checked)) for checked in (True, False))
    for index in (0, 1):  # read file by file, and unchecked, they are the same
        one = view.columns(index, ["action"])["action"]
        np.testing.assert_array_equal(each[index]["action"], one)
        np.testing.assert_array_equal(unchecked[index]["action"], one)
    without = declare(dataset, {"action": spaces["action"]})
    refused("`state`: expected the", lambda: with_actions(without, [Position(axes=("x", "y")), Gripper("open_is_1")]))


def test_declarations_in_the_dataset_and_in_a_description_file(dataset, tmp_path):
    refused("`action_space`: expected the space of `action` in tiny, got none. Say", with_actions, dataset, "bridge")
    parts = [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}]
    (dataset.root / "meta/action_space.json").write_text(json.dumps({"action": parts}))
    opened = open_dataset(dataset.root)
    assert action_spaces(opened)["action"].names == ("x", "y", "gripper")
    with_actions(opened, [Gripper("closed_is_1"), Position(axes=("y", "x"))])
    (dataset.root / "meta/action_space.json").write_text(json.dumps({"action": parts[:1]}))
    refused(r"action_space.json", action_spaces, opened)
    (dataset.root / "meta/action_space.json").unlink()
    refused("`action_space`: expected spaces by column", declare, opened, ["bridge"])
    file = tmp_path / "described.json"
    views = {"action_space": {"action": parts}, "actions": {"as": parts[1:], "drop": ["position"]}}
    file.write_text(json.dumps({"dataset": str(dataset.root), **views}))
    view = open_dataset(file)
    np.testing.assert_array_equal(view.columns(0, ["action"])["action"], dataset.columns(0, ["action"])["action"][:, 2])
    assert view.features["action"].shape == (1,)
    refused(
        "tiny, episode 0, `action`: `actions`: expected finite numbers, got nan",
        lambda: with_actions(declare(Holed(dataset), {"action": parts}), parts[::-1]).columns(0, ["action"]),
    )


OTHER_TYPES = [{"drop": 5}, {"drop": None}, {"drop": [["position"]]}, {"state_key": 0}, {"key": 1}]


@pytest.mark.parametrize("options", OTHER_TYPES)
def test_options_of_conversions_of_other_types(dataset, options):
    declared = declare(dataset, {"action": [Position("absolute", axes=("x", "y")), Gripper("open_is_1")]})
    refused("`actions`: expected names of columns", lambda: with_actions(declared, [Gripper("open_is_1")], **options))


def test_the_space_of_training_is_that_of_the_same_dataset(dataset):
    pose = ActionSpace((Position("absolute", axes=("x", "y")), Gripper("open_is_1")))
    closed = [pose.parts[0], Gripper("closed_is_1")]
    known = {"mixture": [{"dataset": "other", "action_space": pose.to_json()}, {"dataset": "tiny"}]}

    def check(trained: Any, given: Any, names: tuple[str, ...] = ()) -> None:
        config = SimpleNamespace(action_names=names)
        check_actions(SimpleNamespace(trained_on=trained, config=config), given, "action")

    check(known, dataset)  # it was undeclared then, as it is now
    for trained in ({"mixture": known["mixture"][:1]}, {"dataset": "tiny", "action_space": pose.to_json()}):
        check(trained, declare(dataset, {"action": pose}))
        refused("`action_space`: expected position.*got no declaration. Give", check, trained, dataset)
        refused("`action_space`: expected position.*got", check, trained, declare(dataset, {"action": closed}))
    names = dataset.features["action"].names
    check(None, dataset, names)
    refused(r'Only if they are the same .* "dimensions": {"action"', check, None, dataset, ("other", *names[1:]))
    check(None, with_dimensions(dataset, {"action": ["other", *names[1:]]}), ("other", *names[1:]))
    refused(f"`action`: expected {names[-1]}, .* in this order, as in training", check, None, dataset, names[::-1])


class Holed(View):
    """A dataset with a missing action."""

    def columns(self, episode_index, keys):
        read = self.dataset.columns(episode_index, keys)
        read["action"][3, 1] = np.nan
        return read


@pytest.mark.parametrize(("before", "after"), list(product(SIZES, SIZES)))
def test_rotations_keep_their_meaning_in_every_form(before, after):
    rotation = Scipy.random(20, random_state=2)
    out = convert_actions(scipy_numbers(rotation, before).astype(np.float32), [Rotation(before)], [Rotation(after)])
    assert out.dtype == np.float32
    angles = (Scipy.from_matrix(to_matrix(out.astype(np.float64), after)) * rotation.inv()).magnitude()
    assert angles.max() < 1e-5


def test_increments_begin_at_the_angles_that_the_state_has(rng):
    """A pitch beyond 90 degrees has a second name; a turn by nothing was one by pi, twice."""
    angles = np.array([[0.0, 2.0, 0.0], [0.1, -2.5, 3.0], [0.0, 1.0, 0.0]])
    small = rng.uniform(-0.1, 0.1, (3, 3))
    given = {"state": angles, "state_space": [Rotation("euler_xyz", "absolute")]}
    increments = [Rotation("euler_xyz", "increment")]
    still = convert_actions(np.zeros((3, 3)), [Rotation("axis_angle")], increments, **given)
    np.testing.assert_allclose(still, 0, atol=1e-6)
    for source, values in (("euler_xyz", angles + small), ("matrix", None)):
        if values is None:
            values = Scipy.from_euler("xyz", angles + small).as_matrix().reshape(3, 9)
        found = convert_actions(values, [Rotation(source, "absolute")], increments, **given)
        np.testing.assert_allclose(found, small, atol=1e-6)


def test_parts_that_agree_keep_their_bits(rng):
    actions = rng.standard_normal((50, 7)).astype(np.float32)
    assert (convert_actions(actions, "bridge", "open_x") == actions).all()
    out = convert_actions(actions.reshape(5, 10, 7), "bridge", [Position(), Gripper("closed_is_1")], drop=["rotation"])
    assert out.shape == (5, 10, 4)
    assert (out[..., :3].reshape(50, 3) == actions[:, :3]).all()
