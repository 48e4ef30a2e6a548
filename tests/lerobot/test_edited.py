"""Labels after LeRobot's own tools went over an annotated dataset, which drop `meta/lattok.json`: still known."""

from __future__ import annotations

import importlib

import pytest

from lattok import annotate, open_dataset, verify
from tests.lerobot.common import Labeller

pytestmark = pytest.mark.lerobot


@pytest.fixture
def tools():
    return importlib.import_module("lerobot.datasets.dataset_tools")


def test_split_delete_and_merge_keep_what_is_known_of_the_labels(make_dataset, lerobot_dataset, tools, tmp_path):
    source = make_dataset([30, 31, 32, 33], name="source")
    models = {"tok": Labeller("actions")}
    models["tok"].action_dim = 3
    annotated = annotate(source, models, tmp_path / "annotated")
    whole = lerobot_dataset(annotated)
    parts = tools.split_dataset(whole, {"a": [0, 1], "b": [2, 3]}, output_dir=tmp_path / "parts")
    fewer = tools.delete_episodes(whole, [1], output_dir=tmp_path / "fewer", repo_id="me/fewer")
    merged = tools.merge_datasets(list(parts.values()), "me/merged", output_dir=tmp_path / "merged")
    for edited, episodes in ((parts["a"], 2), (parts["b"], 2), (fewer, 3), (merged, 4)):
        ours = open_dataset(edited.root)
        assert len(ours.episodes) == episodes
        assert not (edited.root / "meta" / "lattok.json").exists()
        found = verify(ours, models, episodes=episodes)
        assert found.holds, found
        assert "not annotated" not in str(found)
