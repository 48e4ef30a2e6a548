"""LeRobot datasets at scale and in other processes; what metadata may be and what is refused."""

import itertools
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lattok.data import Feature, LeRobotV3, LeRobotWriter, inspect_dataset, open_dataset, repair, tables
from lattok.data.images import encode_png
from tests.data.edits import add_feature, edit_info, read_info, set_column
from tests.errors import refused


def test_a_pickle_holds_no_files_and_no_cache(make_dataset):
    dataset = make_dataset([12, 15], cameras=False)
    before = pickle.dumps(dataset)
    dataset.columns(0, ["action"])
    assert pickle.dumps(dataset) == before


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["x", "y", "grip"], ("x", "y", "grip")),
        ([["x", "y", "grip"]], ("x", "y", "grip")),  # Unitree's converter
        ([["x", "y"], ["grip"]], ("x", "y", "grip")),
        ({"motors": ["x", "y", "grip"]}, ("x", "y", "grip")),
        ({"motors": [["x", "y", "grip"]]}, ("x", "y", "grip")),
        ({"grip": 2, "x": 0, "y": 1}, ("x", "y", "grip")),  # LeRobot's environments
        ({"left": ["x", "y"], "right": ["grip"]}, ("x", "y", "grip")),
        ({"left": ["x", "y"], "right": ["x"]}, ("left_x", "left_y", "right_x")),
        ({"arm": {"y": 1, "x": 0}, "hand": [["grip"]]}, ("x", "y", "grip")),
        ({"2": "grip", "0": "x", "1": "y"}, ("x", "y", "grip")),
        ({"x": "m", "y": "m", "grip": "%"}, None),
        ({"motors": None}, None),
        ({"x": 0, "y": 1, "grip": 3}, None),
        ({"x": 0, "y": [1], "grip": 2}, None),
        ([["x", "y"]], None),
        (["x", "y", None], None),
        ([None], None),
        ([], None),
        ({}, None),
        (None, None),
    ],
)
def test_names_of_dimensions_in_every_form(make_dataset, written, read):
    root = make_dataset([4], cameras=False).root
    action = {"dtype": "float32", "shape": [3], "names": written}
    edit_info(root, features=read_info(root)["features"] | {"action": action})
    assert open_dataset(root).features["action"].names == read


def edit_episodes(dataset: LeRobotV3, change) -> None:
    (path,) = (dataset.root / "meta" / "episodes").glob("*/*.parquet")
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


def test_episodes_that_are_listed_nowhere_are_damaged_and_the_others_usable(make_dataset):
    """As after an upload that stopped, or a recorder that was killed while it wrote a file of meta/episodes."""
    dataset = make_dataset([12, 15, 11], cameras=False)
    edit_episodes(dataset, lambda rows: [rows[0], rows[2]])
    again = open_dataset(dataset.root)
    assert [episode.index for episode in again.episodes] == [0, 2]
    assert again.damaged[0].episode_index == 1
    assert "`total_episodes` is 3, but meta/episodes lists 2" in again.damaged[0].reason
    np.testing.assert_array_equal(again.columns(2, ["action"])["action"], dataset.columns(2, ["action"])["action"])
    whole = dataset.root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    (whole.parent / "file-001.parquet").write_bytes(whole.read_bytes()[:-8])
    again = open_dataset(dataset.root)
    assert [damage.episode_index for damage in again.damaged] == [1]
    assert "file-001.parquet is no complete Parquet file" in again.damaged[0].reason


def test_totals_that_are_not_those_of_the_list_are_said(make_dataset):
    """As of a recording that was resumed, or cut by hand."""
    dataset = make_dataset([12, 15, 11], cameras=False)
    edit_info(dataset.root, total_episodes=2, total_frames=27)
    again = open_dataset(dataset.root)
    assert [episode.length for episode in again.episodes] == [12, 15, 11]
    said = [each for each in inspect_dataset(again).findings if each.kind == "other-totals"]
    assert ["`total_episodes` is 2, but meta/episodes lists 3" in said[0].what, len(said)] == [True, 2]
    repair(dataset.root, dataset.root.parent / "right")
    assert read_info(dataset.root.parent / "right")["total_frames"] == 38


def test_an_episode_in_two_data_files_is_refused_with_the_way_out(make_dataset):
    dataset = make_dataset([12, 15, 11], cameras=False)
    (path,) = (dataset.root / "data").glob("*/*.parquet")
    rows = pq.read_table(path)
    pq.write_table(rows.slice(0, 20), path)
    pq.write_table(rows.slice(20), path.with_name("file-001.parquet"))
    edit_episodes(dataset, lambda rows: [*rows[:2], rows[2] | {"data/file_index": 1}])
    again = open_dataset(dataset.root)
    refused(
        "expected 15 rows of episode 1, got 8. Others are in .*file-001.parquet: write", again.columns, 1, ["action"]
    )


def test_pictures_of_another_size_than_declared_are_said(make_dataset):
    dataset = make_dataset([12])
    features = read_info(dataset.root)["features"]
    for camera in dataset.cameras:
        features[camera]["shape"] = [480, 640, 3]
    edit_info(dataset.root, features=features)
    found = [each for each in inspect_dataset(open_dataset(dataset.root)).findings if each.kind == "other-size"]
    assert ["640x480" in each.what for each in found] == [True] * len(dataset.cameras)


def test_an_episode_without_a_frame_costs_itself_alone(make_dataset):
    """As of a recorder that was stopped at once."""
    dataset = make_dataset([12, 1, 11])
    (path,) = (dataset.root / "data").glob("*/*.parquet")
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.field("episode_index") != 1), path)
    edit_episodes(dataset, lambda rows: [rows[0], rows[1] | {"length": 0}, rows[2]])
    edit_info(dataset.root, total_frames=23)
    again = open_dataset(dataset.root)
    assert [(episode.index, episode.length) for episode in again.episodes] == [(0, 12), (2, 11)]
    assert again.damaged == ((1, "meta/episodes gives it no frame."),)
    np.testing.assert_array_equal(again.actions(2), dataset.actions(2))
    np.testing.assert_array_equal(again.frames(2), dataset.frames(2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [rows[0], rows[0]], "lists an episode twice"),
        (lambda rows: [rows[0] | {"length": 2**40}, rows[1]], "expected lengths from 0, below 2^31"),
        (lambda rows: [row | {"length": 0} for row in rows], "meta/episodes: expected episodes with frames, got none"),
        (lambda rows: [rows[0] | {"length": None}, rows[1]], "`length`: expected whole numbers, got empty cells"),
        (lambda rows: [row | {"length": "5"} for row in rows], "`length`: expected whole numbers, got string"),
        (lambda rows: [row | {"data/file_index": -1} for row in rows], "`data/file_index`: expected numbers of"),
        (lambda rows: [row | {"tasks": 3} for row in rows], "`tasks`: expected lists of text"),
        (lambda rows: [rows[0] | {"tasks": [None]}, rows[1]], "`tasks`: expected lists of text, got empty cells"),
    ],
)
def test_tables_of_episodes_that_cannot_be(make_dataset, change, says):
    dataset = make_dataset([12, 15], cameras=False)
    edit_episodes(dataset, change)
    refused(re.escape(says), open_dataset, dataset.root)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("fps", "10", "info.json`: expected frames per second, got '10'"),
        ("fps", -10, "`fps`"),
        ("fps", float("nan"), "nan where a finite number is expected"),
        ("robot_type", 5, "info.json`: expected a value of type str | None, got 5. Copy"),
        ("features", [1], "`features` in "),
        ("features", {"action": 3}, "`features.action` in "),
        ("features", {"action": {"dtype": "float32"}}, "info.json`: expected dtype and shape"),
        ("features", {"action": {"dtype": "float32", "shape": [-3]}}, "`features.action` in "),
        ("features", {"action": {"dtype": None, "shape": [3]}}, "info.json`: expected dtype and shape"),
        ("data_path", "data/{chunk}.parquet", "`data_path`: expected a path with plain fields ({chunk_index}"),
        ("data_path", 7, "`data_path`"),
        ("video_path", "{0}", "`video_path`"),
        ("video_path", None, "missing video_path"),
    ],
)
def test_info_that_cannot_be(make_dataset, key, value, says):
    dataset = make_dataset([12, 15])
    edit_info(dataset.root, **{key: value})
    refused(re.escape(says), open_dataset, dataset.root)


def test_timestamps_that_cannot_be_places_in_a_video(make_dataset):
    dataset = make_dataset([12, 15])
    path = dataset.data_file(0)
    times = np.array(pq.read_table(path)["timestamp"].to_pylist(), dtype=np.float32)
    times[20] = np.nan
    set_column(path, "timestamp", pa.array(times))
    again = open_dataset(dataset.root)
    assert len(again.frames(0)) == 12
    refused("`timestamp` of episode 1: expected seconds that increase", again.frames, 1)


def test_a_clock_that_strays_by_less_than_a_frame(make_dataset):
    """It may go back from row to row: rows then have the frames of their numbers."""
    dataset = make_dataset([12, 15])
    expected = dataset.frames(1)
    path = dataset.data_file(1)
    times = pq.read_table(path)["timestamp"].to_numpy().copy()
    times[15:17] += np.array([0.09, -0.09]) * 10 / dataset.fps
    assert times[16] < times[15]
    set_column(path, "timestamp", pa.array(times))
    again = open_dataset(dataset.root)
    np.testing.assert_array_equal(again.frames(1), expected)
    assert [(each.kind, each.severity) for each in inspect_dataset(again).findings if "Times" in each.what] == [
        ("times-stray", "note")
    ]


@pytest.mark.parametrize(("begins", "kind"), [(3.0, "times-begin"), (1e9, "times-begin"), (None, "times-go-back")])
def test_the_cause_of_times_that_fit_no_video_is_said_once(make_dataset, begins, kind):
    dataset = make_dataset([12, 15])
    path = dataset.data_file(1)
    times = pq.read_table(path)["timestamp"].to_numpy().astype(np.float64)
    times[12:] = times[12:] + begins if begins else times[12:] - times[12:][7] * (np.arange(15) >= 7)
    set_column(path, "timestamp", pa.array(times))
    found = inspect_dataset(dataset.root).findings
    assert [each.kind for each in found if each.severity == "error"] == [kind]
    repaired = repair(dataset.root, dataset.root.with_name("repaired")).path
    assert repaired is not None
    assert not [each for each in inspect_dataset(repaired).findings if each.severity == "error"]


def test_the_end_of_the_file_as_the_end_of_every_span(make_dataset):
    """LeRobot does not look at it."""
    dataset = make_dataset([12, 15])
    want = [dataset.frames(index) for index in range(2)]

    def later(rows):
        for row, key in itertools.product(rows, dataset.videos):
            row[f"videos/{key}/to_timestamp"] = 27 / dataset.fps
        return rows

    edit_episodes(dataset, later)
    again = open_dataset(dataset.root)
    assert all(np.array_equal(again.frames(index), want[index]) for index in range(2))
    assert not [each for each in inspect_dataset(again).findings if each.severity == "error"]


def test_pictures_as_plain_bytes_or_paths(make_dataset):
    dataset = make_dataset([3], cameras=False)
    shown = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    (dataset.root / "images").mkdir()
    for i, frame in enumerate(shown):
        (dataset.root / "images" / f"{i}.png").write_bytes(encode_png(frame))
    cells = {"a": [encode_png(frame) for frame in shown], "b": [f"images/{i}.png" for i in range(3)]}
    for name, column in cells.items():
        set_column(dataset.data_file(0), f"observation.images.{name}", pa.array(column))
        add_feature(dataset.root, f"observation.images.{name}", "image", [8, 8, 3])
    np.testing.assert_array_equal(open_dataset(dataset.root).frames(0), np.stack([shown, shown], 1))
    set_column(dataset.data_file(0), "observation.images.a", pa.array(shown.tolist()))
    refused("expected an image as PNG or JPEG, got numbers. Write cells", open_dataset(dataset.root).frames, 0)


def test_a_video_that_shows_less_than_an_episode_has_rows(make_dataset):
    """As a conversion makes them that goes by durations: the last rows were shown with frames of the next episode."""
    dataset = make_dataset([12, 15])
    key = dataset.cameras[0]

    def change(rows):
        rows[0][f"videos/{key}/to_timestamp"] -= 0.5
        rows[1][f"videos/{key}/from_timestamp"] -= 0.5
        return rows

    edit_episodes(dataset, change)
    again = open_dataset(dataset.root)
    said = f"Episode 0 has rows up to 1.1 s, and the last frame of {key} is of 0.6 s. Later episodes"
    refused(re.escape(said), again.frames, 0)
    assert [each for each in inspect_dataset(again).findings if each.severity == "error" and said in each.what]
    again.frames(0, [dataset.cameras[1]])


def test_parts_of_an_action_that_are_true_or_false_are_joined_too(tmp_path):
    """As `open_gripper` of a dataset of Open X: what was advised had no gripper."""
    parts = {"action.move": Feature("float32", (2,), None), "action.open": Feature("bool", (1,), None)}
    with LeRobotWriter.create(tmp_path / "d", 10, parts) as writer:
        moves = np.arange(8, dtype=np.float32).reshape(4, 2)
        writer.add_episode({"action.move": moves, "action.open": np.array([0, 1, 1, 0])}, {}, "push")
    dataset = open_dataset(tmp_path / "d")
    said = '{"action": ["action.move", "action.open"]}'
    assert [each for each in inspect_dataset(dataset).findings if said in each.advice]
    joined = open_dataset(tmp_path / "d", columns=json.loads(said))
    assert joined.columns(0, ["action"])["action"].tolist() == [[0, 1, 0], [2, 3, 1], [4, 5, 1], [6, 7, 0]]


def test_empty_cells_and_other_types_are_not_guessed(make_dataset):
    """An empty float is NaN, which is said as NaN is; no whole number means "unknown"."""
    dataset = make_dataset([12, 15], cameras=False)
    path = dataset.data_file(0)
    tasks, rewards = (pq.read_table(path)[key].to_pylist() for key in ("task_index", "reward"))
    for key, values, says in [
        ("task_index", [None, *tasks[1:]], "`task_index`: expected a value in every row, got 1 empty"),
        ("reward", list(map(str, rewards)), "`reward`: expected float64 of shape [1] as info.json says, got string"),
    ]:
        set_column(path, key, values)
        refused(re.escape(says), open_dataset(dataset.root).columns, 0, [key])
    set_column(path, "task_index", tasks)
    set_column(path, "reward", [None, *rewards[1:]])
    found = open_dataset(dataset.root)
    np.testing.assert_array_equal(found.columns(0, ["reward"])["reward"], [np.nan, *rewards[1:12]])
    assert any("`reward` (0) holds 1 value that is not finite" in each.what for each in inspect_dataset(found).findings)


def test_clips_of_many_files_open_each_file_once(make_dataset, monkeypatch):
    dataset = make_dataset([12, 7, 9, 25, 3, 6, 8], data_file_mb=0.004)
    files = {dataset.data_file(episode.index) for episode in dataset.episodes}
    opened: list[Path] = []
    made = tables.DataFile
    monkeypatch.setattr(tables, "OPEN_FILES", 1)
    monkeypatch.setattr(tables, "DataFile", lambda path: opened.append(path) or made(path))
    expected = [dataset.frames(index, indices=[0, 1]) for index in range(7)]
    for index in (6, 0, 5, 1, 4, 2, 3):
        np.testing.assert_array_equal(dataset.frames(index, indices=[0, 1]), expected[index])
    assert len(files) > 1
    assert sorted(opened) == sorted(files)


def test_damaged_times_of_one_episode_leave_the_others(make_dataset):
    dataset = make_dataset([5, 6, 7])
    path = dataset.data_file(1)
    group = pq.ParquetFile(path).metadata.row_group(1)
    (column,) = (group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "timestamp")
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin + column.total_compressed_size - 1] ^= 255
    path.write_bytes(content)
    dataset = open_dataset(dataset.root)
    assert [len(dataset.frames(index)) for index in (0, 2)] == [5, 7]
    refused("cannot read `timestamp` from .*Copy it again", dataset.frames, 1)


def test_the_time_of_the_last_frame_as_the_end_of_a_span(make_dataset):
    """Where no other episode begins there, every frame is the episode's, as LeRobot reads it."""
    dataset = make_dataset([12, 15])
    want = [dataset.frames(index) for index in range(2)]
    key = dataset.videos[0]

    def earlier(rows):
        ends = (f"videos/{each}/to_timestamp" for each in dataset.videos)
        for row, end in itertools.product(rows, list(ends)):
            row[end] -= 1 / dataset.fps
        return rows

    edit_episodes(dataset, earlier)
    again = open_dataset(dataset.root)
    for index in range(2):
        np.testing.assert_array_equal(again.frames(index), want[index])
        assert again.video_span(index, key)[2] == pytest.approx(dataset.video_span(index, key)[2])


def test_a_span_that_the_next_episode_cuts_short_is_refused(make_dataset):
    dataset = make_dataset([12, 15])
    key = dataset.videos[0]

    def overlap(rows):
        cut = rows[0][f"videos/{key}/to_timestamp"] - 1 / dataset.fps
        rows[0][f"videos/{key}/to_timestamp"] = rows[1][f"videos/{key}/from_timestamp"] = cut
        return rows

    edit_episodes(dataset, overlap)
    refused("Episode 0 has rows up to", lambda: open_dataset(dataset.root).frames(0))


def test_an_instruction_that_is_no_list(make_dataset):
    dataset = make_dataset([12, 15], cameras=False)
    edit_episodes(dataset, lambda rows: [row | {"tasks": row["tasks"][0]} for row in rows])
    assert [*open_dataset(dataset.root).episodes] == [*dataset.episodes]


def test_episodes_of_several_instructions_in_any_order(make_dataset):
    dataset = make_dataset([12, 15, 11])

    def change(rows):
        rows[1]["tasks"] = ["push", "and pull"]
        return rows[::-1]

    edit_episodes(dataset, change)
    again = open_dataset(dataset.root)
    assert [e.tasks for e in again.episodes] == [("lift",), ("push", "and pull"), ("push",)]
    np.testing.assert_array_equal(again.columns(2, ["action"])["action"], dataset.columns(2, ["action"])["action"])


def test_a_data_file_that_was_replaced_by_another_table_is_an_error(make_dataset):
    dataset = make_dataset([6], cameras=False)
    dataset.data_file(0).write_bytes((dataset.root / "meta" / "tasks.parquet").read_bytes())
    again = open_dataset(dataset.root)
    refused("missing column episode_index", again.columns, 0, ["action"])
    assert [finding for finding in inspect_dataset(again).findings if finding.severity == "error"]


def test_a_data_file_without_frame_numbers_says_nothing_of_their_order(make_dataset):
    dataset = make_dataset([6], cameras=False)
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path).drop_columns(["frame_index"]), path)
    assert not open_dataset(dataset.root)._reader.disordered(path)
