"""Recordings of DROID's kind, written as its documentation and its own reader say: values, films by number, words."""

import json
from pathlib import Path

import numpy as np
import pytest

from lattok.cli import main
from lattok.data import inspect_dataset, open_dataset, with_columns
from lattok.data.schema import parts_of
from tests.conftest import put_video
from tests.data.formats.test_lerobot_v2 import decoded
from tests.errors import refused

h5py = pytest.importorskip("h5py")
SERIALS = {"wrist": "18026681", "ext1": "24259877", "ext2": "20521388"}
EPISODES = {
    "success/2023-12-04/Mon_Dec__4_12:15:02_2023": 14,
    "success/2023-12-04/Mon_Dec__4_12:35:16_2023": 11,
    "failure/2023-12-05/Tue_Dec__5_09:01:33_2023": 9,
}
ARRAYS = {
    "action/joint_velocity": (7,),
    "action/cartesian_velocity": (6,),
    "action/gripper_position": (),
    "observation/robot_state/joint_positions": (7,),
    "observation/robot_state/gripper_position": (),
}


def uuid_of(episode: str) -> str:
    _, day, began = episode.split("/")
    return f"IRIS+ef107c48+{day}-{began.split('_')[-2].replace(':', '-')}"


def write(root: Path) -> Path:
    """Three episodes of a laboratory; films say 60 frames a second and have none for the last row."""
    for seed, (episode, length) in enumerate(EPISODES.items()):
        rng, folder = np.random.default_rng(seed), root / "IRIS" / episode
        (folder / "recordings" / "MP4").mkdir(parents=True)
        with h5py.File(folder / "trajectory.h5", "w") as file:
            file.attrs["current_task"] = f"Do task {seed}"
            file.attrs["success"] = not episode.startswith("failure")
            for name, shape in ARRAYS.items():
                file[name] = rng.standard_normal((length, *shape))
            file["observation/timestamp/control/step_start"] = np.arange(length, dtype=np.int64)
            file["observation/controller_info/movement_enabled"] = np.ones(length, bool)
            for camera, serial in SERIALS.items():
                file[f"observation/camera_type/{serial}"] = np.full(length, 0 if camera == "wrist" else 1)
                frames = np.kron(rng.integers(0, 256, (length - 1, 4, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
                put_video(folder / "recordings" / "MP4" / f"{serial}.mp4", frames, 60)
        told = {"uuid": uuid_of(episode)} | {f"{camera}_cam_serial": serial for camera, serial in SERIALS.items()}
        (folder / f"metadata_{uuid_of(episode)}.json").write_text(json.dumps(told))
    texts = {"language_instruction1": " ", "language_instruction2": "Put the cup away", "language_instruction3": "Tidy"}
    (root / "aggregated-annotations-030724.json").write_text(json.dumps({uuid_of(next(iter(EPISODES))): texts}))
    return root


def test_values_films_and_words(tmp_path: Path):
    dataset = open_dataset(write(tmp_path / "droid_raw"))
    assert (dataset.kind, dataset.fps) == ("droid", 15)
    order = sorted(EPISODES)  # as folders are listed
    assert [episode.length for episode in dataset.episodes] == [EPISODES[name] - 1 for name in order]
    assert [episode.tasks[0] for episode in dataset.episodes] == ["Do task 2", "Put the cup away", "Do task 1"]
    assert dataset.cameras == tuple(f"observation.images.{camera}" for camera in sorted(SERIALS))
    for index, name in enumerate(order):
        folder = dataset.root / "IRIS" / name
        with h5py.File(folder / "trajectory.h5") as file:
            for path in ARRAYS:
                column = path.replace("observation/robot_state", "observation.state").replace("/", ".")
                values = dataset.columns(index, [column])[column]
                np.testing.assert_array_equal(values, file[path][:-1])
        for camera, serial in SERIALS.items():
            film = decoded(folder / "recordings" / "MP4" / f"{serial}.mp4")
            np.testing.assert_array_equal(dataset.frames(index, [camera])[:, 0], film)
            np.testing.assert_array_equal(dataset.frames(index, [camera], [7, 2])[:, 0], film[[7, 2]])
    joined = with_columns(dataset, parts_of(dataset))
    assert joined.features["action"].shape == (14,)
    found = inspect_dataset(dataset).findings
    assert [each.episodes for each in found if each.kind == "failed-episodes"] == [(0,)]
    assert not [each for each in found if each.severity == "error" or "rate" in each.kind]


@pytest.mark.parametrize("below", ["", "IRIS", "IRIS/success", "IRIS/success/2023-12-04"])
def test_any_folder_above_its_recordings_is_a_dataset(tmp_path: Path, below: str):
    dataset = open_dataset(write(tmp_path / "droid_raw") / below)
    assert (dataset.kind, len(dataset.episodes)) == ("droid", 2 if "success" in below else 3)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "recordings/MP4/24259877.mp4").unlink(), "expected a film of ext1, as others have"),
        (lambda folder: next(folder.glob("metadata*")).write_text('{"uuid": '), "metadata_IRIS"),
        (lambda folder: (folder / "trajectory.h5").write_bytes(b"no HDF5"), "trajectory.h5"),
    ],
    ids=["no film", "no JSON", "no HDF5"],
)
def test_a_damaged_episode_leaves_the_others(tmp_path: Path, harm, says: str):
    root = write(tmp_path / "droid_raw")
    harm(root / "IRIS" / sorted(EPISODES)[1])
    dataset = open_dataset(root)
    assert [episode.index for episode in dataset.episodes] == [0, 2]
    ((index, reason),) = dataset.damaged
    assert (index, says in reason) == (1, True), reason


def test_without_metadata_cameras_are_known_by_their_types(tmp_path: Path):
    root = write(tmp_path / "droid_raw")
    before = open_dataset(root)
    for path in root.glob("IRIS/*/*/*/metadata*"):
        path.unlink()
    dataset = open_dataset(root)
    np.testing.assert_array_equal(dataset.frames(1, ["wrist"]), before.frames(1, ["wrist"]))
    np.testing.assert_array_equal(dataset.frames(1, ["ext1"]), before.frames(1, ["ext2"]))  # in the order of numbers
    for path in root.glob("IRIS/*/*/*/trajectory.h5"):
        with h5py.File(path, "a") as file:
            del file["observation/camera_type"]
    dataset = open_dataset(root)
    assert not dataset.cameras
    assert "which film is of which camera" in dataset.left_out["recordings/MP4"]


def test_recordings_that_are_no_films_yet_are_named(tmp_path: Path):
    root = write(tmp_path / "droid_raw")
    for folder in root.glob("IRIS/*/*/*/recordings/MP4"):
        folder.rename(folder.with_name("SVO"))
    dataset = open_dataset(root)
    assert not dataset.cameras
    assert "recordings/SVO" in dataset.left_out


def test_a_film_with_other_frames_is_refused_where_it_is_read(tmp_path: Path):
    root = write(tmp_path / "droid_raw")
    film = root / "IRIS" / sorted(EPISODES)[2] / "recordings/MP4/20521388.mp4"
    film.unlink()
    put_video(film, np.zeros((20, 32, 48, 3), np.uint8), 60)
    dataset = open_dataset(root)
    refused(r"20521388.mp4: expected a frame for each of 10 rows, got 20 frames", dataset.frames, 2, ["ext2"])


def test_an_export_has_the_same_frames(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset(write(Path("droid_raw")))
    assert main(["export", "droid_raw", "--out", "out", "--images", "image"]) == 0
    out = open_dataset("out")
    for index in range(3):
        np.testing.assert_array_equal(out.frames(index, ["ext1"]), dataset.frames(index, ["ext1"]))
