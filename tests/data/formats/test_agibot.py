"""AgiBot World's folders, written as its documentation describes them: values, names, videos and steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from lattok.data import inspect_dataset, open_dataset, with_columns
from lattok.data.schema import parts_of
from tests.conftest import put_video
from tests.data.formats.test_lerobot_v2 import decoded
from tests.errors import refused

h5py = pytest.importorskip("h5py")
LENGTHS = {("327", "9"): 12, ("327", "10"): 15, ("352", "7"): 10}
SHAPES = {
    "joint/position": (14,),
    "end/position": (2, 3),
    "end/orientation": (2, 4),
    "effector/position": (2,),
    "head/position": (2,),
}


def write(root: Path) -> Path:
    """Three episodes of two tasks, with action/*/index of other lengths and empty arrays, as the real ones have."""
    for (task, episode), length in LENGTHS.items():
        rng = np.random.default_rng(int(episode))
        folder = root / "proprio_stats" / task / episode
        folder.mkdir(parents=True)
        with h5py.File(folder / "proprio_stats.h5", "w") as file:
            file["timestamp"] = np.arange(length, dtype=np.int64) * 33_333_333 + 1_700_000_000_000_000_000
            for kind in ("action", "state"):
                for name, shape in SHAPES.items():
                    file[f"{kind}/{name}"] = rng.standard_normal((length, *shape))
            file["action/joint/index"] = np.arange(length - 3)
            file["state/joint/effort"] = np.empty((0,))
        films = root / "observations" / task / episode / "videos"
        films.mkdir(parents=True)
        for camera in ("head_color", "hand_left_color"):
            frames = np.kron(rng.integers(0, 256, (length, 4, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
            put_video(films / f"{camera}.mp4", frames, 30)
    (root / "observations/327/9/depth").mkdir()
    (root / "task_info").mkdir()
    steps = [{"start_frame": 0, "end_frame": 5, "action_text": "Reach", "skill": "Pick"}]
    steps += [{"start_frame": 5, "end_frame": 400, "action_text": "Lift", "skill": "Pick"}]
    entries = [{"episode_id": 9, "task_name": "Pour tea", "label_info": {"action_config": steps}}]
    entries += [{"episode_id": 10, "task_name": "Pour tea", "init_scene_text": "", "label_info": {"action_config": []}}]
    (root / "task_info/task_327.json").write_text(json.dumps(entries))
    return root


def test_values_names_videos_and_steps(tmp_path: Path):
    dataset = open_dataset(write(tmp_path / "agibot"))
    assert (dataset.kind, dataset.fps, dataset.tasks) == ("agibot", 30, ("Pour tea", ""))
    assert [episode.length for episode in dataset.episodes] == [*LENGTHS.values()]
    assert dataset.features["action.end.orientation"].names[:5] == (
        "left_qx",
        "left_qy",
        "left_qz",
        "left_qw",
        "right_qx",
    )
    assert set(dataset.left_out) == {"timestamp", "action/joint/index", "state/joint/effort", "depth"}
    for index, (task, episode) in enumerate(LENGTHS):
        with h5py.File(dataset.root / f"proprio_stats/{task}/{episode}/proprio_stats.h5") as file:
            for key, path in {"action": "action", "observation": "state"}.items():
                for name in SHAPES:
                    column = f"{key}.{name.replace('/', '.')}"
                    values = dataset.columns(index, [column])[column]
                    np.testing.assert_array_equal(values, file[f"{path}/{name}"][:].reshape(len(values), -1))
        for camera in ("head_color", "hand_left_color"):
            film = decoded(dataset.root / f"observations/{task}/{episode}/videos/{camera}.mp4")
            np.testing.assert_array_equal(dataset.frames(index, [camera])[:, 0], film)
            np.testing.assert_array_equal(dataset.frames(index, [camera], [7, 2])[:, 0], film[[7, 2]])
    assert dataset.subtasks(0) == ["Reach"] * 5 + ["Lift"] * 7
    assert dataset.subtasks(1) is None
    joined = with_columns(dataset, parts_of(dataset))
    assert joined.features["action"].shape == (32,)
    found = inspect_dataset(dataset).findings
    assert not [finding for finding in found if finding.severity == "error"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda root: (root / "observations/327/10/videos/head_color.mp4").unlink(), "expected a film of head_color"),
        (lambda root: cut(root / "proprio_stats/327/10/proprio_stats.h5"), "proprio_stats.h5"),
        (lambda root: hand(root / "proprio_stats/327/10/proprio_stats.h5"), "unlike most files"),
    ],
    ids=["no video", "cut short", "a hand, not a gripper"],
)
def test_a_damaged_episode_leaves_the_others(tmp_path: Path, harm, says: str):
    root = write(tmp_path / "agibot")
    harm(root)
    dataset = open_dataset(root)
    assert [episode.index for episode in dataset.episodes] == [0, 2]
    ((index, reason),) = dataset.damaged
    assert (index, says in reason) == (1, True), reason


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def hand(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for kind in ("action", "state"):
            del file[f"{kind}/effector/position"]
            file[f"{kind}/effector/position"] = np.zeros((15, 12))


def test_nothing_outside_is_read(tmp_path: Path):
    root = write(tmp_path / "agibot")
    film = root / "observations/327/9/videos/head_color.mp4"
    film.rename(tmp_path / "mine.mp4")
    film.symlink_to(tmp_path / "mine.mp4")
    ((index, reason),) = open_dataset(root).damaged
    assert index == 0
    assert "head_color.mp4: expected a path below" in reason


def test_a_list_of_another_kind_is_refused_in_one_line(tmp_path: Path):
    root = write(tmp_path / "agibot")
    (root / "task_info/task_327.json").write_text('{"episode_id": [1]}')
    refused(r"task_327\.json", open_dataset, root)
