"""Export to RLDS: read back by our own reader, by protobuf, and by TFDS where it is installed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattok.cli import main
from lattok.data import Feature, export, open_dataset
from lattok.data.formats.rlds_meta import described, record_names
from lattok.data.formats.rlds_writer import RLDSWriter
from lattok.data.formats.tfrecord import RecordFile, encode_example, framed
from lattok.data.schema import INDEX_KEYS
from lattok.labels import with_labels
from lattok.utils.checks import LattokError
from tests.conftest import CAMERAS, write_dataset
from tests.data.memory import CAMERA, MemoryDataset, labels_for
from tests.errors import refused


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("rlds") / "source", [6, 4, 7]))


def test_nothing_is_lost(source, tmp_path, monkeypatch):
    monkeypatch.setattr("lattok.data.formats.rlds_writer.SHARD_BYTES", 1000)  # every episode a file
    done = export(source, tmp_path / "My-Arm", format="rlds", episodes=[2, 0])
    assert done == (tmp_path / "My-Arm", (0, 2), 13, ())
    again = open_dataset(tmp_path / "My-Arm")
    assert (again.name, again.fps, again.left_out) == ("my_arm", 10, {})
    assert [path.name for path in sorted((tmp_path / "My-Arm/1.0.0").glob("*tfrecord*"))] == [
        f"my_arm-train.tfrecord-{i:05d}-of-00002" for i in range(2)
    ]
    assert again.cameras == CAMERAS
    keys = [key for key in source.features if key not in (*INDEX_KEYS, *CAMERAS, "reward")]
    for index, theirs in enumerate((0, 2)):
        assert again.episodes[index].tasks == source.episodes[theirs].tasks
        values = again.columns(index, keys)
        for key, expected in source.columns(theirs, keys).items():
            np.testing.assert_array_equal(values[key], expected, err_msg=key)
        reward = source.columns(theirs, ["reward"])["reward"].astype("f4")  # RLDS has no doubles
        np.testing.assert_array_equal(again.columns(index, ["next.reward"])["next.reward"], reward)
        np.testing.assert_array_equal(again.frames(index), source.frames(theirs))
    facts = json.loads((tmp_path / "My-Arm/1.0.0/lattok.json").read_text())
    assert facts["export"]["episodes"] == [0, 2]


def test_stored_images_labels_and_other_shapes_are_kept(tmp_path):
    stored = MemoryDataset(tmp_path / "source", [4, 1, 6], encoded=True)
    labelled = with_labels(stored, labels_for(stored, tmp_path / "labels"))
    export(labelled, tmp_path / "out", format="rlds")
    again = open_dataset(tmp_path / "out")
    assert again.features["pose"].shape == (2, 2)
    for index in range(3):
        assert again.encoded_images(index, CAMERA) == stored.jpegs[index]
        for key in ("action", "flags", "pose", *(name for name in labelled.features if name.startswith("latent."))):
            expected = labelled.columns(index, [key])[key]
            np.testing.assert_array_equal(again.columns(index, [key])[key], expected, err_msg=key)


def test_tfds_reads_the_same(source, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    export(source, tmp_path / "arm", format="rlds")
    for index, episode in enumerate(tfds.builder_from_directory(tmp_path / "arm/1.0.0").as_dataset(split="train")):
        steps = list(episode["steps"].as_numpy_iterator())
        np.testing.assert_array_equal([step["action"] for step in steps], source.columns(index, ["action"])["action"])
        fronts = [step["observation"]["front"] for step in steps]
        np.testing.assert_array_equal(fronts, source.frames(index, [CAMERAS[0]])[:, 0])
        assert {step["language_instruction"].decode() for step in steps} == set(source.episodes[index].tasks)


VALUES = st.lists(st.integers(-(2**63), 2**63 - 1)).map(lambda items: np.array(items, dtype=np.int64))
FLOATS = st.lists(st.floats(width=32, allow_nan=False)).map(lambda items: np.array(items, dtype=np.float32))


@given(st.dictionaries(st.text(max_size=9), VALUES | FLOATS | st.lists(st.binary())))
def test_examples_are_what_protobuf_reads(tmp_path_factory, values):
    protobuf = pytest.importorskip("tfrecord").example_pb2
    data = encode_example(values)
    theirs = protobuf.Example.FromString(data).features.feature
    assert set(theirs) == set(values)
    for name, items in values.items():
        np.testing.assert_array_equal(list(getattr(theirs[name], theirs[name].WhichOneof("kind")).value), list(items))
    path = tmp_path_factory.getbasetemp() / "written.tfrecord"
    path.write_bytes(b"".join(framed(data)))
    with RecordFile(path).example(0) as read:  # checks both checksums
        assert set(read.places) == set(values)


def test_names_that_get_in_each_others_way():
    number, picture = Feature("float32", (2,), None), Feature("image", (4, 4, 3), None)
    features = {"action": number, "action.gripper": number, "observation.images.state": picture}
    features |= {"observation.state": number, "next.reward": number, "front": picture}
    names = record_names(features)
    assert names == {
        "action": "action",
        "action.gripper": "action_gripper",
        "observation.images.state": "observation/state_image",
        "observation.state": "observation/state",
        "next.reward": "reward",
        "front": "observation/front",
    }
    tree = described(features, names)["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    assert tree["featuresDict"]["features"]["observation"]["featuresDict"]["features"].keys() == {
        "state",
        "state_image",
        "front",
    }


def test_cameras_that_lie_in_each_other_and_names_that_become_one():
    number, picture = Feature("float32", (2,), None), Feature("image", (4, 4, 3), None)
    cameras = ("observation.images.a", "observation.images.a.b", "a")
    names = record_names(dict.fromkeys(cameras, picture))
    assert list(names.values()) == ["observation/a", "observation/a_b", "observation/a_image"]
    described(dict.fromkeys(cameras, picture), names)
    for pair in (("reward", "next.reward"), ("x", "x.y", "x_y")):
        refused("`features`: expected different names in RLDS, not '.*'", record_names, dict.fromkeys(pair, number))


def test_what_is_begun_is_whole_or_not_there(source, tmp_path):
    out = tmp_path / "out"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(source, out, format="rlds", progress=stop)
    assert not out.exists()
    with pytest.raises(LattokError, match="nothing to write"), RLDSWriter.create(out, 10, {}):
        pass
    assert not out.exists()
    writer = RLDSWriter.create(out, 10, {})
    writer.__enter__()  # and killed
    (out / "1.0.0" / "0").write_bytes(b"half")
    export(source, out, format="rlds")
    assert sorted(path.name for path in out.iterdir()) == ["1.0.0"]
    assert not (out / "1.0.0" / "0").exists()
    refused("`out`: expected a new or empty folder", export, source, out, format="rlds")


def test_one_line_for_what_does_not_fit(source, tmp_path, capsys):
    refused("`format`: expected one of lerobot, rlds, got 'tfds'", export, source, tmp_path / "out", format="tfds")
    refused("`images`: expected one of auto, image", export, source, tmp_path / "out", format="rlds", images="video")
    arguments = ["export", str(source.root), "--out", str(tmp_path / "out"), "--format", "rlds", "--episodes", "0:1"]
    assert main(arguments) == 0
    assert "Exported 1 episode, 6 frames" in capsys.readouterr().out
    (tmp_path / "out/1.0.0/lattok.json").write_text('{"fps": "ten"}')
    refused("`fps` of `.*lattok.json`: expected a number greater than 0, got 'ten'", open_dataset, tmp_path / "out")
    (tmp_path / "out/1.0.0/lattok.json").write_text('{"fps": 1e308}')
    refused("`fps` of `.*lattok.json`: expected frames per second between 1e-6 and 1e6", open_dataset, tmp_path / "out")
