"""Splits, which number their episodes by themselves."""

from __future__ import annotations

from lattok.data import with_cameras
from lattok.data.schema import same_split
from tests.data.memory import MemoryDataset


def test_splits(tmp_path):
    dataset = MemoryDataset(tmp_path / "source", [4, 1, 6])
    assert dataset.split is None
    dataset.split = "val"
    assert with_cameras(dataset, ["top"]).split == "val"
    assert all(same_split(*two) for two in (("a", "a"), ("a", None), (None, "a"), (None, None)))
    assert not same_split("a", "b")
