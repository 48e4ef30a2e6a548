"""The unmodified `lerobot` package opens what lattok writes, and both read the same values and frames."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from tests.lerobot.common import same_values

pytestmark = pytest.mark.lerobot


def test_the_sample(lerobot_dataset, sample):
    same_values(sample, lerobot_dataset(sample.root), per_episode=2)


@pytest.mark.parametrize("codec", ["h264", "libsvtav1"])
def test_what_the_writer_writes(lerobot_dataset, make_dataset, codec):
    ours = make_dataset([12, 7, 30, 1, 9], data_file_mb=0.004, video_file_mb=0.001, chunk_files=2, video_codec=codec)
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=40)
    assert theirs.meta.total_episodes == 5
    assert list(theirs.meta.tasks.index) == list(ours.tasks)
    windowed = lerobot_dataset(ours.root, episodes=[1, 2], delta_timestamps={"action": [0.0, 0.1, 0.2]})
    assert windowed[0]["action"].shape == (3, 3)


def test_statistics_equal_those_that_lerobot_computes(lerobot_dataset, make_dataset):
    ours = make_dataset([40, 25])
    theirs = lerobot_dataset(ours.root)
    compute = importlib.import_module("lerobot.datasets.compute_stats")
    episodes = []
    for episode in ours.episodes:
        columns = ours.columns(episode.index, ["action", "reward", "timestamp", "index"])
        features = {key: {"dtype": str(values.dtype)} for key, values in columns.items()}
        episodes.append(compute.compute_episode_stats(columns, features))
    expected = compute.aggregate_stats(episodes)
    for key, stats in expected.items():
        for name, value in stats.items():
            # LeRobot takes quantiles from a histogram
            tolerance = 0.25 * np.ptp([stats["min"], stats["max"]]) if name.startswith("q") else 1e-5
            np.testing.assert_allclose(theirs.meta.stats[key][name], value, atol=tolerance, err_msg=f"{key} {name}")
    assert set(theirs.meta.stats) == set(ours.features)
    assert theirs.meta.stats[ours.cameras[0]]["mean"].shape == (3, 1, 1)
