"""Nested language columns, as LeRobot's own annotation writes them, survive labelling and export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lattok.annotation import annotate
from lattok.data import declare, export, open_dataset
from lattok.samples import PolicyWindows, WindowOptions
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import write_dataset
from tests.data.edits import add_feature, edit_info, read_info, set_column
from tests.errors import refused

MODELS = {"tok": FakeTokenizer()}
KEYS = ("language_persistent", "language_events")


def messages(episode: int, frames: int) -> tuple[list[Any], list[Any]]:
    """What one episode says throughout, and frame by frame; nothing in the first, so that its types cannot be told."""
    if not episode:
        return [[]] * frames, [[]] * frames
    said = {"role": "user", "content": f"lift {episode}", "style": "subtask", "timestamp": 0.5, "camera": None}
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": f"now {episode}"}}}
    event = {"role": "assistant", "content": None, "style": None, "camera": None, "tool_calls": [call]}
    return [[{**said, "tool_calls": None}]] * frames, [[], [event], *[[]] * (frames - 2)]


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Each episode in a file of its own; its types are those that its values suggest, as LeRobot leaves them."""
    root = write_dataset(tmp_path / "spoken", [5, 6, 4], data_file_mb=0.0001, cameras=False)
    files = sorted((root / "data").rglob("*.parquet"))
    assert len(files) == 3
    for episode, path in enumerate(files):
        for key, cells in zip(KEYS, messages(episode, pq.read_metadata(path).num_rows), strict=True):
            set_column(path, key, cells)
    for key in KEYS:
        add_feature(root, key, "language", [1])
    return root


def cells(root: Path) -> dict[str, list[Any]]:
    tables = [pq.read_table(path, columns=list(KEYS)) for path in sorted((root / "data").rglob("*.parquet"))]
    return {key: [_plain(cell) for table in tables for cell in table[key].to_pylist()] for key in KEYS}


def _plain(value: Any) -> Any:
    """Without empty members, which types of other files may add."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def test_rlds_has_no_place_for_them(spoken, tmp_path):
    with pytest.warns(UserWarning, match="RLDS has no place for language_persistent, language_events of"):
        export(spoken, tmp_path / "out", format="rlds")
    out = open_dataset(tmp_path / "out")
    assert not set(KEYS) & set(out.features)
    np.testing.assert_array_equal(
        out.columns(0, ["action"])["action"], open_dataset(spoken).columns(0, ["action"])["action"]
    )


def test_they_are_read_as_python_values(spoken):
    values = open_dataset(spoken).columns(1, ["language_events"])["language_events"]
    assert (values.shape, values.dtype) == ((6,), object)
    assert values[1][0]["tool_calls"][0]["function"]["arguments"]["text"] == "now 1"


def test_columns_that_nothing_declares_are_not_dropped_without_a_word(spoken, tmp_path):
    features = read_info(spoken)["features"]
    del features["language_events"]
    edit_info(spoken, features=features)
    with pytest.warns(
        UserWarning, match="language_events in its data files: meta/info.json does not declare it, so the"
    ):
        out = export(open_dataset(spoken), tmp_path / "out").path
    assert "language_persistent" in open_dataset(out).features


def test_types_that_cannot_be_one_are_refused(spoken, tmp_path):
    path = sorted((spoken / "data").rglob("*.parquet"))[1]
    set_column(path, "language_events", [b"x"] * pq.read_metadata(path).num_rows)
    refused("`language_events`: expected one type in all data", lambda: export(open_dataset(spoken), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_export_keeps_json_in_them(spoken, tmp_path):
    """LeRobot 0.6.1 stores the calls of tools as Arrow's JSON."""
    if not hasattr(pa, "json_"):
        pytest.skip("this pyarrow has no JSON")
    call = json.dumps({"name": "say", "arguments": {"text": "now"}})
    strings = {"role": pa.string(), "content": pa.string(), "style": pa.string(), "camera": pa.string()}
    for number, path in enumerate(sorted((spoken / "data").rglob("*.parquet"))):
        said = [{**dict.fromkeys(strings, "a"), "tool_calls": [call]}]
        rows = [said if number else []] * pq.read_metadata(path).num_rows
        kinds = [
            pa.list_(pa.struct({**strings, "tool_calls": pa.list_(leaf)})) for leaf in (pa.string(), pa.json_())
        ]  # of empty lists LeRobot leaves what they might hold untold
        column = pa.array(rows, kinds[0]).cast(kinds[1]) if number else pa.array(rows, pa.list_(pa.null()))
        set_column(path, "language_events", column)
    types = {pq.read_schema(path).field("language_events").type for path in (spoken / "data").rglob("*.parquet")}
    assert len(types) == 2
    out = export(open_dataset(spoken), tmp_path / "out").path
    assert cells(out) == cells(spoken)
    assert [pq.read_schema(path).field("language_events").type for path in (out / "data").rglob("*.parquet")] == [
        kind for kind in types if "json" in str(kind)
    ]
    part = export(open_dataset(spoken), tmp_path / "part", episodes=[0]).path
    assert cells(part)["language_events"] == [[]] * 5
    labelled = annotate(open_dataset(spoken), MODELS, tmp_path / "labelled")
    assert cells(labelled) == cells(spoken)


def test_types_that_arrow_cannot_join_are_refused_by_name(spoken, tmp_path, monkeypatch):
    """The reason is the column, not the disk."""
    monkeypatch.setattr("lattok.data.exporting.common_types", lambda key, schemas: pa.int64())
    said = refused(
        "`language_persistent`: expected int64, as in other data files, got list",
        lambda: export(open_dataset(spoken), tmp_path / "out"),
    )
    assert "Free space" not in said
    assert not (tmp_path / "out").exists()


def numbered(root: Path, index: list[list[int]], texts: list[str]) -> Path:
    """A dataset whose frames name sub-tasks by number, as LeRobot stores them: -1 where there is none."""
    write_dataset(root, [len(each) for each in index], data_file_mb=0.0001, cameras=False)
    for path, numbers in zip(sorted((root / "data").rglob("*.parquet")), index, strict=True):
        set_column(path, "subtask_index", pa.array(numbers, pa.int64()))
    add_feature(root, "subtask_index", "int64", [1])
    table = pa.table({"subtask_index": list(range(len(texts))), "__index_level_0__": texts})
    pq.write_table(table, root / "meta" / "subtasks.parquet")
    return root


def test_sub_tasks_by_number(tmp_path):
    """Views pass them on, batches have them, an export lists them again."""
    root = numbered(tmp_path / "numbered", [[0, 0, 1], [1, -1, 0, 0]], ["reach", "grasp it"])
    dataset = open_dataset(root)
    assert dataset.subtasks(1) == ["grasp it", "", "reach", "reach"]
    view = declare(dataset, {"action": [{"part": "other", "n": 3}]})
    assert view.subtasks(0) == ["reach", "reach", "grasp it"]
    windows = PolicyWindows(dataset, WindowOptions(2, cameras=(), size=16, subtasks=True))
    assert windows.batch(torch.tensor([4, 2, 3])).subtasks == ["", "grasp it", "grasp it"]
    assert windows.has_subtask is not None
    assert windows.has_subtask.tolist() == [True] * 4 + [False] + [True] * 2
    assert PolicyWindows(dataset, WindowOptions(2, cameras=(), size=16)).batch(torch.tensor([0])).subtasks is None
    assert open_dataset(export(view, tmp_path / "out").path).subtasks(1) == dataset.subtasks(1)
    assert open_dataset(annotate(dataset, MODELS, tmp_path / "labelled")).subtasks(1) == dataset.subtasks(1)
    numbered(tmp_path / "wrong", [[0, 7]], ["reach"])
    refused("`subtask_index` of episode 0: expected at most 0", lambda: open_dataset(tmp_path / "wrong").subtasks(0))


def test_sub_tasks_of_messages(spoken):
    """Each holds from its time on: 10 frames a second, so from frame 5 of episodes with as many."""
    dataset = open_dataset(spoken)
    assert dataset.subtasks(0) == [""] * 5
    assert dataset.subtasks(1) == [""] * 5 + ["lift 1"]


def test_labels_and_language_are_exported_together(spoken, tmp_path):
    annotated = annotate(open_dataset(spoken), MODELS, tmp_path / "annotated")
    out = export(open_dataset(annotated), tmp_path / "out").path
    assert cells(out) == cells(spoken)
    assert open_dataset(out).columns(2, ["tok.codes"])["tok.codes"].shape == (4, 2)


def test_any_other_kind_of_column_is_exported_as_it_is_stored(tmp_path):
    root = write_dataset(tmp_path / "odd", [5], cameras=False)
    (path,) = (root / "data").rglob("*.parquet")
    times = pa.array([0, 1, 2, 3, 2**60], pa.timestamp("ns"))
    set_column(path, "when", times)
    add_feature(root, "when", "timestamp[ns]", [1])
    out = export(open_dataset(root), tmp_path / "out").path
    (path,) = (out / "data").rglob("*.parquet")
    assert pq.read_table(path)["when"].combine_chunks().equals(times)
    assert read_info(out)["features"]["when"]["dtype"] == "timestamp[ns]"
