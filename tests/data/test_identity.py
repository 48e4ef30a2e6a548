"""What makes a dataset another one to runs that shall go on from the same one."""

from __future__ import annotations

import pytest

from lattok.data import Feature, declare, with_actions, with_cameras
from lattok.data.identity import dataset_hash, same_split, split_of
from tests.data.memory import MemoryDataset

SPACE = [{"part": "position", "axes": ["x", "y"]}]
TURNED = [{"part": "position", "axes": ["y", "x"]}]


@pytest.fixture
def dataset(tmp_path):
    return MemoryDataset(tmp_path / "source", [4, 1, 6])


def _set(**values):
    def change(dataset):
        vars(dataset).update(values)
        return dataset

    return change


def _episode(**values):
    def change(dataset):
        dataset.episodes = (dataset.episodes[0]._replace(**values), *dataset.episodes[1:])
        return dataset

    return change


CHANGES = {
    "name": _set(name="other"),
    "kind": _set(kind="hdf5"),
    "fps": _set(fps=10.0),
    "split": _set(split="val"),
    "length": _episode(length=5),
    "index": _episode(index=7),
    "caption": _episode(tasks=("pull",)),
    "cameras": lambda dataset: with_cameras(dataset, {"front": "top"}),
    "meaning": lambda dataset: declare(dataset, {"action": SPACE}),
    "another meaning": lambda dataset: declare(dataset, {"action": TURNED}),
    "conversion": lambda dataset: with_actions(declare(dataset, {"action": SPACE}), TURNED),
}


def test_every_change_is_another_dataset(tmp_path):
    fresh = {name: MemoryDataset(tmp_path / "source", [4, 1, 6]) for name in ("same", *CHANGES)}
    hashes = {name: dataset_hash(CHANGES.get(name, _set())(dataset)) for name, dataset in fresh.items()}
    assert len(set(hashes.values())) == len(CHANGES) + 1, hashes


def test_the_folder_and_its_files_are_not_looked_at(dataset, tmp_path):
    before = dataset_hash(dataset)
    dataset.root = tmp_path / "elsewhere"
    dataset.features["more"] = Feature("float32", (1,), None)
    assert dataset_hash(dataset) == before


def test_splits(dataset):
    assert split_of(dataset) is None
    dataset.split = "val"
    assert split_of(with_cameras(dataset, ["top"])) == "val"
    assert all(same_split(*two) for two in (("a", "a"), ("a", None), (None, "a"), (None, None)))
    assert not same_split("a", "b")
