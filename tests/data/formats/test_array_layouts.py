"""Layouts of HDF5 files, zarr stores and npz files: each written by its library as its makers do, against the truth."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lattok.cli import main
from lattok.data import inspect_dataset, open_dataset, split_by_task
from lattok.data.formats.array_layouts import ALOHA, LAYOUTS
from lattok.data.schema import RobotDataset, depth_cameras, parts_of
from lattok.utils.checks import LattokError
from tests.data.formats.test_video_folder import decoded, write_video
from tests.errors import refused

h5py = pytest.importorskip("h5py")
LENGTHS = (5, 7)


def wave(length: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, width)).standard_normal((length, width)).astype(np.float32)


def film(length: int, seed: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    """Frames of one colour each, with more red than blue: JPEG keeps them, and a swap would show."""
    levels = np.random.default_rng(seed).integers(40, 90, (length, 1, 1, 1))
    return np.broadcast_to(levels + np.array([120, 60, 0]), (length, *size, 3)).astype(np.uint8)


def jpeg(frame: np.ndarray, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=95, subsampling=0, comment=comment)
    return out.getvalue()


def padded(frames: np.ndarray) -> np.ndarray:
    encoded = [jpeg(frame) for frame in frames]
    longest = max(map(len, encoded)) + 7
    return np.stack([np.frombuffer(data.ljust(longest, b"\0"), np.uint8) for data in encoded])


class Truth:
    """What a layout should be read as: by episode `action`, `state` and frames by camera; and the instruction."""

    def __init__(self, width: int, tasks: tuple[str, ...], lengths: tuple[int, ...] = LENGTHS):
        self.lengths, self.tasks = lengths, tasks
        self.action = [wave(length, width, seed) for seed, length in enumerate(lengths)]
        self.state = [wave(length, 9, seed) for seed, length in enumerate(lengths)]
        self.frames = [film(length, seed) for seed, length in enumerate(lengths)]
        self.cameras: tuple[str, ...] = ()
        self.exact = True  # frames, to the last bit


def aloha(folder: Path) -> Truth:
    """One file an episode; JPEGs padded with zeros to the longest of the file."""
    (folder / "pour the tea").mkdir()
    truth = Truth(14, ("pour the tea",))
    truth.state = [wave(length, 14, 9 + seed) for seed, length in enumerate(LENGTHS)]
    truth.cameras, truth.exact = ("cam_high", "cam_low"), False
    for i, length in enumerate(LENGTHS):
        with h5py.File(folder / "pour the tea" / f"episode_{i}.hdf5", "w") as file:
            file.attrs["sim"], file.attrs["compress"] = False, True
            file["action"], file["observations/qpos"] = truth.action[i], truth.state[i]
            file["observations/qvel"] = wave(length, 14, 5)
            for camera in truth.cameras:
                file[f"observations/images/{camera}"] = padded(truth.frames[i])
            file["compress_len"] = np.ones((2, length), np.float32)
    return truth


def act_simulation(folder: Path) -> Truth:
    """ACT's simulated tasks: pixels as they are."""
    truth = Truth(14, (folder.name,))
    truth.state = [wave(length, 14, 9 + seed) for seed, length in enumerate(LENGTHS)]
    truth.cameras = ("top",)
    for i in range(len(LENGTHS)):
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file["action"], file["observations/qpos"] = truth.action[i], truth.state[i]
            file["observations/images/top"] = truth.frames[i]
    return truth


def robotwin(folder: Path, comment: bytes = b"") -> Truth:
    """The action of a step is the next row; JPEGs were written with red and blue swapped, unless a comment says not."""
    truth = Truth(14, ("press the bell", "press it"))
    truth.cameras, truth.exact = ("head_camera",), False
    (folder / "data").mkdir()
    (folder / "instructions").mkdir()
    for i, length in enumerate(LENGTHS):
        vector = wave(length + 1, 14, i)
        truth.action[i], truth.state[i] = vector[1:], vector[:-1]
        shown = np.append(truth.frames[i], film(1, 99), axis=0)
        encoded = [jpeg(frame if comment else frame[..., ::-1], comment) for frame in shown]
        with h5py.File(folder / "data" / f"episode{i}.hdf5", "w") as file:
            file["joint_action/vector"], file["joint_action/left_arm"] = vector, vector[:, :6]
            file["observation/head_camera/rgb"] = np.array(encoded, dtype=f"S{max(map(len, encoded))}")
            file["observation/head_camera/intrinsic_cv"] = np.zeros((length + 1, 3, 3))
            file["pointcloud"] = np.zeros((length + 1, 0))
        (folder / "instructions" / f"episode{i}.json").write_text(json.dumps({"seen": [truth.tasks[i]], "unseen": []}))
    return truth


def robotwin_marked(folder: Path) -> Truth:
    return robotwin(folder, b"XPL-RGB1")


def robomind(folder: Path) -> Truth:
    """A folder an episode; JPEGs of any length, and 16-bit depth."""
    truth = Truth(8, ("stack the cups",))
    truth.cameras, truth.exact = ("camera_top",), False
    for i, length in enumerate(LENGTHS):
        (folder / f"1017_{i}" / "data").mkdir(parents=True)
        with h5py.File(folder / f"1017_{i}" / "data" / "trajectory.hdf5", "w") as file:
            file["puppet/joint_position"], file["master/joint_position"] = wave(length, 8, 7), truth.action[i]
            bytes_of_any_length = h5py.vlen_dtype(np.dtype("uint8"))
            for group, frames in (("rgb", truth.frames[i]), ("depth", truth.frames[i])):
                images = file.create_dataset(f"observations/{group}_images/camera_top", length, bytes_of_any_length)
                for row, frame in enumerate(frames):
                    images[row] = np.frombuffer(jpeg(frame), np.uint8)
            file["language_instruction"] = "stack the cups"
    truth.state = [wave(length, 8, 7) for length in LENGTHS]
    return truth


def maniskill(folder: Path) -> Truth:
    """T actions, T + 1 observations, and a JSON file beside."""
    truth = Truth(7, ("PickCube-v1",))
    truth.cameras = ("base_camera",)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for i in range(len(LENGTHS)):
            demo = file.create_group(f"traj_{i}")
            demo["actions"], demo["terminated"] = truth.action[i], np.zeros(LENGTHS[i], bool)
            demo["obs/agent/state"] = np.vstack([truth.state[i], wave(1, 9, 99)])
            demo["obs/sensor_data/base_camera/rgb"] = np.append(truth.frames[i], film(1, 99), axis=0)
            demo["obs/sensor_data/base_camera/depth"] = np.zeros((LENGTHS[i] + 1, 16, 24, 1), np.int16)
            demo["env_states/actors/cube"] = np.zeros((LENGTHS[i] + 1, 13))
    about = {"env_info": {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgb"}}, "episodes": []}
    (folder / "trajectory.json").write_text(json.dumps(about))
    return truth


def isaac_lab(folder: Path) -> Truth:
    """The action before stands among the observations, where a policy would copy it."""
    truth = Truth(7, ("Isaac-Lift",))
    with h5py.File(folder / "dataset.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Isaac-Lift", "type": 2})
        for i in range(len(LENGTHS)):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"], demo["obs/state"] = truth.action[i], truth.state[i]
            demo["obs/actions"], demo["states/robot"] = truth.action[i], truth.state[i]
    return truth


def minari(folder: Path) -> Truth:
    """A group an episode, T actions and T + 1 observations."""
    truth = Truth(3, (folder.name,))
    (folder / "data").mkdir()
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, length in enumerate(LENGTHS):
            group = file.create_group(f"episode_{i}")
            group.attrs["total_steps"] = length
            group["actions"], group["observations"] = truth.action[i], np.vstack([truth.state[i], wave(1, 9, 99)])
            group["rewards"], group["terminations"] = np.zeros(length), np.zeros(length, bool)
            group["truncations"], group["infos/success"] = np.zeros(length, bool), np.zeros(length + 1)
    return truth


def maniskill_2(folder: Path) -> Truth:
    """Pictures below `image`."""
    truth = maniskill(folder)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        for i in range(len(LENGTHS)):
            file.move(f"traj_{i}/obs/sensor_data", f"traj_{i}/obs/image")
    return truth


def d4rl(folder: Path) -> Truth:
    """All steps in one array each; an episode ends where either flag is set, the last one with the file."""
    truth = Truth(3, ("hopper",))
    with h5py.File(folder / "hopper.hdf5", "w") as file:
        file["actions"], file["observations"] = np.vstack(truth.action), np.vstack(truth.state)
        file["rewards"] = np.zeros(12, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(12, bool), np.arange(12) == LENGTHS[0] - 1
        file["infos/qpos"] = np.zeros((12, 5))
    return truth


def diffusion_policy(
    folder: Path,
    version: int = 2,
    zipped: bool = False,
    pixels: str = "uint8",
    lengths: tuple[int, ...] = LENGTHS,
) -> Truth:
    """Diffusion Policy's replay buffer; of PushT the pictures are floats from 0 to 255."""
    zarr = pytest.importorskip("zarr")
    truth = Truth(2, ("pusht",), lengths)
    truth.cameras = ("img",)
    name = folder / ("pusht.zarr.zip" if zipped else "pusht.zarr")
    store: Any = zarr.storage.ZipStore(str(name), mode="w") if zipped else str(name)
    options = {"zarr_format": version} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    top = zarr.open_group(store, mode="w", **options)
    arrays = {"data/action": np.vstack(truth.action), "data/state": np.vstack(truth.state)}
    arrays |= {"data/img": np.concatenate(truth.frames).astype(pixels), "meta/episode_ends": np.cumsum(lengths)}
    for key, values in arrays.items():
        chunks = (4, *values.shape[1:])
        if options:
            top.create_array(key, data=values, chunks=chunks)
        else:
            top.create_dataset(key, data=values, chunks=chunks)
    if zipped:
        store.close()
    return truth


def zarr_3(folder: Path) -> Truth:
    return diffusion_policy(folder, version=3)


def zarr_zip(folder: Path) -> Truth:
    return diffusion_policy(folder, zipped=True)


def pusht_floats(folder: Path) -> Truth:
    return diffusion_policy(folder, pixels="float32")


def npz(folder: Path) -> Truth:
    truth = Truth(4, ("wipe",))
    truth.cameras = ("images",)
    (folder / "wipe").mkdir()
    for i in range(len(LENGTHS)):
        arrays = {"actions": truth.action[i], "state": truth.state[i], "images": truth.frames[i]}
        (np.savez_compressed if i else np.savez)(folder / "wipe" / f"{i}.npz", **arrays)
    return truth


def npz_of_many(folder: Path) -> Truth:
    truth = Truth(4, (folder.name,))
    arrays = {"action": np.vstack(truth.action), "state": np.vstack(truth.state), "dones": np.arange(12) == 4}
    np.savez(folder / "all.npz", **arrays)
    return truth


def parquet(folder: Path) -> Truth:
    """As `datasets` writes them: files are cut by rows, here within the second episode."""
    truth = Truth(4, ("do 0", "do 1"))
    truth.cameras, truth.exact = ("image",), False
    rows = [
        {
            "episode_index": i,
            "frame_index": row,
            "action": truth.action[i][row],
            "observation.state": truth.state[i][row],
            "image": {"bytes": jpeg(truth.frames[i][row]), "path": None},
            "instruction": truth.tasks[i],
        }
        for i, length in enumerate(LENGTHS)
        for row in range(length)
    ]
    (folder / "data").mkdir()
    for number, part in enumerate((rows[:7], rows[7:])):
        place = folder / f"data/train-{number:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part), place, row_group_size=4, write_page_checksum=True)
    return truth


def calvin(folder: Path) -> Truth:
    """A file a step; recordings are apart, the last for validation. Who only reads numbers may open no pickle."""
    truth = Truth(7, ("",))
    truth.cameras, truth.state = ("rgb_static",), [wave(length, 15, seed) for seed, length in enumerate(LENGTHS)]
    for part, first, i in (("training", 20, 0), ("validation", 3, 1)):
        last = first + LENGTHS[i] - 1
        (folder / part / "lang_annotations").mkdir(parents=True)
        np.save(folder / part / "ep_start_end_ids.npy", [[first, last]])
        told = {"language": {"ann": ["open it", "push"]}, "info": {"indx": [(first + 1, last), (first, first + 2)]}}
        np.save(folder / part / "lang_annotations/auto_lang_ann.npy", np.array(told))
        for row in range(LENGTHS[i]):
            step: dict[str, Any] = {
                "rel_actions": truth.action[i][row],
                "actions": np.ones(7),
                "robot_obs": truth.state[i][row],
            }
            step |= {"scene_obs": np.ones(24), "depth_static": np.ones((16, 24), np.float32)}
            step |= {"rgb_static": truth.frames[i][row], "rgb_tactile": np.ones((16, 12, 6), np.uint8)}
            np.savez_compressed(str(folder / part / f"episode_{first + row:07d}.npz"), **step)
    return truth


def unitree(folder: Path) -> Truth:
    """Arms, then hands, whatever the order in a frame; the file names seven joints of a gripper that has one."""
    truth = Truth(16, ("pour the tea", "wipe"))
    truth.state = [wave(length, 16, 9 + seed) for seed, length in enumerate(LENGTHS)]
    truth.cameras, truth.exact = ("color_0", "color_1"), False
    info = {"image": {"fps": 10}, "joint_names": {"left_arm": [f"kLeft{i}" for i in range(7)], "left_ee": [*"abcdefg"]}}
    for i, length in enumerate(LENGTHS):
        place = folder / truth.tasks[i] / f"episode_{i:04d}"
        (place / "colors").mkdir(parents=True)
        frames = []
        for row in range(length):
            pictures = {camera: f"colors/{row:06d}_{camera}.jpg" for camera in truth.cameras}
            for file in pictures.values():
                (place / file).write_bytes(jpeg(truth.frames[i][row]))
            frame: dict[str, Any] = {"idx": row, "colors": pictures, "depths": {}, "tactiles": None}
            for kind, values in (("states", truth.state), ("actions", truth.action)):
                left, right, one, other = np.split(values[i][row].tolist(), [7, 14, 15])
                parts = {"right_arm": right, "left_arm": left, "right_ee": other, "left_ee": one, "body": np.ones(3)}
                frame[kind] = {
                    name: {"type": "dex1", "qpos": part.tolist(), "qvel": []} for name, part in parts.items()
                }
            frames.append(frame)
        text = {"goal": truth.tasks[i], "desc": "", "steps": ""}
        (place / "data.json").write_text(json.dumps({"info": info, "text": text, "data": frames}, indent=4))
    return truth


WRITERS = (
    parquet,
    calvin,
    unitree,
    npz,
    npz_of_many,
    aloha,
    act_simulation,
    robotwin,
    robotwin_marked,
    robomind,
    maniskill,
    isaac_lab,
    d4rl,
    minari,
    maniskill_2,
)
STORES = (diffusion_policy, zarr_3, zarr_zip, pusht_floats)


@pytest.mark.parametrize("write", [*WRITERS, *STORES], ids=lambda write: write.__name__)
def test_values_tasks_and_frames(tmp_path: Path, write: Callable[[Path], Truth]):
    truth = write(tmp_path)
    dataset = open_dataset(tmp_path, fps=10)
    key = "action.joint_position" if write is robomind else "action"
    state = "observation.joint_position" if write is robomind else "observation.state"
    assert [episode.length for episode in dataset.episodes] == list(truth.lengths)
    assert dataset.tasks == truth.tasks
    assert tuple(key.removeprefix("observation.images.") for key in dataset.cameras) == truth.cameras
    for index in range(len(truth.lengths)):
        columns = dataset.columns(index, [key, state])
        np.testing.assert_array_equal(columns[key], truth.action[index])
        np.testing.assert_array_equal(columns[state], truth.state[index])
        for camera in truth.cameras:
            frames = dataset.frames(index, [camera])[:, 0]
            near = np.abs(frames.astype(int) - truth.frames[index])
            assert near.max() <= (0 if truth.exact else 4)
            chosen = dataset.frames(index, [camera], indices=[4, 1])[:, 0]
            np.testing.assert_array_equal(chosen, frames[[4, 1]])


def test_what_no_policy_may_see_or_model_reads_is_left_out(tmp_path: Path):
    for write in (isaac_lab, maniskill, robomind):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__)
    isaac = open_dataset(tmp_path / "isaac_lab", fps=10)
    assert "observation.actions" not in isaac.features
    assert "copies it" in isaac.left_out["obs/actions"]
    assert depth_cameras(open_dataset(tmp_path / "maniskill", fps=20)) == ["obs/sensor_data/base_camera/depth"]
    assert depth_cameras(open_dataset(tmp_path / "robomind", fps=30)) == ["observations/depth_images/camera_top"]


def test_what_looks_like_pictures_and_is_read_as_numbers_is_said(tmp_path: Path):
    arrays = {"depth": np.ones((5, 8, 8)), "wrist_depth": np.ones((5, 8, 8, 1), np.uint16), "in_depth": wave(5, 2, 1)}
    arrays |= {"range_map": np.ones((5, 8, 8), np.uint16), "extrinsics": np.ones((5, 4, 4))}
    arrays |= {"light": np.ones((5, 8, 8, 3), np.float32), "clear": np.ones((5, 8, 8, 4), np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays, action=wave(5, 3, 0), rotations=np.ones((5, 3, 3, 3)))
    findings = open_dataset(tmp_path / "a.npz", fps=10).findings
    said = {each.kind: str(each) for each in findings if "range_map" not in each.what}
    assert len(findings) == len(said) + 1
    assert said.keys() == {"depth-as-numbers", "pictures-as-numbers"}
    assert "`observation.depth`, `observation.wrist_depth`: distances" in said["depth-as-numbers"]
    assert "`observation.clear`, `observation.light`: rows" in said["pictures-as-numbers"]
    camera = "observation.images.front"
    described = open_dataset(tmp_path / "a.npz", fps=10, layout={"columns": {"action": "action", "clear": camera}})
    assert described.left_out["clear"] == "it is no picture of RGB (uint8 [8, 8, 4])"
    assert not described.cameras


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"action": wave(5, 3, 0)[:, None]}, []),  # an axis of one is none
        ({"action": np.ones((5, 2, 3), np.float32)}, ["not-vectors"]),
        ({"stacked": np.ones((5, 2, 8, 8, 3), np.float32)}, ["pictures-as-numbers"]),
        ({"film": None}, ["films-beside"]),
    ],
)
def test_what_nothing_trains_on_is_said(more: dict[str, Any], kinds: list[str], tmp_path: Path):
    if "film" in more:
        (tmp_path / "a.mp4").touch()
    arrays: dict[str, Any] = {"action": wave(5, 3, 0)} | {key: each for key, each in more.items() if key != "film"}
    for i in range(4):
        np.savez(tmp_path / f"{i}.npz", state=wave(5, 2, i), **arrays | {"action": arrays["action"] + np.float32(i)})
    found = inspect_dataset(open_dataset(tmp_path, fps=10, format="npz")).findings
    asked = {"not-vectors", "pictures-as-numbers", "films-beside"}
    assert [each.kind for each in found if each.kind in asked] == kinds


def test_floats_of_several_widths_and_references_cost_no_demonstration(tmp_path: Path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i, width in enumerate(("f4", "f8", ">f8", "f4")):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"], demo["obs/pos"] = wave(6, 3, i).astype(width), wave(6, 3, 9 + i)
            links = demo.create_dataset("obs/links", (6,), dtype=h5py.ref_dtype)
            links[0] = file["data"].ref
    dataset = open_dataset(tmp_path, fps=10)
    assert (len(dataset.episodes), dataset.left_out["obs/links"]) == (4, "it holds no numbers")
    for i in range(4):
        actions = dataset.actions(i)
        np.testing.assert_array_equal(actions, wave(6, 3, i))
        assert actions.dtype == np.float32


def test_pictures_packed_by_imagecodecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As UMI's are. That package makes its codecs known to zarr only when asked to, here a stand-in by zlib."""
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")

    class Jpegxl(numcodecs.Zlib):
        codec_id = "imagecodecs_jpegxl"

    numcodecs.register_codec(Jpegxl)
    frames, store = film(6, 0), zarr.open_group(str(tmp_path / "umi.zarr"), mode="w", zarr_format=2)
    pictures = store.create_array("data/camera0_rgb", shape=frames.shape, dtype="u1", compressors=Jpegxl())
    pictures[:] = frames
    store.create_array("data/robot0_eef_pos", data=wave(6, 3, 0))
    store.create_array("meta/episode_ends", data=np.array([2, 6]))
    del numcodecs.registry.codec_registry[Jpegxl.codec_id]
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    refused("packed by jpegxl. .* pip install imagecodecs", open_dataset, tmp_path / "umi.zarr", fps=10)
    known = SimpleNamespace(register_codecs=lambda verbose: numcodecs.register_codec(Jpegxl))
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", known)
    dataset = open_dataset(tmp_path / "umi.zarr", fps=10)
    np.testing.assert_array_equal(dataset.frames(1)[:, 0], frames[2:])
    del numcodecs.registry.codec_registry[Jpegxl.codec_id]


@pytest.mark.parametrize("kind", ["attribute", "array"])
def test_demonstrations_that_failed_are_said(tmp_path: Path, kind: str):
    """As Isaac Lab's recorder marks them, and others with a single number."""
    for name, flags in (("some", (True, False, True)), ("none", (False, False, False))):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            for i, flag in enumerate(flags):
                demo = file.create_group(f"data/demo_{i}")
                demo["actions"] = wave(4, 2, i)
                if kind == "array":
                    demo["success"] = flag
                else:
                    demo.attrs["success"] = flag
    (told,) = (each for each in open_dataset(tmp_path / "some.hdf5", fps=5).findings if each.kind == "failed-episodes")
    assert (told.episodes, "1 of 3 episodes did not succeed" in told.what) == ((1,), True)
    assert "failed-episodes" not in {each.kind for each in open_dataset(tmp_path / "none.hdf5", fps=5).findings}


def test_files_that_are_packed_are_named(tmp_path: Path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", action=wave(3, 2, i))
    (tmp_path / "1.npz").rename(tmp_path / "1.npz.gz")
    (tmp_path / "2.npz.gz").write_bytes(b"the same")
    dataset = open_dataset(tmp_path, fps=10)
    assert (len(dataset.episodes), list(dataset.left_out)) == (2, ["1.npz.gz"])


def test_instructions_of_calvin_and_steps_that_are_not_there(tmp_path: Path):
    """Instructions are read once the page's snippet made JSON of them; damage is of one episode."""
    truth = calvin(tmp_path / "task_D_D")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        page = (Path(__file__).parents[3] / "docs/howto/own_dataset.md").read_text(encoding="utf-8")
        assert "lang_annotations/auto_lang_ann.npy" in open_dataset("task_D_D").left_out
        exec(page.partition("### CALVIN")[2].partition("```python")[2].partition("```")[0], {})
        dataset = open_dataset("task_D_D")
    assert [(each.length, *each.tasks) for each in dataset.episodes] == [
        (3, "push"),
        (4, "open it"),
        (3, "push"),
        (6, "open it"),
    ]
    np.testing.assert_array_equal(dataset.actions(1), truth.action[0][1:])
    assert (dataset.held_out, "lang_annotations/auto_lang_ann.npy" in dataset.left_out) == ((2, 3), False)
    assert dataset.files_of(0) == tuple(tmp_path / f"task_D_D/training/episode_00000{i}.npz" for i in (20, 21, 22))
    (tmp_path / "task_D_D/training/episode_0000020.npz").unlink()
    np.savez(tmp_path / "task_D_D/validation/episode_0000005.npz", rel_actions=np.ones(6))
    broken = open_dataset(tmp_path / "task_D_D")
    assert [(each.episode_index, "episode_0000020.npz" in each.reason) for each in broken.damaged] == [(0, True)]
    refused(r"episode_0000005.npz: expected `rel_actions` as float32 \[7\].* got float64 \[6\]", broken.actions, 2)
    (tmp_path / "task_D_D/training/lang_annotations/auto_lang_ann.json").write_text('{"indx": [[5, 4]], "ann": ["a"]}')
    assert "expected steps from 0 on" in open_dataset(tmp_path / "task_D_D").damaged[0].reason


def unnamed(frames: list[Any], place: Path) -> None:
    del frames[2]["colors"]["color_1"]


def fewer(frames: list[Any], place: Path) -> None:
    frames[2]["states"]["left_arm"]["qpos"] = [1, 2]


def outside(frames: list[Any], place: Path) -> None:
    frames[2]["colors"]["color_1"] = "../../wipe/episode_0001/colors/000000_color_1.jpg"


def object_among_numbers(frames: list[Any], place: Path) -> None:
    for frame in frames:
        frame["states"]["left_arm"]["qpos"][3] = {"a": None}


def listed(frames: list[Any], place: Path) -> None:
    frames[2]["colors"] = ["colors/0.jpg"]


def without(frames: list[Any], place: Path) -> None:
    (place / frames[2]["colors"]["color_1"]).unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (unnamed, r"expected a picture of 'color_1' in frame 2, got None"),
        (fewer, r"expected \[7\] numbers in `states.left_arm.qpos` of frame 2, as before, got \[1, 2\]"),
        (outside, "expected a path below"),
        (object_among_numbers, "expected numbers in `states.left_arm.qpos` of each frame, got others"),
        (listed, r"expected `colors` of frame 2 by camera, got \['colors/0.jpg'\]"),
        (without, "expected the picture colors/000002_color_1.jpg, which a frame names, got none"),
    ],
)
def test_a_recording_of_unitree_that_lacks_something_is_left_out(harm: Callable, says: str, tmp_path: Path):
    unitree(tmp_path)
    dataset = open_dataset(tmp_path)
    named = dataset.features["action"].names
    assert named == (*(f"kLeft{i}" for i in range(7)), *(f"right_arm_{i}" for i in range(7)), "left_ee_0", "right_ee_0")
    assert (dataset.fps, dataset.features["observation.body.qpos"].shape) == (10, (3,))
    place = tmp_path / "pour the tea/episode_0000"
    content = json.loads((place / "data.json").read_text())
    harm(content["data"], place)
    (place / "data.json").write_text(json.dumps(content))
    (reason,) = [each.reason for each in open_dataset(tmp_path).damaged if each.episode_index == 0]
    assert re.search(says, reason), reason


def test_files_of_one_step_each_are_refused(tmp_path: Path):
    """A file a step, without CALVIN's list of recordings. Its seven numbers are not seven steps, whatever the rate."""
    for i in range(3):
        step = {"actions": np.ones(7), "robot_obs": np.ones(15), "rgb_static": film(1, i)[0]}
        np.savez(tmp_path / f"episode_{i:07d}.npz", **step)
    for fps in (None, 30):
        refused("got one step: 7 numbers and one picture, `rgb_static`", open_dataset, tmp_path, fps=fps)


@pytest.mark.parametrize(("version", "how", "lost"), [(2, {}, "1.0"), (3, {"shards": (12, 2)}, "c/1/0")])
def test_rows_and_chunks_of_a_store_that_are_not_there_are_said(version: int, how: dict, lost: str, tmp_path: Path):
    """As of a copy that was cut off; an end at 0 is that of an empty episode. Shards are files of several chunks."""
    zarr = pytest.importorskip("zarr")
    root = tmp_path / "buffer.zarr"
    top = zarr.open_group(str(root), mode="w", zarr_format=version)
    top.create_array("data/action", shape=(21, 2), chunks=(3, 2), dtype="f4", **how)[:] = wave(21, 2, 0)
    top.create_array("meta/episode_ends", data=np.array([0, 12, 20]))
    assert not [each for each in open_dataset(root, fps=10).findings if each.kind == "chunks-not-stored"]
    (root / "data/action" / lost).unlink()
    dataset = open_dataset(root, fps=10)
    assert [episode.length for episode in dataset.episodes] == [12, 8]
    assert [each.kind for each in dataset.findings] == ["rows-after-ends", "chunks-not-stored"]
    shutil.make_archive(str(root), "zip", tmp_path, root.name)  # with its folder, as people do
    zipped = open_dataset(tmp_path / "buffer.zarr.zip", fps=10)
    for index in range(2):
        np.testing.assert_array_equal(zipped.actions(index), dataset.actions(index))
    zarr.create_array(str(tmp_path / "one.zarr"), data=wave(24, 2, 0))
    refused("a group with arrays, got an array alone", open_dataset, tmp_path / "one.zarr", fps=10)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"episode_ends": [5, 12]}, [5, 7]),
        ({"episode_ends": [0, 5, 12]}, [5, 7]),
        ({"episode_ends": [5, 7]}, "got lengths (5, 7). Write numpy.cumsum of them there"),
        ({"episode_ends": [6, 6]}, "got lengths (6, 6)"),
        ({"episode_ends": [9, 4, 12]}, "got rows that go back (9, 4, 12)"),
        ({"episode_ends": [0, 5, 8]}, "got the first one of each (0, 5, 8). Write numpy.append(starts[1:], 12) there"),
        ({"episode_ends": [0, 5, 11]}, [5, 6]),  # a row of one that was begun
        ({"traj_lengths": [5, 7]}, [5, 7]),
        ({"traj_lengths": [5, 8]}, "expected lengths of episodes in traj_lengths that are 12 together, got 13"),
        ({"episode_id": [3] * 5 + [3 + 1] * 7}, [5, 7]),
        ({"episode_id": [1] * 5 + [0] * 7, "done": [0] * 12}, [5, 7]),
        ({"episode_id": [7], "done": [True]}, [12]),  # facts of the whole file
        ({"terminated": [0] * 4 + [1] + [0] * 7, "truncated": [0] * 11 + [1]}, [5, 7]),
        ({"dones": [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]}, [5, 7]),  # until the scene is reset
        ({"is_last": [0] * 13}, "`is_last`: expected a row for each of 12 steps, got 13"),
        ({"trajectory": [7] * 5 + [9] * 7}, [5, 7]),
        ({"clip_name": ["a"] * 5 + ["b"] * 7}, [5, 7]),
        ({"scene_token": ["a"] * 5 + ["b"] * 7, "done": [0] * 7 + [1] + [0] * 4}, [5, 3, 4]),  # none is in two scenes
        ({"episode_id": [0] * 3 + [1] * 2 + [0] * 7, "scene_id": [0] * 5 + [1] * 7}, [3, 2, 7]),
        ({"scene": [0, 1, 0] * 4, "demo": np.arange(12) / 7}, [12]),  # other facts of each step
        ({"episode_id": [0, 1, 2] * 4}, "numpy.argsort(episode_id, kind='stable')"),  # as simulated side by side
        ({"is_first": [1, 1, 0, 0, 0, 1] + [0] * 6}, [5, 7]),
        ({"episode_starts": [0, 5]}, [5, 7]),
        ({"episode_starts": [1, 5]}, "the first row of each episode in episode_starts, from 0 on"),
        ({"not_done": [1] * 4 + [0] + [1] * 6 + [0]}, [5, 7]),
        ({"episode_ends": [0] * 4 + [1] + [0] * 6 + [1]}, [5, 7]),  # flags, by their number
        ({"timestep": [*range(5), *range(7)]}, [5, 7]),
        ({"timestamp": [0.01, 0.1, 0.2, 0.3, 0.4, 0, 0.1, 0.21, 0.3, 0.4, 0.5, 0.6]}, [5, 7]),
        ({"timestamp": [0, 0.1, 0.2, 0.3, 0.4, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1]}, [12]),  # a clock that was set
    ],
)
def test_arrays_that_say_where_episodes_end(ends: dict[str, list], expected: Any, tmp_path: Path):
    np.savez(tmp_path / "all.npz", action=wave(12, 4, 0), **{name: np.array(each) for name, each in ends.items()})
    if isinstance(expected, str):
        refused(re.escape(expected), open_dataset, tmp_path / "all.npz", fps=10)
        return
    dataset = open_dataset(tmp_path / "all.npz", fps=10)
    assert [episode.length for episode in dataset.episodes] == expected
    stays = {"timestep", "timestamp", "scene", "demo"}
    assert not [key for key in dataset.features if key.removeprefix("observation.") in ends.keys() - stays]
    assert ("held-ends" in {each.kind for each in dataset.findings}) == (sum(ends.get("dones", [])) > 2)


@pytest.mark.parametrize(
    ("told", "rows"),
    [
        ({"mask": np.arange(9) < 6}, 6),
        ({"is_pad": np.arange(9) >= 6}, 6),
        ({"length": np.array(6)}, 6),
        ({"traj_length": np.array([6])}, 6),
        ({"mask": np.arange(9) < 5}, 9),  # a row that it leaves out moves
        ({"mask": np.arange(9) % 2 == 0}, 9),
        ({"masks": np.ones(9)}, 9),
        ({"num_steps": np.array(9)}, 9),
    ],
)
def test_rows_that_only_fill_arrays_up(told: dict[str, np.ndarray], rows: int, tmp_path: Path):
    action, frames = wave(9, 3, 0), film(9, 0)
    action[6:] = 0
    np.savez(tmp_path / "a.npz", action=action, image=frames, **told)
    dataset = open_dataset(tmp_path, fps=10)
    assert [episode.length for episode in dataset.episodes] == [rows]
    assert [each.kind for each in dataset.findings] == ["padded-rows"] * (rows < 9)
    np.testing.assert_array_equal(dataset.actions(0), action[:rows])
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], frames[:rows])


@pytest.mark.parametrize("axes", [(0, 1, 2, 3, 4), (0, 1, 4, 2, 3)])
def test_pictures_of_several_cameras_in_one_array(axes: tuple[int, ...], tmp_path: Path):
    films = [film(70, seed) for seed in range(3)]
    np.savez(tmp_path / "a.npz", action=wave(70, 3, 0), rgb=np.stack(films, 1).transpose(axes))
    dataset = open_dataset(tmp_path, fps=10)
    assert [each.kind for each in dataset.findings] == ["stacked-cameras"]
    for view, frames in enumerate(films):
        np.testing.assert_array_equal(dataset.frames(0, [f"rgb_{view}"])[:, 0], frames)
        np.testing.assert_array_equal(dataset.frames(0, [f"rgb_{view}"], indices=[2, 60])[:, 0], frames[[2, 60]])


@pytest.mark.parametrize("zero", [(0,), (0, 1), ()], ids=["of dm_env", "at rest", "none"])
def test_first_actions_that_are_none(zero: tuple[int, ...], tmp_path: Path):
    """As in ExORL's and Dreamer's files; the way out works as it is printed."""
    (tmp_path / "replay").mkdir()
    for i in range(4):
        action, frames = wave(9, 3, i), film(9, i)
        action[[*zero]] = 0
        flags = np.arange(9) == 8
        np.savez(tmp_path / f"replay/{i}.npz", action=action, image=frames, observation=wave(9, 5, i), is_last=flags)
    (tmp_path / "replay.json").write_text('{"dataset": "replay", "fps": 10}')
    found = {each.kind: each for each in inspect_dataset(open_dataset(tmp_path / "replay.json")).findings}
    assert ("first-action-zero" in found) == (zero == (0,))
    if zero == (0,):
        entry = found["first-action-zero"].advice.partition(".json: ")[2]
        (tmp_path / "replay.json").write_text(f'{{"dataset": "replay", "fps": 10, {entry.rstrip(".")}}}')
        dataset = open_dataset(tmp_path / "replay.json")
        np.testing.assert_array_equal(dataset.actions(2), wave(9, 3, 2)[1:])
        np.testing.assert_array_equal(dataset.frames(2)[:, 0], film(9, 2)[:-1])
        assert {"observation.state", "observation.images.image"} < dataset.features.keys()


@pytest.mark.parametrize("error", [KeyError, IndexError, TypeError, AttributeError])
@pytest.mark.parametrize("write", [npz, isaac_lab, diffusion_policy, unitree, calvin], ids=lambda write: write.__name__)
def test_mistakes_of_our_own_are_no_damage(
    write: Callable[[Path], Truth], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path)
    names: dict[str, Any] = {"__name__": "lattok.mistaken", "error": error}
    exec("def mistaken(*_):\n    raise error('of ours')", names)
    dataset = open_dataset(tmp_path, fps=10)
    monkeypatch.setattr("lattok.data.formats.array_reader.alike", names["mistaken"])
    with pytest.raises(error, match="of ours"):
        dataset.actions(0)


def test_two_arrays_that_would_be_one_column_and_times_of_another_rate(tmp_path: Path):
    """The first one counts: it has the rows. A frame counter is no clock."""
    times = {"timestamps": 1.7e9 + np.arange(9) / 10, "t": np.arange(9)}
    np.savez(tmp_path / "a.npz", actions=wave(9, 4, 1), action=wave(9, 4, 0), **times)
    dataset = open_dataset(tmp_path, fps=30)
    np.testing.assert_array_equal(dataset.actions(0), wave(9, 4, 0))
    assert dataset.left_out["actions"] == "`action` is `action`; a `layout` can take both"
    (told,) = dataset.file_findings()
    assert told.what == "`observation.timestamps` has 10 rows a second, and `fps` is 30."
    assert not [*open_dataset(tmp_path, fps=9.5).file_findings()]


STEPS = [wave(20, 4, seed) for seed in range(3)]
BOTH_ARMS = [np.hstack([wave(9, 7, seed), wave(9, 7, seed + 9)]) for seed in range(2)]


def of_arms(one: str, other: str) -> dict[str, np.ndarray]:
    return {one.format(i): wave(9, 7, i) for i in range(2)} | {other.format(i): wave(9, 7, i + 9) for i in range(2)}


FORMS: dict[str, tuple[dict[str, Any], list[np.ndarray] | str]] = {  # arrays, and actions of each episode
    "axis, lengths": (
        {"actions": np.stack(STEPS), "observations": np.ones((3, 20, 5)), "lengths": np.array([20, 9, 12])},
        [STEPS[0], STEPS[1][:9], STEPS[2][:12]],
    ),
    "axis, mask": (
        {"actions": np.stack(STEPS), "mask": np.arange(20) < np.array([[20], [9], [12]])},
        [STEPS[0], STEPS[1][:9], STEPS[2][:12]],
    ),
    "axis, pictures": ({"actions": np.stack(STEPS), "images": np.ones((3, 20, 8, 8, 3), np.uint8)}, STEPS),
    "an array each": (
        {f"{key}/{i}": each[: 9 + i] for i, each in enumerate(STEPS) for key in ("actions", "states")},
        [each[: 9 + i] for i, each in enumerate(STEPS)],
    ),
    "numbered arrays": (
        {f"{key}_{i}": each[: 9 + i] for i, each in enumerate(STEPS) for key in ("action", "state")},
        [each[: 9 + i] for i, each in enumerate(STEPS)],
    ),
    "groups of arms": (of_arms("run_{}/robot_left/action", "run_{}/robot_right/action"), BOTH_ARMS),
    "arms below actions": (of_arms("run_{}/actions/arm1", "run_{}/actions/arm2"), BOTH_ARMS),
    "numbered robots": (of_arms("data/demo_{}/actions/robot0", "data/demo_{}/actions/robot1"), BOTH_ARMS),
    "numbered arms": ({"arm_0/action": wave(9, 7, 0), "arm_1/action": wave(9, 7, 9)}, BOTH_ARMS[:1]),
    "numbered cameras": ({"action": STEPS[0]} | {f"camera_{i}/rgb": film(20, i) for i in range(3)}, STEPS[:1]),
    "tasks of episodes": (
        {f"task_{i // 2}/episode_{i % 2}/action": wave(9, 4, i) for i in range(4)},
        [wave(9, 4, i) for i in range(4)],
    ),
    "a group for each step": (
        {f"{i}/{key}": np.ones(n) for i in range(9) for key, n in (("action", 7), ("q", 8))},
        "a group for each, `0`",
    ),
    "turned": (
        {"action": wave(50, 7, 0).T, "state": wave(50, 8, 0).T},
        r"got columns: \[7, 50\], and `state` \[8, 50\]",
    ),
    "turned not": ({"action": wave(3, 7, 0), "state": wave(4, 7, 0)}, [wave(3, 7, 0)]),
}


def read(path: Path) -> RobotDataset:
    """Open a file as it is, or as the draft in the error describes it."""
    try:
        return open_dataset(path, fps=10)
    except LattokError as error:
        if not (drafted := str(error).partition("Write {")[2].partition(" into a file")[0]):
            raise
    (path.parent / "draft.json").write_text("{" + drafted)
    return open_dataset(path.parent / "draft.json")


@pytest.mark.parametrize("ending", ["h5", "npz", "zarr"])
@pytest.mark.parametrize("name", FORMS)
def test_actions_of_each_episode(name: str, ending: str, tmp_path: Path):
    """Read, or read by the draft of the error, which has no arm or episode less."""
    arrays, expected = FORMS[name]
    path = tmp_path / f"all.{ending}"
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        zarr = pytest.importorskip("zarr") if ending == "zarr" else None
        top = zarr.open_group(str(path), mode="w") if zarr else h5py.File(path, "w")
        for key, values in arrays.items():
            top.create_array(key, data=values) if zarr else top.create_dataset(key, data=values)
        if not zarr:
            top.close()
    if isinstance(expected, str):
        refused(expected, read, path)
        return
    dataset = read(path)
    if "action" not in dataset.features:  # of robomimic's layout: parts, which the next command joins
        parts = parts_of(dataset)["action"]
        dataset = open_dataset(path, fps=10, columns={"action": parts})
    assert len(dataset.episodes) == len(expected)
    for index, action in enumerate(expected):
        np.testing.assert_array_equal(dataset.actions(index), action)
    assert len(dataset.cameras) == {"numbered cameras": 3, "axis, pictures": 1}.get(name, 0)
    assert not dataset.damaged


def table(rows: list[dict[str, Any]], path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


EACH_ROW = [{"action": wave(5 + i, 2, i).tolist(), "state": wave(5 + i, 3, i).tolist()} for i in range(3)]


def test_tables_of_episodes_splits_and_unknown_columns(tmp_path: Path):
    """A row may be a whole episode; files of a split judge; a draft names what it guesses."""
    dataset = read(table(EACH_ROW, tmp_path / "all.parquet"))
    assert [episode.length for episode in dataset.episodes] == [5, 6, 7]
    np.testing.assert_array_equal(dataset.actions(2), wave(7, 2, 2))
    (tmp_path / "split").mkdir()
    for split in ("train", "test"):
        rows = [{"action": [i, 2.0], "traj_id": i // 4} for i in range(9)]
        table(rows, tmp_path / f"split/{split}-00000-of-00001.parquet")
    parts = open_dataset(tmp_path / "split", fps=5)
    judged = [parts.files_of(index)[0].name[:4] for index in parts.held_out]
    assert (len(parts.episodes), judged) == (6, ["test"] * 3)
    rows = [{"cmd": [i, 2.0], "qpos": [i, 1.0, 2.0], "traj_id": i // 5, "prompt": "go"} for i in range(10)]
    drafted = read(table(rows, tmp_path / "own.parquet"))
    assert ([episode.length for episode in drafted.episodes], drafted.tasks) == ([5, 5], ("go",))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"action": [1.0, 2.0], "image": {"bytes": None, "path": "a.png"}}] * 9, "got names of files"),
        ([{"action": [1.0] * (2 + (i > 3))} for i in range(9)], r"lists of 2 values .*, got one of 3"),
        ([{"action": [1.0, 2.0]}] * 9, "none called train-00001-of-00002.parquet"),
    ],
)
def test_tables_that_are_refused(rows: list[dict[str, Any]], said: str, tmp_path: Path):
    table(rows, tmp_path / f"train-00000-of-0000{1 + said.startswith('none')}.parquet")
    refused(said, lambda: open_dataset(tmp_path, fps=10).actions(0))


@pytest.mark.parametrize("stored", ["pixels", "bytes", "void"])
def test_pictures_that_are_an_array_each(stored: str, tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for demo in range(2):
            file[f"data/demo_{demo}/actions"] = wave(12, 7, demo)
            for row, frame in enumerate(film(12, demo)):
                packed = np.frombuffer(jpeg(frame), np.uint8)
                kinds = {"pixels": frame, "bytes": packed, "void": np.void(packed.tobytes())}
                file[f"data/demo_{demo}/obs/cam/{row}"] = kinds[stored]
    dataset = open_dataset(tmp_path / "a.h5", fps=10)
    near = np.abs(dataset.frames(1)[:, 0].astype(int) - film(12, 1))
    assert near.max() <= (0 if stored == "pixels" else 4)
    np.testing.assert_array_equal(dataset.frames(1, indices=[11, 2]), dataset.frames(1)[[11, 2]])


@pytest.mark.parametrize("layout", ["robomimic", "ALOHA / ACT"])
@pytest.mark.parametrize("told", ["attribute", "list", "array", "rows", "changing"])
def test_instructions_of_single_episodes(layout: str, told: str, tmp_path: Path):
    for i in range(2):
        with h5py.File(tmp_path / ("a.hdf5" if layout == "robomimic" else f"{i}.hdf5"), "a") as file:
            group, name = (
                (file, "action") if layout != "robomimic" else (file.create_group(f"data/demo_{i}"), "actions")
            )
            group[name], group["observations/qpos"] = wave(4, 14, i), wave(4, 14, 9)
            text = np.bytes_(f"do {i}")
            if told in ("attribute", "list"):
                group.attrs["language_instruction"] = np.array([text]) if told == "list" else text
            else:
                rows = {"array": text, "rows": [b""] + [text] * 3, "changing": [text] * 2 + [b"stop"] * 2}
                group["language_instruction"] = rows[told]
            file.attrs["fps"] = 25
    dataset = open_dataset(tmp_path)
    more = ("stop",) if told == "changing" else ()
    assert [each.tasks for each in dataset.episodes] == [("do 0", *more), ("do 1", *more)]
    said = [dataset.tasks[number] for number in dataset.columns(1, ["task_index"])["task_index"]]
    assert said == ["do 1"] * 2 + [*(more or ("do 1",))] * 2
    assert dataset.fps == 25


def test_a_draft_of_steps_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture):
    """It names what says where episodes end, the widest state, and no fact of a camera."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["actions"], file["arm/gripper_position"], file["arm/joint_positions"] = (wave(12, n, 0) for n in (4, 1, 7))
        file["dones"], file["camera/intrinsics"], file["timestamp/read"] = np.arange(12) == 4, np.eye(3), np.arange(12)
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    (tmp_path.parent / f"{tmp_path.name}.json").write_text(said[said.index('{"dataset"') : said.rindex("}") + 1])
    dataset = open_dataset(f"{tmp_path}.json")
    assert [episode.length for episode in dataset.episodes] == [5, 7]
    assert dataset.features["observation.state"].shape == (7,)
    assert not {"camera", "timestamp"} & {key.split(".")[1] for key in dataset.features if key.count(".") > 1}


def test_demonstrations_in_groups_of_groups(tmp_path: Path, capsys: pytest.CaptureFixture):
    """The draft has those of all tasks."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for task in ("pour", "wipe"):
            for i in (0, 1, 10):
                file[f"sets/{task}/demo_{i}/act"], file[f"sets/{task}/demo_{i}/arm"] = wave(5, 2, i), wave(5, 3, i)
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    (tmp_path.parent / f"{tmp_path.name}.json").write_text(said[said.index('{"dataset"') : said.rindex("}") + 1])
    dataset = open_dataset(f"{tmp_path}.json")
    assert len(dataset.episodes) == 6
    np.testing.assert_array_equal(dataset.actions(5), wave(5, 2, 10))


def test_one_more_observation_is_said(tmp_path: Path):
    maniskill(tmp_path)
    dataset = open_dataset(tmp_path, fps=20)
    assert [finding.severity for finding in dataset.findings] == ["note"]
    assert "obs/agent/state" in dataset.findings[0].what


def test_episodes_may_differ_in_the_row_that_no_action_follows(tmp_path: Path):
    truth = maniskill(tmp_path)
    with h5py.File(tmp_path / "trajectory.h5", "a") as file:
        for path in ("obs/agent/state", "obs/sensor_data/base_camera/rgb"):
            rows = file["traj_1"][path][:-1]
            del file["traj_1"][path]
            file["traj_1"][path] = rows
    dataset = open_dataset(tmp_path, fps=20)
    for index in range(2):
        np.testing.assert_array_equal(
            dataset.columns(index, ["observation.state"])["observation.state"], truth.state[index]
        )
        np.testing.assert_array_equal(dataset.frames(index)[:, 0], truth.frames[index])


def test_an_array_of_other_rows_is_left_out_where_all_have_it_so_and_damage_elsewhere(tmp_path: Path):
    isaac_lab(tmp_path)
    with h5py.File(tmp_path / "dataset.hdf5", "a") as file:
        for i in range(2):
            file[f"data/demo_{i}/obs/fast"] = np.zeros((2 * LENGTHS[i], 3))
    dataset = open_dataset(tmp_path, fps=10)
    assert len(dataset.episodes) == 2
    assert dataset.left_out["obs/fast"] == "it has 10 rows where there are 5 actions"
    with h5py.File(tmp_path / "dataset.hdf5", "a") as file:
        file["data/demo_2/actions"], file["data/demo_2/obs/state"] = wave(9, 7, 2), wave(4, 9, 2)
    (damage,) = open_dataset(tmp_path, fps=10).damaged
    assert "demo_2: `obs/state`: expected float32 [T, 9], but it has 4 rows where there are 9 actions" in damage.reason


def test_files_that_are_episodes_count_by_their_numbers_and_one_of_another_kind_is_left_out(tmp_path: Path):
    for number in (0, 1, 2, 10):
        with h5py.File(tmp_path / f"episode_{number}.hdf5", "w") as file:
            file["action"], file["observations/qpos"] = wave(5 + number, 14, number), wave(5 + number, 14, 9)
            if number != 1:
                file["observations/images/top"] = film(5 + number, number)
    dataset = open_dataset(tmp_path, fps=50)
    assert [(episode.index, episode.length) for episode in dataset.episodes] == [(0, 5), (2, 7), (3, 15)]
    (damage,) = dataset.damaged
    assert (damage.episode_index, "got nothing, unlike most files" in damage.reason) == (1, True)


@pytest.mark.parametrize("without", [(0,), (1, 2)])
def test_episodes_that_lack_their_actions_alone_have_unknown_ones(without: tuple[int, ...], tmp_path: Path):
    for number in range(3):
        with h5py.File(tmp_path / f"episode_{number}.hdf5", "w") as file:
            file["observations/qpos"], file["observations/images/top"] = wave(5, 14, number), film(5, number)
            if number not in without:
                file["action"] = wave(5, 14, number)
    dataset = open_dataset(tmp_path, fps=50)
    assert (dataset.damaged, dataset.cameras, len(dataset.episodes)) == ((), ("observation.images.top",), 3)
    for number in range(3):
        action = dataset.columns(number, ["action"])["action"]
        expected = np.full((5, 14), np.nan) if number in without else wave(5, 14, number)
        np.testing.assert_array_equal(action, expected.astype(action.dtype))
        assert np.isfinite(dataset.columns(number, ["observation.state"])["observation.state"]).all()
    with h5py.File(tmp_path / f"episode_{without[0]}.hdf5", "a") as file:
        del file["observations/qpos"]
    (damage,) = open_dataset(tmp_path, fps=50).damaged
    assert damage.episode_index == without[0]
    with h5py.File(tmp_path / "alone.h5", "w") as file:  # in no layout: its positions are the state, not its forces
        file["observations/effort"], file["observations/qpos"] = wave(5, 16, 0), wave(5, 14, 0)
    message = refused("expected a layout of", open_dataset, tmp_path / "alone.h5")
    assert '"observations/qpos": "observation.state"' in message


def test_names_of_dimensions_are_known_where_their_number_fits(tmp_path: Path):
    aloha(tmp_path)
    dataset = open_dataset(tmp_path / "pour the tea", fps=50)
    assert dataset.features["action"].names == ALOHA


def test_a_split_of_the_file(tmp_path: Path):
    isaac_lab(tmp_path)
    with h5py.File(tmp_path / "dataset.hdf5", "a") as file:
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([b"demo_1"])
    assert [episode.index for episode in open_dataset(tmp_path, fps=10, split="valid").episodes] == [1]
    assert any("mask" in finding.what for finding in open_dataset(tmp_path, fps=10).findings)
    refused("`split`: expected one of train, valid, got test", open_dataset, tmp_path, fps=10, split="test")


@pytest.mark.parametrize(
    ("valid", "test"),
    [([1, 3], [1, 3]), ([], [4, 5]), ([0, 1, 2, 3, 4, 5], [4, 5]), ([9, 2], [2])],
    ids=["some", "none", "all: then nothing would train", "one that is not there"],
)
def test_the_mask_valid_judges(tmp_path: Path, capsys: pytest.CaptureFixture, valid: list[int], test: list[int]):
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        for number in range(6):
            file[f"data/demo_{number}/actions"] = wave(8, 3, number)
        file["mask/train"] = np.array([f"demo_{i}".encode() for i in range(6) if i not in valid])
        file["mask/valid"] = np.array([f"demo_{i}".encode() for i in valid], dtype="S8")
    (tmp_path / "lift.json").write_text('{"dataset": "lift.hdf5", "fps": 20}')
    dataset = open_dataset(tmp_path / "lift.json")
    assert split_by_task(dataset) == ([i for i in range(6) if i not in test], test)
    assert split_by_task(dataset, 1)[1] == [5]
    said = (
        f"({', '.join(map(str, test))}){', as the files say' * (sorted(test) == sorted(dataset.held_out))}, the others"
    )
    assert said in inspect_dataset(dataset).render().replace("\n" + " " * 11, " ")
    argv = ["train", "uniform-bins", str(tmp_path / "lift.json"), "--out", str(tmp_path / "bins"), "--horizon", "2"]
    assert main(argv) == 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("where", ["file", "episode"])
def test_a_draft_knows_attributes(where, tmp_path: Path):
    """Rate and instruction may stand in those of the file, or of its episodes."""
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for number in range(2):
            run = file.create_group(f"runs/take_{number}")
            run["act"], run["rgb"] = wave(5, 3, number), film(5, number)
            run["arm/q"], run["t"] = wave(5, 4, number), np.arange(5) / 15  # no state by its name, and no part of it
            (file if where == "file" else run).attrs.update({"control_freq": np.int64(15), "task_text": "open it"})
    message = refused("own.h5: expected a layout of", open_dataset, tmp_path / "own.h5")
    (tmp_path / "draft.json").write_text(message.partition("Write ")[2].partition(" into a file")[0])
    drafted = open_dataset(tmp_path / "draft.json")
    assert (drafted.fps, drafted.tasks, len(drafted.episodes)) == (15, ("open it",), 2)
    np.testing.assert_array_equal(drafted.columns(1, ["observation.state"])["observation.state"], wave(5, 4, 1))


FIELD_FILES = {  # of RoboSet, TeleVision, X-VLA, RoboNet, VD4RL and stable-worldmodel: arrays, and columns of the draft
    "roboset": (
        {"T0/data/ctrl_arm": wave(6, 7, 0), "T0/data/ctrl_ee": wave(6, 1, 0)[:, 0], "T0/data/time": np.arange(6) * 0.2}
        | {f"T0/data/rgb_{side}": film(6, 0) for side in ("left", "right", "top", "wrist")}
        | {f"T0/data/{name}": wave(6, 7, 1) for name in ("qp_arm", "qv_arm", "tau_arm")},
        {"action": (7,), "observation.images.rgb_wrist": (16, 24, 3)},
        [6],
    ),
    "television": (
        {
            "cmds": wave(6, 33, 0),
            "qpos_action": wave(6, 28, 0),
            "observation.image.left": film(6, 0).transpose(0, 3, 1, 2),
        },
        {"action": (28,), "observation.images.left": (16, 24, 3)},
        [6],
    ),
    "xvla": (
        {"abs_action_6d": wave(6, 10, 0), "agentview_rgb": padded(film(6, 0))},
        {"action": (10,), "observation.images.agentview": (16, 24, 3)},
        [6],
    ),
    "robonet": (
        {"env/cam0_video/frames": np.zeros(999, np.uint8), "env/state": wave(7, 5, 0), "policy/actions": wave(6, 4, 0)},
        {"action": (4,), "observation.state": (5,)},
        [6],
    ),
    "vd4rl": (
        {
            "observation": film(6, 0).transpose(0, 3, 1, 2),
            "action": wave(6, 4, 0),
            "step_type": np.array([0, 1, 2] * 2),
        },
        {"action": (4,), "observation.images.observation": (16, 24, 3)},
        [3, 3],
    ),
    "vlabench": (
        {"data/20250101_1200/observation/rgb": np.stack([film(6, 0), film(6, 1)], 1)}
        | {"data/20250101_1200/trajectory": wave(6, 8, 0), "data/20250101_1200/observation/ee_state": wave(6, 8, 1)},
        {"action": (8,), "observation.state": (8,), "observation.images.rgb_1": (16, 24, 3)},
        [6],
    ),
    "worldmodel": (
        {"pixels": film(6, 0), "action": wave(6, 2, 0), "proprio": wave(6, 4, 0), "state": wave(6, 7, 0)}
        | {"ep_len": np.array([4, 2]), "episode_idx": np.array([0, 0, 0, 0, 1, 1]), "step_idx": np.arange(6)},
        {"action": (2,), "observation.state": (7,), "observation.images.pixels": (16, 24, 3)},
        [4, 2],
    ),
}


@pytest.mark.parametrize("name", FIELD_FILES)
def test_drafts_of_files_of_the_field(name: str, tmp_path: Path):
    arrays, columns, lengths = FIELD_FILES[name]
    with h5py.File(tmp_path / "own.h5", "w") as file:
        for path, values in arrays.items():
            file[path] = values
    message = refused("own.h5: expected a layout of", open_dataset, tmp_path / "own.h5")
    (tmp_path / "draft.json").write_text(message.partition("Write ")[2].partition(" into a file")[0])
    drafted = open_dataset(tmp_path / "draft.json")
    assert {key: drafted.features[key].shape for key in columns} == columns
    assert [episode.length for episode in drafted.episodes] == lengths
    assert drafted.fps == (5 if name == "roboset" else 30)
    np.testing.assert_array_equal(drafted.actions(0), next(arrays[path][: lengths[0]] for path in _sent(arrays)))


def _sent(arrays: dict[str, np.ndarray]) -> list[str]:
    return [path for path in arrays if "action" in path or path.endswith(("ctrl_arm", "trajectory"))]


def test_pictures_that_are_packed_or_shares(tmp_path: Path):
    """JPEG among robomimic's observations is a camera; floats from 0 to 1 are shares of 255."""
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["obs/padded"] = wave(5, 7, 0), padded(film(5, 0))
        own = demo.create_dataset("obs/own", (5,), dtype=h5py.vlen_dtype(np.uint8))
        for row, frame in enumerate(film(5, 0)):
            own[row] = np.frombuffer(jpeg(frame), np.uint8)
    dataset = open_dataset(tmp_path / "demo.hdf5", fps=10)
    for camera in ("own", "padded"):
        assert np.abs(dataset.frames(0, [camera])[:, 0].astype(int) - film(5, 0)).max() <= 4
    np.savez(tmp_path / "a.npz", action=wave(5, 2, 0), image=film(5, 0) / np.float32(255))
    np.testing.assert_array_equal(open_dataset(tmp_path / "a.npz", fps=10).frames(0)[:, 0], film(5, 0))


@pytest.mark.parametrize("bright", [1, 255])
def test_pure_colours_and_dark_frames_are_as_bright_as_others(bright: int, tmp_path: Path):
    """A white frame of shares is white; a frame of noise in pictures up to 255 stays dark."""
    films = np.zeros((2, 70, 16, 16, 3), np.float32)
    films[:, ::2, :, :8, 0] = bright  # pure red
    films[1, 1::2, 0] = 1 if bright == 255 else 0.5
    for name, own in zip("ab", films, strict=True):
        np.savez(tmp_path / f"{name}.npz", action=wave(70, 2, 0), image=own)
    dataset = open_dataset(tmp_path, fps=10)
    for index, own in enumerate(films):
        np.testing.assert_array_equal(dataset.frames(index)[:, 0], np.rint(own * (255 // bright)).astype(np.uint8))


def test_files_of_splits_and_plain_observations(tmp_path: Path):
    """OGBench's play-val.npz judges; `observation` is the state where there is no other."""
    for name, seed in (("play", 0), ("play-val", 1)):
        np.savez(
            tmp_path / f"{name}.npz", observations=wave(5, 3, seed), actions=wave(5, 2, seed), terminals=np.zeros(5)
        )
    dataset = open_dataset(tmp_path, fps=10)
    assert (dataset.tasks, len(dataset.held_out)) == (("play",), 1)
    np.testing.assert_array_equal(dataset.actions(dataset.held_out[0]), wave(5, 2, 1))
    np.savez(tmp_path / "one.npz", observation=wave(5, 3, 0), action=wave(5, 2, 0), physics=wave(5, 4, 0))
    assert open_dataset(tmp_path / "one.npz", fps=10).features["observation.state"].shape == (3,)


def test_actions_of_several_robots_and_missions(tmp_path: Path):
    """ManiSkill's dict of actions; Minari's text of a mission, which has a row more than there are actions."""
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for robot in ("panda-0", "panda-1"):
            file[f"traj_0/actions/{robot}"] = wave(5, 8, 0)
    assert {"action.panda-0", "action.panda-1"} <= open_dataset(tmp_path / "two.h5", fps=10).features.keys()
    with h5py.File(tmp_path / "babyai.hdf5", "w") as file:
        run = file.create_group("episode_0")
        run["actions"], run["observations/mission"] = np.arange(5) % 3, np.array([b"go to the ball"] * 6)
        run["terminations"], run["truncations"] = np.zeros(5, bool), np.zeros(5, bool)
    assert open_dataset(tmp_path / "babyai.hdf5", fps=10).tasks == ("go to the ball",)


def test_a_layout_that_is_described(tmp_path: Path):
    action, state, frames = wave(5, 3, 0), wave(5, 4, 1), film(5, 2)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        run = file.create_group("runs/run_1")
        run.attrs["task"] = "wipe"
        run["cmd/joints"], run["arm/q"], run["cam/front/rgb"] = action, state, frames.transpose(0, 3, 1, 2)
        run["prompt"] = "wipe it"
    message = refused(
        r"own.h5: expected a layout of .*runs/run_\*/cmd/joints float32 \[5", open_dataset, tmp_path / "own.h5", fps=10
    )
    (tmp_path / "draft.json").write_text(message.partition("Write ")[2].partition(" into a file")[0])
    drafted = open_dataset(tmp_path / "draft.json")
    np.testing.assert_array_equal(drafted.columns(0, ["action"])["action"], action)
    np.testing.assert_array_equal(drafted.frames(0)[:, 0], frames)
    assert drafted.tasks == ("wipe it",)
    columns = {"cmd/joints": "action", "arm/q": "observation.state", "cam/*/rgb": "observation.images.*"}
    layout = {"episodes": "runs/run_*", "columns": columns, "instruction": "@task"}
    described = {"dataset": "own.h5", "fps": 10, "layout": layout}
    (tmp_path / "own.json").write_text(json.dumps(described))
    dataset = open_dataset(tmp_path / "own.json")
    assert (dataset.tasks, dataset.cameras) == (("wipe",), ("observation.images.front",))
    np.testing.assert_array_equal(dataset.columns(0, ["action"])["action"], action)
    np.testing.assert_array_equal(dataset.columns(0, ["observation.state"])["observation.state"], state)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], frames)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("robomimc", "`layout`: expected .*robomimic"),
        ([], "`layout`: expected a name, or an object"),
        ({"episodes": "run_*"}, "got no columns"),
        ({"columns": {"a": 1}}, "`layout.columns`"),
        ({"columns": {"a": "*"}}, "`layout.columns`"),
        ({"columns": {"a": "action"}, "episodes": "x_*_*"}, "`layout.episodes`"),
        ({"columns": {"a": "action"}, "episode": "x"}, "`layout`.*episode"),
        ({"columns": {"a": "action", "b": "action"}}, "one array a column, got several as action"),
        ({"columns": {"a": "observation.images./x"}}, "`layout.columns`.*that a file can have"),
        ({"columns": {"a": "action"}, "instruction": "json:../../secret:x"}, "`layout.instruction`"),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, layout: Any, said: str):
    isaac_lab(tmp_path)
    refused(said, open_dataset, tmp_path, fps=10, layout=layout)


def test_a_store_of_another_kind_of_codec_is_refused(tmp_path: Path):
    diffusion_policy(tmp_path)
    about = tmp_path / "pusht.zarr" / "data" / "action" / ".zarray"
    stored = json.loads(about.read_text())
    about.write_text(json.dumps(stored | {"filters": [{"id": "made-up"}]}))
    refused("expected codecs that only unpack numbers, got 'made-up'", open_dataset, tmp_path / "pusht.zarr", fps=10)


def test_chunks_are_not_read_from_elsewhere(tmp_path: Path):
    diffusion_policy(tmp_path)
    chunk = tmp_path / "pusht.zarr" / "data" / "action" / "0.0"
    (tmp_path / "elsewhere").write_bytes(chunk.read_bytes())
    chunk.unlink()
    chunk.symlink_to(tmp_path / "elsewhere")
    refused("expected a path below", open_dataset, tmp_path / "pusht.zarr", fps=10)


def test_a_damaged_store_is_one_line(tmp_path: Path):
    diffusion_policy(tmp_path)
    chunk = tmp_path / "pusht.zarr" / "data" / "img" / "1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:9])
    dataset = open_dataset(tmp_path / "pusht.zarr", fps=10)
    refused("cannot read .*pusht.zarr", dataset.frames, 0)
    (tmp_path / "pusht.zarr" / "meta" / "episode_ends" / ".zarray").write_text("{")
    refused("not valid JSON", open_dataset, tmp_path / "pusht.zarr", fps=10)


def test_ends_beyond_the_rows(tmp_path: Path):
    diffusion_policy(tmp_path)
    zarr = pytest.importorskip("zarr")
    top = zarr.open_group(str(tmp_path / "pusht.zarr"), mode="a")
    top["meta/episode_ends"][:] = [5, 13]
    refused("ends of episodes in meta/episode_ends from 1 to 12, got 5", open_dataset, tmp_path / "pusht.zarr", fps=10)


def test_pickles_in_npz_files_are_not_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", action=np.zeros((3, 2)), note=np.array([{}, {}, {}], dtype=object))
    dataset = open_dataset(tmp_path / "a.npz", fps=5)
    assert dataset.left_out["note"] == "it holds no numbers"
    np.savez(tmp_path / "b.npz", action=np.array([{}, {}, {}], dtype=object))
    refused("expected numbers as `action`, got object", open_dataset, tmp_path / "b.npz", fps=5)


def test_layouts_have_names_of_their_own():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def egodex(path: Path, rows: int, *, second: bool = False, sure: bool = True) -> None:
    """As the dataset's page and converters for it say: poses as matrices, the film of the same name."""
    with h5py.File(path, "w") as file:
        for joint in ("camera", "leftHand", "rightHand"):
            file[f"transforms/{joint}"] = np.tile(np.eye(4, dtype=np.float32), (rows, 1, 1)) + wave(rows, 4, 0)[:, None]
            if sure:
                file[f"confidences/{joint}"] = np.ones(rows, np.float32)
        file["camera/intrinsic"] = np.eye(3)
        file.attrs.update({"llm_description": "open the jar", "llm_type": "reversible" if second else "other"})
        if second:
            file.attrs.update({"llm_description2": "close the jar", "which_llm_description": "2"})


def test_egodex_is_read_with_its_films(tmp_path: Path):
    folder = tmp_path / "part1/open_jar"
    folder.mkdir(parents=True)
    for i in range(3):
        egodex(folder / f"{i}.hdf5", 8 + i, second=i == 1, sure=i != 2)
        write_video(folder / f"{i}.mp4", 8 + i, 30)
    dataset = open_dataset(tmp_path / "part1")  # and no folder of videos
    assert (dataset.kind, dataset.fps, dataset.cameras) == ("hdf5", 30, ("observation.images.video",))
    assert [each.tasks for each in dataset.episodes] == [("open the jar",), ("close the jar",), ("open the jar",)]
    poses = dataset.columns(1, ["observation.transforms.leftHand"])["observation.transforms.leftHand"]
    np.testing.assert_array_equal(poses[3, 0], wave(9, 4, 0)[3] + np.eye(4, dtype=np.float32)[0])
    assert folder / "1.mp4" in dataset.files_of(1)
    np.testing.assert_array_equal(open_dataset(folder / "1.hdf5").frames(0), dataset.frames(1))


@pytest.mark.parametrize(
    ("more", "shown"), [((0, 0, 0), True), ((1, 1, 1), True), ((0, 4, 0), True), ((4, 4, 4), False)]
)
def test_films_of_the_names_of_files_show_a_frame_for_each_row(
    more: tuple[int, ...], shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for i, frames in enumerate(more):
        np.savez(tmp_path / f"{i}.npz", action=wave(8, 3, i))
        write_video(tmp_path / f"{i}.mp4", 8 + frames, 25)
    np.savez(tmp_path / "3.npz", action=wave(8, 3, 3))
    dataset = open_dataset(tmp_path, format="npz", fps=None if shown else 25)
    assert dataset.fps == 25
    if not shown:
        assert [each.kind for each in dataset.findings] == ["films-beside"]
        assert not dataset.cameras
        return
    assert [damage.episode_index for damage in dataset.damaged] == [3]
    assert dataset.findings == ()
    write_video(tmp_path / "4.mp4", 8, 25)
    beside = open_dataset(tmp_path, format="npz").findings
    assert [(each.kind, each.what[:6]) for each in beside] == [("films-alone", "1 film")]
    alone = open_dataset(tmp_path, format="video", fps=25)
    assert "npz" in alone.findings[-1].advice
    assert ("action" in alone.features) == (0 in more)  # a row for each frame
    said = capsys.readouterr().err
    assert all((f"{i}.npz" in said) == (0 in more and frames != 0) for i, frames in enumerate(more))
    for i in range(4) if 0 in more else ():  # the last is 4.mp4
        known = i < 3 and more[i] == 0
        expected = wave(8, 3, i) if known else np.full_like(alone.actions(i), np.nan)
        np.testing.assert_array_equal(alone.actions(i), expected)
    for i, frames in enumerate(more):
        if frames > 1:
            refused("expected a frame for each of 8 rows, got 12 frames", dataset.frames, i)
        else:
            np.testing.assert_array_equal(dataset.frames(i)[[1, 6]], alone.frames(i)[[1, 6]])
    slow = inspect_dataset(open_dataset(tmp_path, format="npz", fps=5)).findings
    assert "other-times" in [each.kind for each in slow]


@pytest.mark.parametrize(("times", "fps"), [(1, None), (3, 10), (4, 10)], ids=["a frame a row", "by time", "too long"])
def test_films_beside_a_store_by_the_numbers_of_its_episodes(times: int, fps: float | None, tmp_path: Path):
    """As Diffusion Policy records them on a robot: at 30 Hz, and actions at 10 Hz."""
    diffusion_policy(tmp_path, pixels="uint8")
    shutil.rmtree(tmp_path / "pusht.zarr/data/img")
    for i, length in enumerate(LENGTHS):
        for camera in (0, 1):
            rows = 30 * length if times == 4 else times * length
            write_video(tmp_path / f"videos/{i}/{camera}.mp4", length=rows, fps=10 if times == 1 else 30)
    dataset = open_dataset(tmp_path, format="zarr", fps=fps)
    kinds = {each.kind for each in dataset.findings} | {each.kind for each in dataset.file_findings()}
    assert (dataset.fps, kinds) == (10, {"films-beside"} if times == 4 else set())
    if times == 4:
        return
    assert dataset.cameras == ("observation.images.0", "observation.images.1")
    _, film = decoded(tmp_path / "videos/1/0.mp4")
    np.testing.assert_array_equal(dataset.frames(1, ["0"])[:, 0], film[::times])
    np.testing.assert_array_equal(dataset.frames(1, ["0"], indices=[6, 2])[:, 0], film[[6 * times, 2 * times]])


def test_films_that_are_in_the_file(tmp_path: Path):
    """As RoboNet's; one that is cut off is damage of its episode alone, and named by its place."""
    write_video(tmp_path / "film.mp4", length=7)
    _, film = decoded(tmp_path / "film.mp4")
    data = np.frombuffer((tmp_path / "film.mp4").read_bytes(), np.uint8)
    with h5py.File(tmp_path / "traj.hdf5", "w") as file:
        for i in range(2):
            file[f"traj_{i}/policy/actions"], file[f"traj_{i}/env/state"] = wave(6, 4, i), wave(7, 5, i)
            file[f"traj_{i}/env/cam0_video/frames"] = data if i == 0 else data[:-400]
    message = refused("expected a layout of", open_dataset, tmp_path / "traj.hdf5")
    (tmp_path / "draft.json").write_text(message.partition("Write ")[2].partition(" into a file")[0])
    dataset = open_dataset(tmp_path / "draft.json")
    assert dataset.features["observation.images.cam0"].shape == (32, 32, 3)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], film[:6])
    np.testing.assert_array_equal(dataset.frames(0, indices=[5, 2])[:, 0], film[[5, 2]])
    refused(r"traj.hdf5, `env/cam0_video/frames` \(episode 1\)", dataset.frames, 1)
