"""Tables of a LeRobot dataset that contradict each other: named by inspection, and nothing is read in another order."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok import annotate
from lattok.action_vq import UniformBins
from lattok.data import inspect_dataset, open_dataset
from lattok.samples import ActionWindows, FramePairs, PairLabels
from tests.conftest import write_dataset
from tests.data.edits import set_column
from tests.errors import refused

FRONT = "observation.images.front"
LENGTHS = [12, 11, 10, 13]


def found(dataset, words: str) -> list[str]:
    """What inspection says with these words, by severity."""
    return [each.severity for each in inspect_dataset(dataset).findings if re.search(words, each.what)]


@pytest.fixture
def source(make_dataset):
    return make_dataset(LENGTHS)


def change_spans(dataset, **columns) -> None:
    """Set `from_timestamp` and `to_timestamp` of a camera by functions of the stored ones."""
    (path,) = (dataset.root / "meta" / "episodes").rglob("*.parquet")
    for name, change in columns.items():
        key = f"videos/{FRONT}/{name}"
        set_column(path, key, change(pq.read_table(path)[key].to_numpy()).tolist())


def test_two_episodes_of_the_same_seconds(source):
    def shift(times):
        times = times.copy()
        times[3] = times[3] - 0.5  # into episode 2
        return times

    change_spans(source, from_timestamp=shift, to_timestamp=shift)
    again = open_dataset(source.root)
    assert found(again, "Episodes 3 and 2 claim the same seconds of observation.images.front in .*mp4") == ["error"]
    for episode in (2, 3):
        refused(f"Episodes {episode} and {5 - episode} claim the same seconds", again.frames, episode, ["front"])
    assert len(again.frames(0)) == LENGTHS[0]
    assert len(again.frames(2, ["wrist"])) == LENGTHS[2]
    refused("claim the same seconds", lambda: FramePairs(again, 2, ["front"], PairLabels(labelled_fraction=0)).frames)
    assert len(FramePairs(again, 2, ["front"], PairLabels(labelled_fraction=0), episodes="0:2").frames) == sum(
        LENGTHS[:2]
    )


def test_spans_in_another_order(source):
    swap = [1, 0, 2, 3]
    change_spans(source, from_timestamp=lambda times: times[swap], to_timestamp=lambda times: times[swap])
    again = open_dataset(source.root)
    assert found(again, "episode 1 of observation.images.front lies before episode 0") == ["warning"]
    assert found(again, "same seconds") == []


@pytest.mark.parametrize("order", ["backwards", "repeated"])
def test_rows_whose_order_is_not_known(source, order):
    path = source.data_file(1)
    first, last = source.episode_rows(path)[1]
    frames = pq.read_table(path)["frame_index"].to_numpy().copy()
    frames[first:last] = frames[first:last][::-1] if order == "backwards" else 0
    set_column(path, "frame_index", frames.tolist())
    again = open_dataset(source.root)
    assert found(again, "`frame_index` of episode 1 runs backwards") == ["error"]
    refused("`frame_index` of episode 1 runs backwards", ActionWindows, again, 4)
    assert len(ActionWindows(again, 4, episodes=[0, 2, 3])) == sum(LENGTHS) - LENGTHS[1]


@pytest.mark.parametrize(
    ("column", "shift", "count"),
    [("frame_index", [0, 5, 0, 0], 1), ("index", [0, 0, 0, 5], 0), ("index", [0, 0, 0, -5], 2)],
)
def test_columns_that_count(source, column, shift, count):
    """Numbers may be left out between episodes, as where some were removed; none may be there twice."""
    path = source.data_file(0)
    table = pq.read_table(path)
    moved = table[column].to_numpy() + np.take(shift, table["episode_index"].to_numpy())
    set_column(path, column, moved.tolist())
    dataset = open_dataset(source.root)
    assert found(dataset, f"In {count} episodes? .* `{column}` does not go up") == ["error"] * (count > 0)
    assert len(ActionWindows(dataset, 4)) == sum(LENGTHS)


def test_statistics_of_episodes_are_those_of_their_rows_in_a_copy(source, tmp_path, capsys):
    """LeRobot's tools make statistics of other datasets from them. Those of columns that were there before go."""
    (path,) = (source.root / "meta" / "episodes").rglob("*.parquet")
    right = pq.read_table(path)
    stale = right["stats/action/mean"].to_pylist()
    stale[1], stale[3] = [9.0, 9.0, 9.0], [0.0, 0.0, 7.0]
    set_column(path, "stats/action/mean", stale)
    table = pq.read_table(path)
    pq.write_table(table.append_column("stats/tok.codes/max", pa.array([[99.0]] * len(LENGTHS))), path)
    dataset = open_dataset(source.root)
    chunks, valid = ActionWindows(dataset, 4).all()
    annotate(dataset, {"tok": UniformBins.fit(chunks, valid, bins=8)}, tmp_path / "out")
    copied = pq.read_table(tmp_path / "out" / path.relative_to(source.root))
    assert copied.column_names == right.column_names
    for name in right.column_names:
        if name.startswith("stats/action/"):
            np.testing.assert_allclose(copied[name].to_pylist(), right[name].to_pylist(), rtol=1e-5)
        else:
            assert copied[name].equals(right[name]), name
    told = "meta/episodes: statistics of `tok.codes` in 4 episodes, `action` in 2 episodes were those of other rows"
    assert f"note: {told}: the output has those of its own\n" in capsys.readouterr().err


@pytest.mark.parametrize("values", [["a"] * 4, [None] * 4, [[1.0]] * 4, [[]] * 4])
def test_statistics_of_episodes_that_are_none_end_no_annotation(values, source, tmp_path):
    (path,) = (source.root / "meta" / "episodes").rglob("*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("stats/action/mean")
    pq.write_table(table.set_column(place, "stats/action/mean", pa.array(values)), path)
    set_column(path, "stats/action/min", [[9.0, 9.0, 9.0]] * 4)
    dataset = open_dataset(source.root)
    chunks, valid = ActionWindows(dataset, 4).all()
    annotate(dataset, {"tok": UniformBins.fit(chunks, valid, bins=8)}, tmp_path / "out")
    copied = pq.read_table(tmp_path / "out" / path.relative_to(source.root)).to_pylist()
    for row, (_, columns) in zip(copied, dataset.columns_of(dataset.episodes, ["action"]), strict=True):
        np.testing.assert_allclose(row["stats/action/min"], columns["action"].min(0))


def test_last_actions_of_a_dataset_that_was_rlds(source):
    assert found(source, "only fills its row") == []
    path = source.data_file(0)
    actions = np.array(pq.read_table(path)["action"].to_pylist(), "f4")
    for _, last in source.episode_rows(path).values():
        actions[last - 1] = 0
    set_column(path, "action", pa.FixedSizeListArray.from_arrays(actions.reshape(-1), 3))
    assert found(open_dataset(source.root), "The last `action` of nearly every episode only fills its row") == [
        "warning"
    ]


@pytest.mark.parametrize("file", [0, 1])
def test_a_file_that_lacks_a_column_is_named(file, tmp_path):
    """Whichever it is: neither does the first one decide, nor are rows filled up."""
    root = write_dataset(tmp_path / "d", [4, 5], data_file_mb=0.0001, cameras=False)
    path = sorted((root / "data").rglob("*.parquet"))[file]
    pq.write_table(pq.read_table(path).drop_columns(["reward"]), path)
    dataset = open_dataset(root)
    assert len(dataset.columns(1 - file, ["reward"])["reward"]) == [4, 5][1 - file]
    refused(r"`keys`: expected columns among .*got 'reward'\. Looked in", dataset.columns, file, ["reward"])
