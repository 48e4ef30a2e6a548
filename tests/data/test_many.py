"""Very many files: rows are read when they are drawn, and a sample speaks for all, which is said."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.data import many, open_dataset
from lattok.data.content import content_of
from lattok.data.vectors import Vectors
from lattok.samples import ActionWindows, FramePairs, PolicyWindows, WindowOptions
from lattok.samples.frame_pairs import PairLabels
from tests.data.formats.test_lerobot_v2 import write_v21
from tests.errors import refused

LENGTHS = [12, 9, 15, 10, 11, 13, 8, 14]


@pytest.fixture
def old(make_dataset, tmp_path):
    return write_v21(tmp_path / "old", make_dataset(LENGTHS))


@pytest.fixture
def few(monkeypatch):
    """Eight files are very many, and three speak for them."""

    def patch() -> None:
        monkeypatch.setattr(many, "MANY", 4)
        monkeypatch.setattr(many, "SAMPLE", 3)

    return patch


def set_action(root, index: int, values: np.ndarray) -> None:
    path = root / f"data/chunk-000/episode_{index:06d}.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array([*values.astype(np.float32)])), path)


TARGETS: list[Any] = ["first", "mean", "chunk"]
SAMPLES: dict[str, Any] = {
    "chunks": lambda dataset: ActionWindows(dataset, 4, missing=True),
    "policy": lambda dataset: PolicyWindows(dataset, WindowOptions(4, 16, gaps=(2,), states_around=True)),
    **{
        target: lambda dataset, target=target: FramePairs(
            dataset, 3, labels=PairLabels(action_target=target, action_steps=2 if target == "chunk" else 1)
        )
        for target in TARGETS
    },
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_are_the_same_whether_they_are_read_at_once_or_when_they_are_drawn(old, few, kind):
    whole = SAMPLES[kind](open_dataset(old))
    few()
    dataset = open_dataset(old)
    lazy = SAMPLES[kind](dataset)
    column = lazy._windows._column if kind == "policy" else lazy._column
    assert 3 <= (~column._unread).sum() < 8
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    for rows in order.split(7):
        for one, other in zip(whole.batch(rows), lazy.batch(rows), strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6 if kind == "mean" else 0)
            else:
                assert one is other is None or one == other
    assert not column._unread.any()


def test_unknown_actions_are_read_at_once_or_refused(old, few):
    unknown = np.full((LENGTHS[0], 3), np.nan)
    few()
    sample = {episode.index for episode in many.sample_of(open_dataset(old), open_dataset(old).episodes)}
    inside, outside = min(sample), min({*range(8)} - sample)
    set_action(old, outside, unknown[: LENGTHS[outside]].repeat(2, 0)[: LENGTHS[outside]])
    dataset = open_dataset(old)
    column = Vectors(dataset, "key", "action", dataset.episodes, missing=True)
    refused(f"NaN in all of episode {outside}", column.all)
    set_action(old, inside, np.full((LENGTHS[inside], 3), np.nan))
    dataset = open_dataset(old)
    column = Vectors(dataset, "key", "action", dataset.episodes, missing=True)
    assert column.whole
    assert np.isnan(column.all()).all(1).sum() == LENGTHS[inside] + LENGTHS[outside]


def test_content_is_of_the_sample_and_of_what_is_known_of_all(old, few):
    few()
    dataset = open_dataset(old)
    sample = {episode.index for episode in many.sample_of(dataset, dataset.episodes)}
    before = content_of(dataset, dataset.episodes, (), dataset.cameras)
    assert before.actions == before.videos == {}
    set_action(old, min(sample), np.ones((LENGTHS[min(sample)], 3)))
    changed = content_of(open_dataset(old), dataset.episodes, (), dataset.cameras)
    path = old / "meta/episodes_stats.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[min({*range(8)} - sample)]["stats"]["action"]["max"][0] += 1
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    again = content_of(open_dataset(old), dataset.episodes, (), dataset.cameras)
    assert len({before.digest, changed.digest, again.digest}) == 3


@pytest.mark.parametrize("kind", ["action-vq", "vla"])
def test_training_says_what_a_sample_decided(old, few, tmp_path, capsys, kind):
    few()
    out, dataset = tmp_path / "run", open_dataset(old)
    options = {"steps": 2, "batch_size": 4, "episodes": "0:8", "horizon": 4, "normalize": "mean_std", "device": "cpu"}
    if kind == "vla":
        options |= {"strategy": "baseline"}
        model = lattok.train(lattok.VLARecipe.from_preset(str(old), out, "scratch", **options))
        normalizer = model.action_normalizer
    else:
        model = lattok.train(lattok.ActionVQRecipe.from_preset(str(old), out, "quick", **options))
        normalizer = model.normalizer
    sample = [episode.index for episode in many.sample_of(dataset, dataset.episodes)]
    rows = np.concatenate([dataset.actions(index) for index in sample]).astype(np.float64)
    np.testing.assert_allclose(normalizer.shift.numpy(), rows.mean(0), rtol=1e-5, atol=1e-6)
    assert (model.trained_on or {})["sample"] == {"episodes": 3, "of": 8}
    assert "3 of 8 episodes, drawn at random" in capsys.readouterr().err
