"""Inspection finds what is planted, reports nothing in a clean dataset, and fits a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.checks import LattokError
from lattok.data import LeRobotV3, inspect_dataset, open_dataset
from lattok.data.video import VideoEncoder


def replant(dataset: LeRobotV3, key: str, change: Callable[[np.ndarray], np.ndarray]) -> LeRobotV3:
    """Change a column of the dataset's data file and open it again."""
    path = dataset.data_file(0)
    table = pq.read_table(path)
    shape = dataset.features[key].shape
    values = np.array(table[key].to_pylist())
    flat = pa.array(change(values).reshape(-1).astype(dataset.features[key].dtype))
    column = flat if shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, shape[0])
    pq.write_table(table.set_column(table.column_names.index(key), key, column), path)
    return open_dataset(dataset.root)


def found(dataset: LeRobotV3) -> str:
    return "\n".join(f"{f.severity}: {f.what} {f.advice}" for f in inspect_dataset(dataset).findings)


def test_the_sample(sample):
    inspection = inspect_dataset(sample)
    assert {finding.severity for finding in inspection.findings} == {"note"}
    text = inspection.render()
    assert max(map(len, text.splitlines())) <= 88
    assert "episodes  50, 4,059 frames, 50.7 s at 80 fps" in text
    assert "observation.images.corner2  128x128, 80 fps, av1" in text
    assert "14 of 39 dimensions never change" in text
    assert "27 of 50 episodes are shorter than 1 s" in text


def test_a_clean_dataset_has_no_findings(make_dataset):
    inspection = inspect_dataset(make_dataset([20, 30]))
    assert inspection.findings == ()
    assert inspection.render().endswith("Nothing found that would hurt.")


def test_constant_dimensions(make_dataset):
    dataset = replant(make_dataset([20, 30], cameras=False), "action", lambda a: a * [1, 0, 1])
    assert "warning: `action`: 1 of 3 dimensions never change (y)." in found(dataset)


def test_outliers_name_the_worst(make_dataset):
    def plant(actions):
        actions[24, 2] = 500.0
        return actions

    text = found(replant(make_dataset([20, 300], cameras=False), "action", plant))
    assert "warning: `action` (z) holds 1 wild values, the worst 500 in episode 1, frame 4" in text


def test_a_gripper_that_rarely_closes_is_no_outlier(make_dataset):
    def gripper(actions):
        actions[:, 2] = np.arange(len(actions)) % 20 == 0
        return actions

    assert "wild" not in found(replant(make_dataset([200], cameras=False), "action", gripper))


def test_nan(make_dataset):
    def plant(actions):
        actions[21:23, 0] = np.nan
        return actions

    text = found(replant(make_dataset([20, 30], cameras=False), "action", plant))
    assert "error: `action` (x) holds 2 values that are not finite, first in episode 1, frame 1." in text


def test_timestamps_of_another_rate(make_dataset):
    text = found(replant(make_dataset([20, 30], cameras=False), "timestamp", lambda t: t / 2))
    assert "error: 2 episodes (first: 0) have timestamps that do not fit fps = 10; the timestamps say 20 fps." in text


def test_videos_of_another_rate(make_dataset):
    dataset = make_dataset([20])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    path.unlink()
    encoder = VideoEncoder(path, 5, (32, 32), "h264")
    encoder.add(np.zeros((10, 32, 32, 3), dtype=np.uint8))
    encoder.close()
    assert "runs at 5 fps, the dataset at 10." in found(dataset)


def test_missing_and_truncated_videos(make_dataset):
    dataset = make_dataset([20])
    front, wrist = (dataset.video_span(0, key)[0] for key in dataset.cameras)
    front.unlink()
    wrist.write_bytes(wrist.read_bytes()[:-400])
    text = found(dataset)
    assert "error: missing video file" in text
    assert "truncated or damaged" in text


def test_missing_data_files_are_reported_once(make_dataset):
    dataset = make_dataset([20, 30], cameras=False)
    dataset.data_file(0).unlink()
    findings = inspect_dataset(dataset).findings
    assert [f.severity for f in findings] == ["error"]
    assert "missing data file" in findings[0].what
    inspect_dataset(dataset).render()


def test_lengths_that_disagree_with_the_table(make_dataset):
    dataset = make_dataset([20, 30], cameras=False)
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path).slice(0, 45), path)
    assert "expected 30 rows of episode 1, got 25" in found(open_dataset(dataset.root))


def test_cameras_of_different_sizes(make_dataset):
    dataset = make_dataset([20])
    path = dataset.video_span(0, dataset.cameras[1])[0]
    path.unlink()
    encoder = VideoEncoder(path, 10, (16, 64), "h264")
    encoder.add(np.zeros((20, 16, 64, 3), dtype=np.uint8))
    encoder.close()
    assert "note: The cameras have different sizes." in found(dataset)


def test_long_names_fit_the_terminal(make_dataset):
    dataset = make_dataset([20, 30], tasks=["a very long instruction " * 20, "push"], cameras=False)
    info = json.loads((dataset.root / "meta" / "info.json").read_text())
    info["features"]["action"]["names"] = ["left_arm_shoulder_pitch.position"] * 3
    (dataset.root / "meta" / "info.json").write_text(json.dumps(info))
    text = inspect_dataset(open_dataset(dataset.root)).render()
    assert max(map(len, text.splitlines())) <= 88


def test_options_restrict_and_say_what_they_would_do(make_dataset):
    dataset = make_dataset([12, 15, 11, 14])
    text = inspect_dataset(dataset, episodes="0:2", cameras=["wrist"], stride=3, horizon=4).render()
    assert "episodes  2, 27 frames" in text
    assert "observation.images.front" not in text
    assert "With a stride of 3 frames, 22% of the frames have no partner." in text
    assert "With a horizon of 4, 22% of the chunks run over the end" in text
    assert "`stride`: expected a gap" in inspect_dataset(dataset, stride=9).render().replace("\n" + " " * 8, " ")
    with pytest.raises(LattokError, match="`columns`: expected one of action, .*, got 'joints'"):
        inspect_dataset(dataset, columns=["joints"])
    assert dataset.name + ": 4 episodes, 52 frames (5 s), 2 tasks, 2 cameras" in inspect_dataset(dataset).headline()
