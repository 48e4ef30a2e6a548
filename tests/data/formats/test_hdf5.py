"""robomimic and LIBERO files: values against h5py, tasks, rates, damaged files."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattok.data import RobotDataset, camera_keys, inspect_dataset, open_dataset, read_vectors
from lattok.data.formats.hdf5 import HDF5Dataset
from lattok.data.schema import Feature
from lattok.utils.checks import LattokError
from tests.errors import refused
from tests.real import franka, needs_real

h5py = pytest.importorskip("h5py")

LIBERO_STATE = ("x", "y", "z", "rx", "ry", "rz", "gripper_0", "gripper_1")


def write_libero(path: Path, instruction: str = "open the drawer", lengths=(5, 4, 6), seed: int = 0, **options) -> Path:
    """A file as LIBERO's script writes it: contiguous float64 arrays, pictures [T, 16, 16, 3], uint8 rewards."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        kwargs = {"control_freq": 20, "robots": ["Panda"], "camera_names": ["robot0_eye_in_hand", "agentview"]}
        arguments = {"type": 1, "env_name": "Libero_Kitchen", "problem_name": "libero", "env_kwargs": kwargs}
        data.attrs["env_args"] = json.dumps(arguments | options)
        data.attrs["env_name"] = "Libero_Kitchen"
        data.attrs["problem_info"] = json.dumps({"problem_name": "libero", "language_instruction": instruction})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths)
        for number, length in enumerate(lengths):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = length, "<mujoco/>"
            ee = rng.standard_normal((length, 6))
            obs = {"gripper_states": rng.standard_normal((length, 2)), "joint_states": rng.standard_normal((length, 7))}
            obs |= {"ee_states": ee, "ee_pos": ee[:, :3], "ee_ori": ee[:, 3:]}
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                obs[name] = rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)
            for name, values in obs.items():
                demo.create_dataset(f"obs/{name}", data=values)
            demo["actions"] = rng.uniform(-1, 1, (length, 7))
            demo["states"] = rng.standard_normal((length, 40 + seed))  # other scenes have other states
            demo["robot_states"] = rng.standard_normal((length, 9))
            demo["rewards"] = demo["dones"] = (np.arange(length) == length - 1).astype(np.uint8)
    return path


def write_robomimic(path: Path, demos: int = 12, **attributes: Any) -> Path:
    """A file as robomimic has them: compressed chunks, float rewards, next_obs, filter keys under mask/."""
    rng = np.random.default_rng(7)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        arguments = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "robots": "Panda"}}
        data.attrs["env_args"] = json.dumps(arguments)
        data.attrs.update(attributes)
        for number in range(demos):
            length = 4 + number
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            obs = {
                "robot0_eef_pos": rng.standard_normal((length, 3)),
                "robot0_eef_quat": rng.standard_normal((length, 4)),
                "robot0_gripper_qpos": rng.standard_normal((length, 2)),
                "object": rng.standard_normal((length, 10)),
                "agentview_image": rng.integers(0, 256, (length, 12, 12, 3), dtype=np.uint8),
                "agentview_depth": rng.random((length, 12, 12, 1), dtype=np.float32),
            }
            for name, values in obs.items():
                chunks = (1, *values.shape[1:]) if values.ndim > 2 else None
                demo.create_dataset(f"obs/{name}", data=values, compression="gzip", chunks=chunks)
                demo.create_dataset(f"next_obs/{name}", data=values)
            demo["actions"] = rng.uniform(-1, 1, (length, 7))
            demo["states"] = rng.standard_normal((length, 32))
            demo["rewards"], demo["dones"] = rng.random(length), (np.arange(length) == length - 1).astype(np.int64)
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])
    return path


@pytest.mark.parametrize(("arms", "fingers"), [(("robot0_", "robot1_"), 2), (("robot0_right_", "robot0_left_"), 11)])
def test_the_state_of_two_arms_is_that_of_both(arms: tuple[str, ...], fingers: int, tmp_path: Path):
    """Of two robots, or of one with two arms and hands, as DexMimicGen's."""
    rng, parts = np.random.default_rng(0), {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": fingers}
    path = write_robomimic(tmp_path / "two.hdf5", demos=1)
    with h5py.File(path, "a") as file:
        obs = file["data/demo_0/obs"]
        for name in parts:
            del obs[f"robot0_{name}"]
        obs.update({f"{arm}{name}": rng.standard_normal((4, size)) for arm in arms for name, size in parts.items()})
        whole = np.hstack([obs[f"{arm}{name}"] for arm in arms for name in parts])
    dataset = open_dataset(path)
    np.testing.assert_array_equal(dataset.columns(0, ["observation.state"])["observation.state"], whole)
    assert dataset.features["observation.state"].names[:: 7 + fingers] == tuple(f"{arm}x" for arm in arms)


@pytest.fixture
def libero(tmp_path: Path) -> Path:
    """A folder with two tasks."""
    (tmp_path / "libero_goal").mkdir()
    write_libero(tmp_path / "libero_goal" / "push_demo.hdf5", "push the plate", lengths=(3, 7), seed=1)
    write_libero(tmp_path / "libero_goal" / "open_demo.hdf5")
    return tmp_path / "libero_goal"


def test_libero_folder_against_h5py(libero: Path):
    dataset = HDF5Dataset(libero)
    checked: RobotDataset = dataset
    assert (checked.kind, checked.name, checked.robot, checked.fps) == ("hdf5", "libero_goal", "Panda", 20)
    assert repr(dataset) == "HDF5Dataset('libero_goal', 5 episodes, 25 frames, 20 fps)"
    assert dataset.tasks == ("open the drawer", "push the plate")
    assert [tuple(episode) for episode in dataset.episodes] == [
        (0, 5, ("open the drawer",)),
        (1, 4, ("open the drawer",)),
        (2, 6, ("open the drawer",)),
        (3, 3, ("push the plate",)),
        (4, 7, ("push the plate",)),
    ]
    assert dataset.cameras == ("observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb")
    assert dataset.features["action"] == Feature("float64", (7,), None)
    assert dataset.features["next.reward"] == Feature("uint8", (1,), None)
    assert dataset.features["next.done"] == Feature("bool", (1,), None)
    assert dataset.features["observation.joint_states"] == Feature("float64", (7,), None)
    assert dataset.features["observation.state"] == Feature("float64", (8,), LIBERO_STATE)
    assert dataset.features[dataset.cameras[0]] == Feature("image", (16, 16, 3), None)
    assert dataset.findings[0].what.startswith("Pictures are stored upside down")
    assert dict(dataset.left_out).keys() == {"states", "robot_states"}
    places = [("open_demo.hdf5", n) for n in range(3)] + [("push_demo.hdf5", n) for n in range(2)]
    for index, (name, number) in enumerate(places):
        assert dataset.files_of(index) == (libero / name,)
        with h5py.File(libero / name) as file:
            demo = file[f"data/demo_{number}"]
            obs = {key: value[()] for key, value in demo["obs"].items()}
            got = dataset.columns(index, [key for key in dataset.features if key not in dataset.cameras])
            np.testing.assert_array_equal(got["action"], demo["actions"][()])
            np.testing.assert_array_equal(got["next.reward"], demo["rewards"][()])
            np.testing.assert_array_equal(got["next.done"], demo["dones"][()] == 1)
            np.testing.assert_array_equal(got["observation.joint_states"], obs["joint_states"])
            state = np.hstack([obs["ee_pos"], obs["ee_ori"], obs["gripper_states"]])
            np.testing.assert_array_equal(got["observation.state"], state)
            assert all(column.dtype.name == dataset.features[key].dtype for key, column in got.items())
            assert got["task_index"].tolist() == [int(index > 2)] * len(state)
            assert got["episode_index"].tolist() == [index] * len(state)
            np.testing.assert_array_equal(got["timestamp"], (np.arange(len(state)) / 20).astype(np.float32))
            both = np.stack([obs["eye_in_hand_rgb"], obs["agentview_rgb"]], axis=1)
        keys = camera_keys(dataset, ["eye_in_hand_rgb", "agentview_rgb"])
        np.testing.assert_array_equal(dataset.frames(index, keys), both)
        np.testing.assert_array_equal(dataset.frames(index, keys, indices=[2, 0, 2]), both[[2, 0, 2]])


def test_robomimic_file_against_h5py(tmp_path: Path):
    path = write_robomimic(tmp_path / "lift.hdf5")
    dataset = HDF5Dataset(path)
    assert (dataset.name, dataset.root, dataset.robot) == ("lift", path, "Panda")
    assert [episode.length for episode in dataset.episodes] == list(range(4, 16))  # demo_2 before demo_10
    assert dataset.tasks == ("Lift",)
    assert "train: 2 episodes" in dataset.findings[1].what
    assert dataset.findings[0].kind == "depth-as-numbers"
    assert dataset.features["observation.state"].names == ("x", "y", "z", "rx", "ry", "rz", "rw", *LIBERO_STATE[-2:])
    assert dataset.features["observation.agentview_depth"] == Feature("float32", (12, 12, 1), None)
    assert dataset.features["next.reward"].dtype == "float64"
    with h5py.File(path) as file:
        obs = file["data/demo_10/obs"]
        np.testing.assert_array_equal(dataset.frames(10)[:, 0], obs["agentview_image"][()])
        np.testing.assert_array_equal(dataset.frames(10, indices=[0, 13])[:, 0], obs["agentview_image"][[0, 13]])
        depth = dataset.columns(10, ["observation.agentview_depth"])["observation.agentview_depth"]
        np.testing.assert_array_equal(depth, obs["agentview_depth"][()])
    vectors = read_vectors(dataset, "key", "observation.state", dataset.episodes)
    assert vectors.shape == (sum(range(4, 16)), 9)


def test_a_dataset_named_state_is_the_state(tmp_path: Path):
    path = write_libero(tmp_path / "a.hdf5", lengths=(3,))
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/state"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    dataset = HDF5Dataset(path)
    assert dataset.features["observation.state"] == Feature("float32", (4,), None)
    assert dataset.columns(0, ["observation.state"])["observation.state"][2].tolist() == [8, 9, 10, 11]


def test_only_the_wanted_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = HDF5Dataset(write_libero(tmp_path / "a.hdf5", lengths=(60,)))
    read = []
    original = h5py.Dataset.__getitem__

    def spy(self, key, *more):
        values = original(self, key, *more)
        read.append((self.name.rsplit("/", 1)[-1], len(values)))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    dataset.columns(0, ["action", "frame_index"])
    dataset.frames(0, ["agentview_rgb"], indices=[3, 59])
    dataset.frames(0, ["agentview_rgb"], indices=range(10, 20))
    assert read == [("actions", 60), ("agentview_rgb", 2), ("agentview_rgb", 10)]


@pytest.mark.parametrize(
    ("change", "instruction"),
    [
        ({"problem_info": json.dumps({"language_instruction": ["turn", "it", "on"]})}, "turn it on"),
        ({"problem_info": json.dumps({"language_instruction": " "})}, "Lift"),
        ({"env_args": json.dumps({"env_kwargs": {"control_freq": 20}})}, "a"),
        ({"env_args": json.dumps({"env_kwargs": {"control_freq": 20}}), "env_name": "Can"}, "Can"),
    ],
)
def test_instructions(tmp_path: Path, change: dict, instruction: str):
    assert HDF5Dataset(write_robomimic(tmp_path / "a.hdf5", demos=1, **change)).tasks == (instruction,)


def test_an_episode_may_have_an_instruction_of_its_own(tmp_path: Path):
    path = write_robomimic(tmp_path / "a.hdf5", demos=3)
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "lift the mug"})
    dataset = HDF5Dataset(path)
    assert [episode.tasks for episode in dataset.episodes] == [("Lift",), ("lift the mug",), ("Lift",)]
    assert dataset.columns(1, ["task_index"])["task_index"][0] == 1


def test_frame_rate(tmp_path: Path):
    silent = {"env_args": json.dumps({"env_name": "Real", "env_kwargs": {}})}
    write_robomimic(tmp_path / "real.hdf5", demos=1, **silent)
    assert HDF5Dataset(tmp_path / "real.hdf5", fps=15).fps == 15
    hint = 'Write {"dataset": "real.hdf5", "fps": 20} into a file such as .*real.json'
    refused(f"`fps`: expected the control_freq .*real.hdf5 .*, got none. {hint}", HDF5Dataset, tmp_path / "real.hdf5")
    refused("`fps`: expected a number greater than 0, got -1", open_dataset, tmp_path / "real.hdf5", fps=-1)
    other = {"env_args": json.dumps({"env_name": "Slow", "env_kwargs": {"control_freq": 10}})}
    write_robomimic(tmp_path / "slow.hdf5", demos=1, **other)
    assert HDF5Dataset(tmp_path / "slow.hdf5").fps == 10
    refused("`fps`: expected the control_freq", HDF5Dataset, tmp_path)
    (tmp_path / "real.hdf5").unlink()
    write_robomimic(tmp_path / "lift.hdf5", demos=1)
    refused("`fps`: expected one for all, 20 as in .*lift.hdf5, got 10 in .*slow.hdf5", HDF5Dataset, tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("env_args", "{", "the attribute env_args is not valid JSON"),
        ("env_args", "[1]", "expected a JSON object as attribute env_args, got list"),
        ("env_args", np.arange(3), "the attribute env_args is not valid JSON"),
        ("env_args", '{"env_kwargs": {"control_freq": 0}}', "`control_freq` in env_args: expected a number .*, got 0"),
        ("problem_info", "nonsense", "the attribute problem_info is not valid JSON"),
    ],
)
def test_bad_attributes(tmp_path: Path, attribute: str, value: Any, text: str):
    path = write_robomimic(tmp_path / "a.hdf5", demos=1, **{attribute: value})
    refused(f"a.hdf5: {text}", HDF5Dataset, path)


def test_files_must_be_alike(libero: Path):
    with h5py.File(libero / "push_demo.hdf5", "a") as file:
        for demo in file["data"].values():
            del demo["obs/joint_states"]
    refused(r"push_demo.hdf5 differs from .*open_demo.hdf5 in `obs/joint_states`: expected", HDF5Dataset, libero)
    with h5py.File(libero / "push_demo.hdf5", "a") as file:
        for demo in file["data"].values():
            demo["obs/joint_states"] = np.zeros((len(demo["actions"]), 6))
    refused(r"expected float64 \[T, 7\], got float64 \[T, 6\]. Open them apart", HDF5Dataset, libero)


def test_members_in_another_order_are_the_same(tmp_path: Path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", track_order=True) as file:
        data = file.create_group("data", track_order=True)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for number, names in enumerate((("b", "a"), ("a", "b"), ("b", "a"))):
            demo = data.create_group(f"demo_{number}", track_order=True)
            obs = demo.create_group("obs", track_order=True)
            for name in names:
                obs[name] = np.full((4, 2), ord(name))
            demo["actions"] = np.zeros((4, 7))
    dataset = HDF5Dataset(path)
    assert (len(dataset.episodes), dataset.damaged) == (3, ())
    for index in range(3):
        assert set(dataset.columns(index, ["observation.b"])["observation.b"].flat) == {ord("b")}
    other = tmp_path / "b.hdf5"
    with h5py.File(path) as old, h5py.File(other, "w") as new:
        old.copy("data", new)
        for number in (0, 2):
            del new[f"data/demo_{number}"]
    assert len(HDF5Dataset(tmp_path).episodes) == 4


def test_a_file_that_cannot_be_read_takes_one_number(libero: Path):
    whole = write_libero(libero / "close_demo.hdf5", "close it", lengths=(4,))
    expected = HDF5Dataset(libero).columns(3, ["action"])["action"]
    whole.write_bytes(whole.read_bytes()[:3000])  # the first of the folder
    (libero / "other.h5").write_bytes(b"")
    dataset = HDF5Dataset(libero)
    assert [episode.index for episode in dataset.episodes] == [1, 2, 3, 5, 6]
    assert [damage.episode_index for damage in dataset.damaged] == [0, 4]
    assert dataset.damaged[0].reason.startswith(f"cannot read {whole} (")
    assert (dataset.fps, dataset.robot) == (20, "Panda")
    np.testing.assert_array_equal(dataset.columns(3, ["action"])["action"], expected)
    refused("episode 0: cannot read .*close_demo.hdf5", dataset.columns, 0, ["action"])
    for name in ("open_demo.hdf5", "push_demo.hdf5"):
        (libero / name).write_bytes(b"")
    refused("libero_goal: no demonstration can be read, first cannot read .*close_demo", HDF5Dataset, libero)


def test_what_is_no_number_is_left_out(tmp_path: Path):
    path = write_libero(tmp_path / "a.hdf5", lengths=(3,))
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        demo["obs/empty_rgb"] = np.zeros((3, 0, 0, 3), dtype=np.uint8)
        demo["obs/note"] = [b"a", b"b", b"c"]
    dataset = HDF5Dataset(path)
    assert dataset.frames(0).shape == (3, 2, 16, 16, 3)
    left_out = dict(dataset.left_out)
    assert (left_out["obs/empty_rgb"], left_out["obs/note"]) == ("it holds no numbers",) * 2
    with h5py.File(tmp_path / "words.hdf5", "w") as file:
        file["data/demo_0/actions"] = [b"left", b"right", b"up"]
    refused(r"demo_0: expected numbers as `actions`, got object \[3\]. Write", HDF5Dataset, tmp_path / "words.hdf5")


@pytest.mark.parametrize(("value", "noted"), [(np.bytes_(b"opengl"), True), (np.arange(3), False), (b"opencv", False)])
def test_the_image_convention_however_it_is_stored(tmp_path: Path, value: Any, noted: bool):
    path = write_robomimic(tmp_path / "a.hdf5", demos=1, macros_image_convention=value)
    assert any("upside down" in finding.what for finding in HDF5Dataset(path).findings) == noted


def test_demonstrations_that_cannot_be_listed_keep_their_numbers(tmp_path: Path):
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        data = file["data"]
        del data["demo_1/actions"]
        del data["demo_3/rewards"]
        data["demo_3/rewards"] = np.zeros(3)
        data["demo_4"].attrs["num_samples"] = 99
        del data["demo_5/obs/object"]
        del data["demo_7"]
        data["demo_7"] = np.zeros(4)
        del data["demo_11/actions"]
        data["demo_11/actions"] = np.zeros((0, 7))
    dataset = HDF5Dataset(path)
    assert [episode.index for episode in dataset.episodes] == [0, 1, 2, 6, 8, 9, 10]
    assert np.isnan(dataset.columns(1, ["action"])["action"]).all()  # which nobody recorded
    reasons = {
        3: "demo_3: `rewards`: expected float64 [T], but it has 3 rows where there are 7 actions, unlike most",
        4: "demo_4: expected 99 actions (num_samples), got 8",
        5: "demo_5: `obs/object`: expected float64 [T, 10], got nothing, unlike most demonstrations of the file",
        7: "demo_7: expected a group with `actions` or `actions_*`, at least one row, got nothing",
        11: "demo_11: expected a group with `actions` or `actions_*`, at least one row, got none",
    }
    assert [damage.episode_index for damage in dataset.damaged] == list(reasons)
    for index, reason in dataset.damaged:
        assert reason.startswith(f"{path}, {reasons[index]}")
    refused("episode 3: .*demo_3", dataset.columns, 3, ["action"])
    refused("`episode_index`: expected an episode of `a` \\(0 to 11\\), got 12", dataset.frames, 12)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(dataset.columns(10, ["action"])["action"], file["data/demo_10/actions"][()])


def test_a_damaged_chunk_is_an_error_with_file_and_demonstration(tmp_path: Path):
    path = write_robomimic(tmp_path / "a.hdf5", demos=3)
    with h5py.File(path) as file:
        chunk = file["data/demo_1/obs/agentview_image"].id.get_chunk_info(2)
        where = chunk.byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 20] = b"\0" * 20
    path.write_bytes(content)
    dataset = HDF5Dataset(path)
    refused(r"cannot read .*a.hdf5, demo_1 \(episode 1\) \(.*\). Copy the file again", dataset.frames, 1)
    assert dataset.frames(1, indices=[0, 1]).shape == (2, 1, 12, 12, 3)
    assert dataset.frames(2).shape == (6, 1, 12, 12, 3)


@pytest.mark.parametrize("said", ["required filter 'lz4' is not registered", "can't open directory (/usr/lib/plugin)"])
def test_a_missing_filter_is_named(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = HDF5Dataset(write_robomimic(tmp_path / "a.hdf5", demos=1))

    def no(*_):
        raise OSError(f"Can't synchronously read data ({said})")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", no)
    refused(re.escape(said) + ".*pip install hdf5plugin", dataset.columns, 0, ["action"])


def test_files_that_are_no_robomimic_files(tmp_path: Path):
    path = write_robomimic(tmp_path / "whole.hdf5", demos=2)
    whole = path.read_bytes()
    cases = {
        "cut.hdf5": (whole[: len(whole) // 2], "cannot read .*cut.hdf5 .*truncated"),
        "empty.hdf5": (b"", "cannot read .*empty.hdf5"),
        "text.h5": (b"no HDF5\n" * 50, "cannot read .*text.h5 .*signature"),
    }
    for name, (content, text) in cases.items():
        (tmp_path / name).write_bytes(content)
        refused(text, HDF5Dataset, tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["observations"] = np.zeros(3)
    refused(r"other.h5: expected a layout of robomimic, .*, got observations", HDF5Dataset, tmp_path / "other.h5")
    with h5py.File(tmp_path / "hollow.h5", "w") as file:
        file["data/demo_0/actions"] = np.zeros(())
    refused("no demonstration can be read, first .*demo_0: expected a group with", HDF5Dataset, tmp_path / "hollow.h5")
    refused("`path`: expected a .hdf5 or .h5 file or a folder of them, got", HDF5Dataset, tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    refused("`path`: expected a folder with files .hdf5 or .h5, got none in", HDF5Dataset, tmp_path / "bare")


def test_bit_flips_give_an_error_or_numbers(tmp_path: Path):
    whole = write_robomimic(tmp_path / "a.hdf5", demos=2).read_bytes()
    rng, messages = np.random.default_rng(0), []
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 8192), 3):  # most of HDF5's own structure is at the start
            content[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.hdf5").write_bytes(content)
        try:
            dataset = HDF5Dataset(tmp_path / "b.hdf5")
            for episode in dataset.episodes:
                columns = dataset.columns(
                    episode.index, [key for key in dataset.features if key not in dataset.cameras]
                )
                assert {len(column) for column in columns.values()} == {episode.length}
                if dataset.cameras:
                    dataset.frames(episode.index)
        except LattokError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def test_a_file_that_changes_is_noticed(tmp_path: Path):
    path = write_libero(tmp_path / "a.hdf5", lengths=(5,))
    dataset = HDF5Dataset(path)
    write_libero(path, lengths=(6,))
    refused(r"demo_0 \(episode 0\): `actions` is not as it was when the dataset was", dataset.columns, 0, ["action"])
    path.unlink()
    refused(r"missing data file .*a.hdf5|is not as it was", dataset.columns, 0, ["action"])


def test_unknown_columns(libero: Path):
    refused("`keys`: expected columns", lambda: HDF5Dataset(libero).columns(0, ["observation.images.agentview_rgb"]))


def test_no_file_stays_open(libero: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither forks nor pickles then carry handles, and thousands of files exhaust no limit."""
    opened: list[h5py.File] = []
    real = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *given: opened.append(real(*given)) or opened[-1])
    dataset = HDF5Dataset(libero)
    dataset.columns(0, ["action", "observation.state"])
    next(dataset.blocks(0, dataset.cameras[0], np.arange(2)))
    assert len(opened) > 2
    assert not any(opened)


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_libero(tmp_path / "a.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for place in (path, tmp_path):  # a package that is missing is no damage of a folder's files
        refused(r"hdf5 datasets needs h5py. Install it: pip install .*\[hdf5\]'", open_dataset, place)


@needs_real
def test_a_real_transition_as_a_robomimic_file(tmp_path: Path):
    images, states = franka()
    with h5py.File(tmp_path / "franka.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "reach", "env_kwargs": {"control_freq": 4}})
        demo = data.create_group("demo_0")
        demo["obs/left_image"], demo["obs/state"] = images, states
        demo["actions"] = np.vstack([np.diff(states, axis=0), np.zeros((1, 7))])
    dataset = open_dataset(tmp_path / "franka.hdf5")
    assert (dataset.kind, dataset.fps, dataset.tasks) == ("hdf5", 4, ("reach",))
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], images)
    np.testing.assert_array_equal(dataset.columns(0, ["observation.state"])["observation.state"], states)
    inspection = inspect_dataset(dataset)
    assert {dimension.key for dimension in inspection.dimensions} == {"action", "observation.state"}
    assert [finding.severity for finding in inspection.findings if finding.severity == "error"] == []


def test_numbers_whose_name_a_camera_has_are_said_to_be_left_out(tmp_path: Path):
    with h5py.File(write_robomimic(tmp_path / "a.hdf5", demos=2), "a") as file:
        for demo in file["data"].values():
            demo["obs/images.agentview_image"] = np.zeros((demo.attrs["num_samples"], 2))
    dataset = open_dataset(tmp_path / "a.hdf5")
    assert dataset.features["observation.images.agentview_image"].dtype == "image"
    assert dataset.left_out["obs/images.agentview_image"] == "it is no picture of RGB (float64 [2])"


@pytest.mark.parametrize("chunks", [None, (2,)])
def test_a_heap_that_hdf5_would_read_forever_is_refused(chunks, tmp_path: Path):
    """Texts and JPEGs of any length are entries of a heap; one of number 0 and no size follows itself."""
    path = tmp_path / "d.hdf5"
    with h5py.File(path, "w") as file:
        jpegs = file.create_dataset("jpegs", 3, h5py.vlen_dtype(np.dtype("uint8")), chunks=chunks)
        for row in range(3):
            jpegs[row] = np.arange(9 + row, dtype=np.uint8)
        file["text"], file["numbers"] = "push", np.arange(3)
    with HDF5Dataset.opened(path) as store:
        found = store.arrays("")
        assert found["text"][()] == b"push"
        assert [each.tolist() for each in found["jpegs"][:]] == [list(range(9 + row)) for row in range(3)]
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    assert data.count(b"GCOL") == 1
    data[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(data)
    with HDF5Dataset.opened(path) as store:
        refused(f"`/jpegs` \\(heap at {heap}\\)", store.arrays, "")
