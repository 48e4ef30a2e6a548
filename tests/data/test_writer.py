"""Writing: what is read back, how files roll over, what is refused, and that nothing half-written stays."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lattok.checks import LattokError
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.data.stats import column_stats, image_stats, merge_stats

FEATURES = {
    "action": Feature("float32", (2,), ("x", "y")),
    "reward": Feature("float64", (1,), None),
    "note": Feature("string", (1,), None),
    "camera": Feature("video", (16, 24, 3), None),
}


def episode(rng, length: int = 6) -> tuple[dict, dict]:
    columns = {
        "action": rng.standard_normal((length, 2)).astype(np.float32),
        "reward": rng.standard_normal(length),
        "note": np.array([f"step {t}" for t in range(length)]),
    }
    return columns, {"camera": rng.integers(0, 256, (length, 16, 24, 3), dtype=np.uint8)}


def create(root, **options) -> LeRobotWriter:
    return LeRobotWriter.create(root, 10, FEATURES, video_codec="h264", encoder_threads=1, **options)


def test_columns_come_back(tmp_path, rng):
    written = [episode(rng, n) for n in (6, 1, 9)]
    with create(tmp_path / "d", robot_type="arm") as writer:
        for i, (columns, frames) in enumerate(written):
            writer.add_episode(columns, frames, ("push", "lift")[i % 2])
    dataset = open_dataset(tmp_path / "d")
    assert dataset.info["robot_type"] == "arm"
    assert dataset.tasks == ("push", "lift")
    assert [(e.length, e.tasks) for e in dataset.episodes] == [(6, ("push",)), (1, ("lift",)), (9, ("push",))]
    start = 0
    for i, (columns, _) in enumerate(written):
        got = dataset.columns(i, [*columns, "timestamp", "frame_index", "episode_index", "index", "task_index"])
        length = len(columns["action"])
        for key, values in columns.items():
            assert got[key].tolist() == values.tolist()
        np.testing.assert_allclose(got["timestamp"], np.arange(length) / 10, atol=1e-6)
        np.testing.assert_array_equal(got["frame_index"], np.arange(length))
        np.testing.assert_array_equal(got["index"], start + np.arange(length))
        assert set(got["episode_index"]) == {i}
        assert set(got["task_index"]) == {i % 2}
        assert dataset.frames(i).shape == (length, 1, 16, 24, 3)
        start += length


def test_several_files_and_chunks(tmp_path, rng):
    with create(tmp_path / "d", data_file_mb=0.0005, video_file_mb=0.001, chunk_files=2) as writer:
        for _ in range(6):
            writer.add_episode(*episode(rng), "push")
    names = sorted(path.relative_to(tmp_path / "d" / "data").as_posix() for path in (tmp_path / "d/data").rglob("*.p*"))
    assert names[:3] == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    dataset = open_dataset(tmp_path / "d")
    assert [dataset.columns(i, ["index"])["index"][0] for i in range(6)] == [0, 6, 12, 18, 24, 30]


def test_many_episodes_are_written_in_portions(tmp_path):
    features = {"action": Feature("float32", (1,), None)}
    with LeRobotWriter.create(tmp_path / "d", 10, features) as writer:
        for i in range(230):
            writer.add_episode({"action": np.full(2, i)}, {}, "push")
    dataset = open_dataset(tmp_path / "d")
    assert len(dataset.episodes) == 230
    assert dataset.columns(229, ["action"])["action"].tolist() == [229, 229]
    assert dataset.info["video_path"] is None


def test_statistics_are_those_of_all_frames(tmp_path, rng):
    written = [episode(rng, n)[0] for n in (6, 3, 9)]
    with create(tmp_path / "d") as writer:
        for columns in written:
            writer.add_episode(columns, episode(rng, len(columns["action"]))[1], "push")
    stats = json.loads((tmp_path / "d" / "meta" / "stats.json").read_text())
    values = np.concatenate([columns["action"] for columns in written])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(values, name)(0), rtol=1e-5)
    assert stats["action"]["count"] == [18]
    assert "note" not in stats
    assert np.shape(stats["camera"]["mean"]) == (3, 1, 1)
    assert 0.4 < stats["camera"]["mean"][0][0][0] < 0.6
    row = pq.read_table(tmp_path / "d" / "meta" / "episodes").to_pylist()[0]
    np.testing.assert_allclose(row["stats/action/mean"], written[0]["action"].mean(0), rtol=1e-5)


def test_merged_statistics_against_numpy(rng):
    parts = [rng.standard_normal((n, 3)) * n for n in (1, 4, 30)]
    merged, whole = merge_stats([column_stats(part) for part in parts]), np.concatenate(parts)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(merged[name], getattr(whole, name)(0))
    assert merged["count"].tolist() == [35]
    one = image_stats(np.full((5, 4, 4, 3), 51, dtype=np.uint8))
    np.testing.assert_allclose(one["mean"], np.full((3, 1, 1), 0.2))


def test_a_failure_leaves_nothing(tmp_path, rng):
    with pytest.raises(RuntimeError), create(tmp_path / "d") as writer:  # noqa: PT012
        writer.add_episode(*episode(rng), "push")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LattokError, match="nothing to write"), create(tmp_path / "d"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_at_the_end(tmp_path, rng):
    writer = create(tmp_path / "d")
    writer.add_episode(*episode(rng), "push")
    assert not (tmp_path / "d").exists()
    assert writer.finalize() == tmp_path / "d"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(LattokError, match="`root`: expected a folder that does not exist yet"):
        create(tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c, f: c.pop("reward"), "`columns`: expected action, reward, note, got action, note"),
        (lambda c, f: c.update(extra=c["reward"]), "`columns`: expected action, reward, note"),
        (lambda c, f: f.clear(), "`frames`: expected camera, got none"),
        (lambda c, f: c.update(reward=c["reward"][:3]), r"one length of at least 1, got lengths \[3, 6\]"),
        (lambda c, f: c.update(action=c["action"][:, :1]), r"`action`: expected shape \[6, 2\], got \[6, 1\]"),
        (lambda c, f: f.update(camera=f["camera"].astype(np.float32)), "`camera`: expected uint8 frames, got float32"),
        (lambda c, f: f.update(camera=f["camera"][:, :8]), r"`camera`: expected shape \[6, 16, 24, 3\]"),
    ],
)
def test_episodes_that_do_not_fit(tmp_path, rng, change, says):
    columns, frames = episode(rng)
    change(columns, frames)
    writer = create(tmp_path / "d")
    with pytest.raises(LattokError, match=says):
        writer.add_episode(columns, frames, "push")


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"a/b": Feature("float32", (1,), None)}, "`features`: expected keys without '/'"),
        ({"timestamp": Feature("float32", (1,), None)}, "other than LeRobot's own"),
        ({"v": Feature("video", (16, 16), None)}, r"shape \(H, W, 3\) of a video"),
        ({"a": Feature("float32", (2, 2), None)}, "the shape of a vector"),
        ({"a": Feature("float16", (2,), None)}, "expected one of video, string, bool, float32"),
    ],
)
def test_features_that_cannot_be_written(tmp_path, features, says):
    with pytest.raises(LattokError, match=says):
        LeRobotWriter.create(tmp_path / "d", 10, features)


def test_a_task_is_needed(tmp_path, rng):
    writer = create(tmp_path / "d")
    with pytest.raises(LattokError, match="`task`: expected an instruction, got ''"):
        writer.add_episode(*episode(rng), "")
