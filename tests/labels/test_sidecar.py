"""Labels beside a dataset: they join its columns, belong to it or are refused, and are read lazily."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lattok.annotation import annotate
from lattok.data import Feature
from lattok.data.schema import Damage
from lattok.labels import Sidecar, with_labels
from lattok.types import LatentActions
from tests.annotation.fakes import FakeLAM
from tests.conftest import moving_square, put_video, write_dataset
from tests.data.memory import CAMERA, COLUMNS, MemoryDataset, labels_for
from tests.errors import refused


@pytest.fixture
def dataset(tmp_path):
    return MemoryDataset(tmp_path / "source", [4, 1, 6, 3, 5], encoded=True)


@pytest.fixture
def labels(dataset, tmp_path):
    return labels_for(dataset, tmp_path / "labels", missing=(3,))


def test_columns_of_both(dataset, labels):
    joined = with_labels(dataset, labels)
    assert joined.features == dataset.features | {
        "latent.codes": Feature("int64", (2,), None),
        "latent.valid": Feature("bool", (1,), None),
        "latent.embedding": Feature("float32", (3,), None),
    }
    for index, length, _ in dataset.episodes:
        got = joined.columns(index, ["latent.codes", "action", "latent.valid"])
        assert list(got) == ["latent.codes", "action", "latent.valid"]
        lost = index == 3
        expected = np.full((length, 2), -1) if lost else [[index, t] for t in range(length)]
        np.testing.assert_array_equal(got["latent.codes"], expected)
        np.testing.assert_array_equal(got["latent.valid"], (np.arange(length) < length - 1) & (not lost))
        np.testing.assert_array_equal(got["action"], dataset.values[index]["action"])
        for keys in (["latent.codes", "action"], ["action"], ["latent.codes"]):
            for checked in (False, True):
                read = dict(joined.columns_of(joined.episodes, keys, checked))[index]
                assert list(read) == keys
                for key in keys:
                    np.testing.assert_array_equal(read[key], joined.columns(index, [key])[key])
    assert joined.columns(2, ["latent.embedding"])["latent.embedding"].tolist() == [[1, 1, 1]] * 6
    with pytest.raises(KeyError):
        joined.columns(0, ["latent.nothing"])  # asked of the dataset


def test_everything_else_is_the_datasets_own(dataset, labels):
    joined = with_labels(dataset, labels)
    for name in ("kind", "root", "name", "robot", "fps", "tasks", "episodes", "cameras", "damaged"):
        assert getattr(joined, name) == getattr(dataset, name)
    np.testing.assert_array_equal(joined.frames(2, None, [5, 0]), dataset.frames(2, None, [5, 0]))
    assert joined.encoded_images(1, CAMERA) == dataset.jpegs[1]
    assert joined.files_of(4) == (dataset.root / "4.bin", labels / "labels" / "file-002.parquet")


def test_by_threads_and_other_processes(dataset, labels):
    joined = with_labels(dataset, labels)

    def codes(index):
        return joined.columns(index, ["latent.codes"])["latent.codes"].tolist()

    expected = [codes(episode.index) for episode in dataset.episodes]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(codes, [0, 1, 2, 3, 4] * 20)) == expected * 20
    again = pickle.loads(pickle.dumps(joined))
    assert again.columns(4, ["latent.codes"])["latent.codes"].tolist() == expected[4]


def test_an_episode_that_was_lost_since(dataset, labels):
    dataset.damaged = (Damage(2, "gone"),)
    dataset.episodes = tuple(episode for episode in dataset.episodes if episode.index != 2)
    assert with_labels(dataset, labels).columns(4, ["latent.codes"])["latent.codes"][0].tolist() == [4, 0]


def _shorter(dataset, labels):
    dataset.episodes = (*dataset.episodes[:2], dataset.episodes[2]._replace(length=5), *dataset.episodes[3:])


def _fewer(dataset, labels):
    dataset.episodes = dataset.episodes[:4]


def _more(dataset, labels):
    dataset.episodes = (*dataset.episodes, dataset.episodes[0]._replace(index=7))


def _renamed(dataset, labels):
    dataset.name = "other"


def test_labels_of_another_split(dataset, labels):
    path = labels / "meta/lattok.json"
    stored = json.loads(path.read_text())
    dataset.split = "val"
    assert with_labels(dataset, labels).name == "source"  # older versions did not say which one
    stored["latent"]["dataset"]["split"] = "train"
    path.write_text(json.dumps(stored))
    refused("of split `val`, got `latent` of split `train` in .* `source` with split='t", with_labels, dataset, labels)
    for split in ("train", None):
        dataset.split = split
        assert with_labels(dataset, labels).name == "source"


def _taken(dataset, labels):
    dataset.features["latent.valid"] = Feature("bool", (1,), None)


def test_files_that_were_renamed_or_replaced_are_told(tmp_path, capsys):
    """Films of one length: their number and lengths say nothing."""
    for name in "abc":
        put_video(tmp_path / "films" / f"{name}.mp4", moving_square(np.random.default_rng(ord(name)), 12), 10)
    lam = FakeLAM()
    lam.cameras = ("video",)
    lam.label_video = lambda frames, stride: LatentActions.of_latents(torch.zeros(sum(map(len, frames)), 1, 2))
    labels = annotate(tmp_path / "films", lam, tmp_path / "labels")
    (tmp_path / "films").rename(tmp_path / "moved")
    with_labels((tmp_path / "moved").rename(tmp_path / "films"), labels)  # where films lie is no matter
    put_video(tmp_path / "films/b.mp4", moving_square(np.random.default_rng(9), 12), 10)
    assert "have changed" not in capsys.readouterr().err
    with_labels(tmp_path / "films", labels)
    assert "files of 1 of 3 episodes of films (first: 1) have changed" in capsys.readouterr().err
    (tmp_path / "films/a.mp4").rename(tmp_path / "films/z.mp4")
    refused("made when what is episode 1 was episode 2", with_labels, tmp_path / "films", labels)


def _without(path):
    return lambda dataset, labels: (labels / path).unlink()


def _cut(dataset, labels):
    path = labels / "labels/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def _swapped(dataset, labels):
    one, other = labels / "labels/file-000.parquet", labels / "labels/file-001.parquet"
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def _twice(dataset, labels):
    (labels / "labels/file-003.parquet").write_bytes((labels / "labels/file-002.parquet").read_bytes())


def _rewritten(change, *files):
    def rewrite(dataset, labels):
        for path in [labels / "labels" / name for name in files] or sorted(labels.glob("labels/*")):
            pq.write_table(change(pq.read_table(path)), path)

    return rewrite


def _noted(table):
    return table.append_column("note", pa.array(["x"] * len(table)))


def _nested(table):
    """The type of such a column says the names of its parts."""
    return table.append_column("note", pa.array([{"a" * 3000: 1}] * len(table)))


def _declared(facts):
    def declare(dataset, labels):
        path = labels / "meta/lattok.json"
        stored = json.loads(path.read_text())
        stored["latent"]["columns"] = {name: COLUMNS[name] | facts.get(name, {}) for name in COLUMNS | facts}
        path.write_text(json.dumps(stored))

    return declare


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_shorter, r"expected labels of the 5 episodes of `source`, got 5 in .* episode 2 differs \(5 frames in the"),
        (_fewer, r"the 4 episodes .* got 5 .* episode 4 differs \(no such episode in the dataset, 5 frames labelled\)"),
        (_more, r"the 6 episodes .* got 5 .* episode 7 differs \(4 frames in the dataset, no such episode labelled\)"),
        (_renamed, "expected labels of `other`, got `latent` of `source` in .* add name='source'"),
        (_taken, "expected columns that are not there already, got `latent.valid` in .* Name a folder once"),
        (_without("meta/lattok.json"), "expected a folder with meta/lattok.json and labels/file-"),
        (_without("labels/file-001.parquet"), "the 5 episodes of `source`, got 3 in .* episode 2 differs"),
        (_cut, "file-001.parquet is no complete Parquet file"),
        (_swapped, "expected episodes in ascending order"),
        (_twice, "expected episodes in ascending order"),
        *(
            (
                _rewritten(lambda table, name=name: table.drop_columns([name]), file),
                f"{file}: expected episode_index, f",
            )
            for name in ("latent.valid", "frame_index")
            for file in ("file-001.parquet", "file-002.parquet")
        ),
        (_rewritten(_noted), "file-000.parquet: `note`: expected numbers or lists of one length, got string"),
        (_rewritten(_nested), r"`note`: expected numbers or lists of one length, got struct<a{53}\.$"),
        (lambda dataset, labels: (labels / "meta/lattok.json").write_text('{"latent": 5}'), "expected the columns"),
        (_declared({"latent.codes": {"shape": [3]}}), r"expected the columns that meta/lattok.json declares, got"),
        (_declared({"latent.codes": {"dtype": "int32"}}), r"got latent.codes int64\[2\], latent.valid bool\[1\]"),
    ],
)
def test_labels_of_something_else(dataset, labels, change, says):
    change(dataset, labels)
    refused(says, with_labels, dataset, labels)


def test_columns_as_they_are_declared(dataset, labels):
    """Shapes may have more axes than the columns."""
    _declared({"latent.embedding": {"shape": [1, 3]}})(dataset, labels)
    assert with_labels(dataset, labels).features["latent.embedding"].shape == (3,)


def test_episodes_that_have_no_labels_are_named(dataset, labels):
    sidecar = Sidecar(labels)
    assert sidecar.file_of(4).name == "file-002.parquet"
    assert sidecar.lengths.tolist() == [4, 1, 6, 3, 5]
    (labels / "labels/file-001.parquet").unlink()
    some = Sidecar(labels)
    assert some.episodes.tolist() == [0, 1, 4]
    assert some.columns(4, ["latent.codes"])["latent.codes"].tolist() == [[4, t] for t in range(5)]
    for wrong in (2, 3, 5, -1):
        refused("`episode_index`: expected an episode with labels in .*, got", some.columns, wrong, ["latent.codes"])


def test_the_datasets_own_columns_are_read_as_it_reads_them_best(dataset, labels):
    joined = with_labels(dataset, labels)
    dataset.columns_of = lambda episodes, keys, checked=True: iter([(2, dict.fromkeys(keys, checked))])
    assert list(joined.columns_of(dataset.episodes, ["action"], checked=False)) == [(2, {"action": False})]
    ((index, both),) = joined.columns_of(dataset.episodes, ["latent.valid", "action"])  # beside labels too
    assert (index, list(both), both["action"]) == (2, ["latent.valid", "action"], True)
    dataset.columns_of = dataset.columns = None  # not asked where only labels are
    assert len(list(joined.columns_of(dataset.episodes, ["latent.valid"]))) == len(dataset.episodes)
    assert joined.columns(2, []) == {}


def test_frames_out_of_order(dataset, labels):
    path = labels / "labels/file-001.parquet"
    table = pq.read_table(path)
    frame = table["frame_index"].to_numpy()[::-1].copy()
    pq.write_table(table.set_column(1, "frame_index", pa.array(frame)), path)
    joined = with_labels(dataset, labels)
    assert len(joined.columns(0, ["latent.valid"])["latent.valid"]) == 4
    refused("the frames of episode 2 are not in order", joined.columns, 2, ["latent.valid"])


def test_what_is_no_sidecar(dataset, labels, tmp_path):
    refused("got the LeRobot dataset .*Its labels", lambda: Sidecar(write_dataset(tmp_path / "d", [3], cameras=False)))
    refused("expected a folder with meta/lattok.json", Sidecar, tmp_path / "nothing")
    (labels / "meta/lattok.json").write_text(
        json.dumps({"latent": {"columns": COLUMNS}})
    )  # says of no dataset; lengths must do
    assert with_labels(dataset, labels).name == "source"
