"""Opening datasets: what is read, several files and chunks, and one clear line for everything that is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.checks import LattokError
from lattok.data import Feature, camera_keys, open_dataset, sample_dataset_path


def edit_info(root: Path, **changes) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_facts_of_the_sample(sample):
    assert sample.fps == 80
    assert len(sample.episodes) == 50
    assert sum(e.length for e in sample.episodes) == 4059
    assert sample.features["action"] == Feature("float32", (4,), ("x", "y", "z", "gripper"))
    assert sample.cameras == ("observation.images.corner2", "observation.images.gripperPOV")
    assert len(sample.tasks) == 10
    assert sample.episodes[0].tasks == ("reach the red target",)
    assert sample.name == "metaworld_sample"


def test_columns_equal_an_independent_read(sample):
    table = pq.read_table(sample_dataset_path() / "data", partitioning=None).to_pydict()
    rows = np.flatnonzero(np.array(table["episode_index"]) == 7)
    got = sample.columns(7, ["action", "next.success", "task_index", "observation.environment_state"])
    assert got["action"].dtype == np.float32
    assert got["next.success"].dtype == bool
    for key, values in got.items():
        np.testing.assert_array_equal(values, np.array([table[key][r] for r in rows], dtype=values.dtype))


def test_columns_from_one_row_group_of_many_episodes(make_dataset):
    dataset = make_dataset([4, 6, 5], cameras=False)
    expected = [dataset.columns(i, ["action", "reward"]) for i in range(3)]
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path), path)  # as converted datasets are: one row group, lists of any length
    merged = open_dataset(dataset.root)
    for i in range(3):
        got = merged.columns(i, ["action", "reward"])
        for key in got:
            np.testing.assert_array_equal(got[key], expected[i][key])


def test_lists_without_a_fixed_size_are_read(make_dataset):
    dataset = make_dataset([4, 6], cameras=False)
    path = dataset.data_file(0)
    table = pq.read_table(path)
    where = table.column_names.index("action")
    pq.write_table(table.set_column(where, "action", table["action"].cast(pa.list_(pa.float32()))), path)
    expected = dataset.columns(1, ["action"])["action"]
    np.testing.assert_array_equal(open_dataset(dataset.root).columns(1, ["action"])["action"], expected)


def test_camera_names(sample):
    assert camera_keys(sample) == sample.cameras
    assert camera_keys(sample, ["gripperPOV", "observation.images.corner2"]) == sample.cameras[::-1]
    with pytest.raises(LattokError, match=r"`cameras`: expected names among corner2, gripperPOV, got 'wrist'\."):
        camera_keys(sample, ["wrist"])
    with pytest.raises(LattokError, match="different names"):
        camera_keys(sample, ["corner2", "corner2"])
    with pytest.raises(LattokError, match="a sequence of names"):
        camera_keys(sample, "corner2")


def test_instructions_may_be_called_task(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.root / "meta" / "tasks.parquet"
    table = pq.read_table(path).rename_columns(["task_index", "task"])
    pq.write_table(table, path)
    assert open_dataset(dataset.root).tasks == ("lift", "push")


@pytest.mark.parametrize(
    ("version", "says"),
    [("v2.1", "convert_dataset_v21_to_v30 --repo-id="), ("v4.0", "A newer lattok may read it")],
)
def test_other_format_versions(make_dataset, version, says):
    root = make_dataset([4], cameras=False).root
    edit_info(root, codebase_version=version)
    with pytest.raises(LattokError, match=rf"expected LeRobot format v3, got {version}.*{says}"):
        open_dataset(root)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(LattokError, match=r"is no LeRobot dataset: it has no meta/info\.json"):
        open_dataset(tmp_path)


def test_neither_a_folder_nor_a_hub_id(tmp_path):
    with pytest.raises(LattokError, match=r"`dataset`: expected a folder with meta/info\.json, or a Hub id"):
        open_dataset(tmp_path / "a" / "b" / "nothing")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(LattokError, match="`dataset`: expected a folder"):
        open_dataset(file)


def test_hub_ids_are_downloaded(monkeypatch):
    asked = []

    def download(hub_id: str, repo_type: str, revision: str | None) -> str:
        asked.append((hub_id, repo_type, revision))
        return str(sample_dataset_path())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    dataset = open_dataset("org/name", revision="v3.0")
    assert asked == [("org/name", "dataset", "v3.0")]
    assert dataset.name == "org/name"


def test_hub_failure_is_one_line(monkeypatch):
    def download(*args, **kwargs):
        raise RuntimeError("404 Client Error.\nlong story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(LattokError, match=r"dataset `org/name`: no such folder here.*404 Client Error") as error:
        open_dataset("org/name")
    assert "\n" not in str(error.value)


def test_revision_of_a_folder_is_refused():
    with pytest.raises(LattokError, match="`revision`: expected none for a local folder"):
        open_dataset(sample_dataset_path(), revision="main")


def test_broken_info(make_dataset):
    root = make_dataset([4], cameras=False).root
    edit_info(root, fps=None)
    with pytest.raises(LattokError, match=r"info\.json: missing fps"):
        open_dataset(root)
    (root / "meta" / "info.json").write_text("{")
    with pytest.raises(LattokError, match=r"info\.json is not valid JSON"):
        open_dataset(root)


def test_missing_and_truncated_parquet(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.data_file(0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LattokError, match=r"file-000\.parquet is no complete Parquet file: truncated or damaged"):
        open_dataset(dataset.root).columns(0, ["action"])
    path.unlink()
    with pytest.raises(LattokError, match=r"missing data file .*file-000\.parquet"):
        open_dataset(dataset.root).columns(0, ["action"])
    shutil.rmtree(dataset.root / "meta" / "episodes")
    with pytest.raises(LattokError, match="episodes holds no parquet file"):
        open_dataset(dataset.root)


def test_damaged_column_chunk(make_dataset):
    dataset = make_dataset([40], cameras=False)
    path = dataset.data_file(0)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396  # pages of the first columns; the footer stays whole
    path.write_bytes(content)
    with pytest.raises(LattokError, match=r"file-000\.parquet"):
        open_dataset(dataset.root).columns(0, ["action", "observation.state", "reward"])


def test_rows_that_do_not_fit_the_episode_table(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path).slice(0, 7), path)
    with pytest.raises(LattokError, match="expected 5 rows of episode 1, got 3"):
        open_dataset(dataset.root).columns(1, ["action"])


def test_unknown_column_and_episode(sample):
    with pytest.raises(LattokError, match=r"`keys`: expected columns among .*, got 'actoin'"):
        sample.columns(0, ["actoin"])
    with pytest.raises(LattokError, match=r"`episode_index`: expected an episode of .* \(0 to 49\), got 50"):
        sample.columns(50, ["action"])


def test_missing_columns_of_the_episode_table(make_dataset):
    root = make_dataset([4], cameras=False).root
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["length"]), path)
    with pytest.raises(LattokError, match="missing column length"):
        open_dataset(root)
