"""GR00T's meta/modality.json: names, parts, cameras and instructions in the verbs, compared with GR00T's own rules."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.cli import main
from lattok.data import export, inspect_dataset, open_dataset
from lattok.data.content import content_of
from lattok.data.instructions import frame_instructions
from lattok.data.schema import camera_keys
from tests.conftest import CAMERAS
from tests.data.edits import edit_info
from tests.data.formats.test_lerobot_v2 import write_v21
from tests.errors import refused

CAMERA = "observation.images.corner"
SAID, VALID = "annotation.human.coarse_action", "annotation.human.validity"
MODALITY = {
    "state": {"arm": {"start": 0, "end": 1, "dtype": "float32", "range": None}, "hand": {"start": 1, "end": 2}},
    "action": {
        "arm": {"start": 0, "end": 2, "original_key": "action", "absolute": False, "rotation_type": None},
        "hand": {"start": 2, "end": 3, "original_key": None},
    },
    "video": {"ego_view": {"original_key": CAMERAS[0]}},
    "annotation": {"human.validity": {"original_key": VALID}, "human.coarse_action": {}},
}
TASKS = ["reach", "valid", "lift it", "put it down"]
SMALL = ("--horizon", "3")


@pytest.fixture
def groot(make_dataset, tmp_path: Path) -> Path:
    """A dataset as GR00T reads it: `task_index` is always 0, an annotation changes within each episode."""
    root = write_v21(tmp_path / "groot", make_dataset([12, 9, 15]))
    (root / "meta/modality.json").write_text(json.dumps(MODALITY))
    listed = [{"task_index": number, "task": task} for number, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in listed))
    episodes = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines = [json.dumps(episode | {"tasks": TASKS[:2]}) + "\n" for episode in episodes]
    (root / "meta/episodes.jsonl").write_text("".join(lines))
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in (SAID, VALID)}
    features["action"]["names"] = {"motors": ["motor_0", "motor_1", "motor_2"]}
    edit_info(root, features=features, total_tasks=len(TASKS))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        numbers = {"task_index": np.zeros(len(table), int), SAID: 2 + (np.arange(len(table)) > 4)}
        numbers[VALID] = np.ones(len(table), int)
        table = table.drop_columns("task_index")
        for key, values in numbers.items():
            table = table.append_column(key, pa.array(values))
        pq.write_table(table, path)
    return root


def as_groot_reads(root: Path, episode: int, kind: str) -> dict[str, np.ndarray]:
    """LeRobotEpisodeLoader._extract_joint_groups of Isaac-GR00T, written again."""
    rows = pq.read_table(root / f"data/chunk-000/episode_{episode:06d}.parquet")
    default = {"state": "observation.state", "action": "action"}[kind]
    groups = json.loads((root / "meta/modality.json").read_text())[kind]
    whole = {name: np.stack(rows[each.get("original_key") or default].to_pylist()) for name, each in groups.items()}
    return {f"{kind}.{name}": whole[name][:, each["start"] : each["end"]] for name, each in groups.items()}


def test_parts_are_columns_and_name_dimensions(groot):
    dataset = open_dataset(groot)
    assert dataset.features["action"].names == ("arm_0", "arm_1", "hand")
    assert dataset.features["observation.state"].names == ("arm", "hand")
    for episode in dataset.episodes:
        for kind in ("state", "action"):
            for key, expected in as_groot_reads(groot, episode.index, kind).items():
                values = dataset.columns(episode.index, [key])[key]
                np.testing.assert_array_equal(values.reshape(len(values), -1), expected)
                assert dataset.features[key].shape == expected.shape[1:]
    assert camera_keys(dataset, ["ego_view"]) == camera_keys(dataset, ["video.ego_view"]) == (CAMERAS[0],)
    assert open_dataset(groot, cameras={"front": "ego_view"}).frames(0, ["ego_view"]).shape[0] == 12
    joined = open_dataset(groot, columns={"action": ["action.hand", "action.arm"]})
    whole = dataset.columns(1, ["action"])["action"]
    np.testing.assert_array_equal(joined.columns(1, ["action"])["action"], whole[:, [2, 0, 1]])


def test_names_that_say_more_stay(groot):
    features = json.loads((groot / "meta/info.json").read_text())["features"]
    features["action"]["names"] = ["x", "y", "gripper"]
    edit_info(groot, features=features)
    dataset = open_dataset(groot)
    assert dataset.features["action"].names == ("x", "y", "gripper")
    assert dataset.features["action.arm"].names == ("x", "y")


def test_annotations_are_instructions(groot):
    dataset = open_dataset(groot)
    texts, numbers = frame_instructions(dataset, dataset.episodes)
    said = [texts[number] for number in numbers]
    assert said[:12] == ["lift it"] * 5 + ["put it down"] * 7
    assert len(said) == 36
    assert dataset.episodes[0].tasks == ("reach",)
    other = open_dataset(groot, instruction="task_index")
    assert frame_instructions(other, other.episodes)[0] == ("reach",)
    refused(r"`instruction`: expected a column such as .*coarse_action", open_dataset, groot, instruction="action")


def test_it_goes_through_the_verbs(groot, tmp_path, capsys):
    assert main(["inspect", str(groot)]) == 0
    assert "action.arm (action 0:2)" in capsys.readouterr().out
    bins, labelled, out = (tmp_path / name for name in ("bins", "labelled", "exported"))
    assert main(["train", "uniform-bins", str(groot), "--out", str(bins), "--action-key", "action.arm", *SMALL]) == 0
    labels = ["--model", str(bins), "--out", str(labelled), "--action-key", "action.arm"]
    assert main(["annotate", str(groot), *labels]) == 0
    assert main(["verify", str(labelled), "--model", str(bins)]) == 0
    assert json.loads((labelled / "meta/modality.json").read_text()) == MODALITY
    copy = open_dataset(labelled)
    assert copy.parts == open_dataset(groot).parts
    for episode in copy.episodes:
        for kind in ("state", "action"):
            own, source = (as_groot_reads(root, episode.index, kind) for root in (labelled, groot))
            assert all(np.array_equal(own[key], source[key]) for key in source)
    export(copy, out, video_codec="h264")
    new, keys = open_dataset(out), ["action.arm", "state.hand", SAID, "latent.codes"]
    assert set(json.loads((out / "meta/info.json").read_text())["features"]).isdisjoint(new.parts)
    assert (new.parts, new.camera_names, new.tasks[:4]) == (copy.parts, copy.camera_names, tuple(TASKS))
    for episode in new.episodes:
        one, other = (each.columns(episode.index, keys) for each in (copy, new))
        assert all(np.array_equal(one[key], other[key]) for key in keys)
    assert frame_instructions(new, new.episodes)[0] == frame_instructions(copy, copy.episodes)[0]


def test_a_run_goes_on_from_the_same_instructions_only(groot):
    dataset = open_dataset(groot)
    contents = [content_of(each, each.episodes, ["action.arm"]) for each in (dataset, open_dataset(groot))]
    assert contents[0].digest == contents[1].digest
    other = open_dataset(groot, instruction="task_index")
    assert content_of(other, other.episodes, ["action.arm"]).digest != contents[0].digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action": {"arm": {"start": 0, "end": 2**40}}}, "names what the dataset has not: action.arm"),
        ({"action": {"arm": {"start": 2, "end": 1}}}, "action.arm"),
        ({"action": {"../../arm": {"start": 0, "end": 1}}}, "action.../../arm"),
        ({"state": {"arm": {"start": 0, "end": 1, "original_key": "qpos"}}}, "state.arm"),
        ({"video": {"ego": {"original_key": "observation.images.gone"}}}, "video.ego"),
        ({"action": [1, 2]}, "`action` in"),
        ({"action": {"arm": {"start": "0", "end": 1}}}, "action.arm.start"),
        ({"video": {str(i): {} for i in range(2000)}}, "at most 1,000 entries"),
    ],
)
def test_what_does_not_fit_is_one_finding(groot, change, says):
    (groot / "meta/modality.json").write_text(json.dumps(change))
    (finding,) = open_dataset(groot).findings
    assert says in str(finding)
    assert finding in inspect_dataset(groot).findings


def test_no_file_of_another_place_is_read(groot, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    (groot / "meta/modality.json").unlink()
    (groot / "meta/modality.json").symlink_to(tmp_path / "other.json")
    refused(r"modality\.json", open_dataset, groot)
