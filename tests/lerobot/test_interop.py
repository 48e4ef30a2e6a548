"""The unmodified `lerobot` package opens what lattok writes, and both read the same values and frames."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.annotation import annotate
from lattok.data import LeRobotV3, open_dataset
from lattok.types import LatentActions

pytestmark = pytest.mark.lerobot


@pytest.fixture(scope="module")
def lerobot_dataset():
    """LeRobot's class, offline and with the decoder that every machine has."""
    pytest.importorskip("lerobot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
        yield lambda root, **options: module.LeRobotDataset("org/name", root=root, video_backend="pyav", **options)


class Labeller:
    """Labels that can be told from the frame they belong to."""

    cameras = ("corner2",)
    horizon = 8
    action_dim = 4

    def __init__(self, source: str):
        self.label_source = source

    def stride_frames(self, fps):
        return 16

    def resize(self, frames):
        return frames[:, ::8, ::8]

    def label_video(self, frames, stride):
        frames = np.concatenate(list(frames))  # an episode comes in pieces
        return self._labels(torch.from_numpy(frames.astype(np.float32)).mean((1, 2, 3, 4)))

    def latent_actions(self, chunks, valid=None):
        return self._labels(chunks[:, 0, 0])

    def describe(self):
        return {"type": "test"}

    def _labels(self, value):
        latents = value[:, None, None].repeat(1, 4, 3)
        return LatentActions((value[:, None] * 10).round().long().repeat(1, 4), latents, latents)


def same_values(ours: LeRobotV3, theirs, per_episode: int) -> None:
    """All columns of all rows, and some frames of every episode."""
    assert len(theirs) == sum(e.length for e in ours.episodes)
    assert theirs.fps == ours.fps
    columns = [key for key in ours.features if key not in ours.cameras]
    table = theirs.hf_dataset.with_format("arrow")[:]
    start = 0
    for episode in ours.episodes:
        rows = slice(start, start + episode.length)
        for key, values in ours.columns(episode.index, columns).items():
            expected = np.array(table[key][rows].to_pylist(), dtype=values.dtype)
            np.testing.assert_array_equal(values, expected, err_msg=key)
        chosen = np.unique(np.linspace(0, episode.length - 1, per_episode).astype(int))
        frames = ours.frames(episode.index, indices=chosen)
        for i, t in enumerate(chosen.tolist()):
            item = theirs[start + t]
            assert item["task"] == episode.tasks[0]
            for v, key in enumerate(ours.cameras):
                image = (item[key] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(image, frames[i, v])
        start += episode.length


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


def test_the_annotated_sample(lerobot_dataset, sample, tmp_path: Path):
    models = {"latent": Labeller("video"), "tok": Labeller("actions")}
    ours = open_dataset(annotate(sample, models, tmp_path / "out", quantized=True))
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=2)
    old = lerobot_dataset(sample.root)
    before, after = old.hf_dataset.with_format("arrow")[:], theirs.hf_dataset.with_format("arrow")[:]
    assert after.select(before.column_names).equals(before)
    item = theirs[100]
    assert item["latent.codes"].shape == (4,)
    assert item["latent.codes"].dtype == torch.int64
    assert item["latent.embedding"].shape == (12,)
    assert item["latent.valid"].dtype == torch.bool
    assert item["tok.codes"][0] == (item["action"][0] * 10).round()
    windowed = lerobot_dataset(ours.root, delta_timestamps={"latent.codes": [0.0, 1 / 80, 2 / 80]})
    assert windowed[0]["latent.codes"].shape == (3, 4)


def test_the_annotated_sample_opens_in_plain_datasets(sample, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    out = annotate(sample, {"tok": Labeller("actions")}, tmp_path / "out")
    files = [str(path) for path in sorted((out / "data").rglob("*.parquet"))]
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert len(table) == 4059
    assert len(table[0]["tok.codes"]) == 4
