"""RLDS datasets: what is offered equals an independent read, numbering is stable, and damage is named."""

import io
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lattok.data import Feature, open_dataset, read_vectors
from lattok.data.formats.rlds import RLDS
from lattok.data.formats.rlds_meta import control_rate
from lattok.data.schema import INDEX_FEATURES
from lattok.samples import ActionWindows, FramePairs
from lattok.utils.checks import LattokError
from tests.data.memory import encode_image
from tests.data.rlds_sample import (
    METADATA,
    STEPS,
    describe,
    episode,
    example,
    features_dict,
    image,
    open_rlds,
    record,
    sequence,
    shard_path,
    tensor,
    text,
    write_rlds,
)
from tests.errors import refused
from tests.real import BRIDGE, needs_real

LENGTHS = (4, 6, 5)


@pytest.fixture
def toy(tmp_path) -> RLDS:
    return open_rlds(write_rlds(tmp_path / "toy", LENGTHS))


def one_record(root: Path, steps: dict, values: dict) -> RLDS:
    """A dataset of one episode with these features."""
    describe(root, [1], steps)
    shard_path(root, 0, 1).write_bytes(record(example(values)))
    return open_rlds(root)


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@needs_real
def test_the_real_bridge_sample_equals_protobuf():
    protobuf = pytest.importorskip("tfrecord")
    dataset = open_dataset(BRIDGE)
    assert isinstance(dataset, RLDS)
    assert (dataset.kind, dataset.name, dataset.fps, len(dataset.episodes)) == ("rlds", "bridge_dataset", 5, 25)
    assert dataset.cameras == tuple(f"observation.images.image_{i}" for i in range(4))
    assert dataset.features["action"] == Feature("float32", (7,), None)
    assert dataset.damaged == ()
    assert len(dataset.tasks) == 4
    (path,) = dataset.files_of(0)
    for index, data in enumerate(protobuf.tfrecord_iterator(str(path))):
        expected = protobuf.example_pb2.Example.FromString(bytes(data)).features.feature
        got = dataset.columns(index, ["action", "observation.state", "is_last", "language_embedding"])
        floats = {"action": "action", "observation.state": "observation/state", "language_embedding": None}
        for key, name in floats.items():
            values = np.array(expected[f"steps/{name or key}"].float_list.value, dtype="f4").reshape(10, -1)
            np.testing.assert_array_equal(got[key], values)
        assert got["is_last"].tolist() == list(map(bool, expected["steps/is_last"].int64_list.value))
        instructions = expected["steps/language_instruction"].bytes_list.value
        assert dataset.episodes[index] == (index, 10, (instructions[0].decode(),))
        frames = dataset.frames(index)
        for camera in range(4):
            stored = expected[f"steps/observation/image_{camera}"].bytes_list.value
            assert dataset.encoded_images(index, dataset.cameras[camera]) == list(stored)
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in stored])
            np.testing.assert_array_equal(frames[:, camera], pixels)


@needs_real
def test_training_windows_of_the_real_sample():
    dataset = open_dataset(BRIDGE)
    assert ActionWindows(dataset, 8).batch(__import__("torch").arange(3)).chunks.shape == (3, 8, 7)
    pairs = FramePairs(dataset, 2, ["image_0"], episodes=[0, 5], state_key="observation.state")
    assert pairs.frames.shape == (20, 1, 64, 64, 3)


def test_features_of_the_toy(toy):
    assert {key: toy.features[key] for key in toy.features if key not in INDEX_FEATURES} == {
        "action": Feature("float32", (3,), None),
        "is_first": Feature("bool", (1,), None),
        "is_last": Feature("bool", (1,), None),
        "language_instruction": Feature("string", (1,), None),
        "next.reward": Feature("float32", (1,), None),
        "observation.images.image": Feature("image", (24, 32, 3), None),
        "observation.images.wrist": Feature("image", (8, 10, 3), None),
        "observation.joints.left": Feature("int32", (2, 2), None),
        "observation.state": Feature("float64", (2,), None),
    }
    assert toy.left_out == {
        "steps/tags": "a sequence of its own in every step (ragged)",
        "steps/observation/depth": "an image of uint16 [24, 32, 1], not RGB",
        "steps/observation/packed": "its encoding is jpeg",
        "episode_metadata/file_path": "one value for the whole episode",
        "episode_metadata/episode_id": "one value for the whole episode",
    }
    assert toy.episodes == ((0, 4, ("lift the cup",)), (1, 6, ("öffne die Tür",)), (2, 5, ("lift the cup",)))
    assert toy.tasks == ("lift the cup", "öffne die Tür")
    assert repr(toy) == "RLDS('toy_arm', 3 episodes, 15 frames, 5 fps)"


def test_values_of_the_toy(toy):
    for index, length in enumerate(LENGTHS):
        expected = episode(index, length)
        keys = [key for key in toy.features if key not in toy.cameras and key not in INDEX_FEATURES]
        got = toy.columns(index, keys)
        assert {key: str(values.dtype) for key, values in got.items() if key != "language_instruction"} == {
            key: toy.features[key].dtype for key in keys if key != "language_instruction"
        }
        for key, values in got.items():
            raw = expected["steps/" + key.removeprefix("next.").replace(".", "/")]
            assert values.tolist() == ([item.decode() for item in raw] if isinstance(raw, list) else raw.tolist())
            values[0] = values[-1]  # an array of the caller's own
        wrist = [np.asarray(Image.open(io.BytesIO(png))) for png in expected["steps/observation/wrist"]]
        chosen = [3, 0, 3]
        np.testing.assert_array_equal(toy.frames(index, ["wrist"], chosen)[:, 0], np.stack(wrist)[chosen])
        small = toy.frames(index, transform=lambda block: block[:, :8, :10])
        np.testing.assert_array_equal(small[:, 1], wrist)


def test_columns_that_say_where_a_row_is(toy):
    got = toy.columns(1, list(INDEX_FEATURES))
    assert {key: str(values.dtype) for key, values in got.items()} == {k: f.dtype for k, f in INDEX_FEATURES.items()}
    np.testing.assert_allclose(got["timestamp"], np.arange(6) / 5)
    assert got["frame_index"].tolist() == list(range(6))
    assert set(got["episode_index"].tolist()) == set(got["task_index"].tolist()) == {1}


def test_encoded_images_keep_to_their_cameras(toy):
    stored = {name: episode(1, 6)[f"steps/observation/{name}"] for name in ("image", "wrist")}
    assert toy.encoded_images(1, "observation.images.wrist") == stored["wrist"]
    swapped = open_rlds(toy.root, cameras={"wrist": "image", "image": "wrist"})
    assert swapped.encoded_images(1, "observation.images.wrist") == stored["image"]


def test_wrong_arguments(toy):
    for read in (toy.columns, toy.unchecked_columns):
        refused(r"`keys`: expected columns among action, .*, task_index, got 'actoin'", read, 0, ["actoin"])
    refused(r"`keys`: expected columns", toy.columns, 0, ["observation.images.image"])
    refused(r"`episode_index`: expected an episode of `toy_arm` \(0 to 2\), got 3", toy.columns, 3, ["action"])
    refused(r"`indices`: expected frame indices from 0 to 3", toy.frames, 0, ["image"], [4])
    refused(r"`cameras`: expected frames of one size, got 24x32x3 .* and 8x10x3", toy.frames, 0)


def test_control_rates(tmp_path):
    assert control_rate("bridge_dataset") == 5
    assert control_rate("austin_buds_dataset_converted_externally_to_rlds") == 20
    assert control_rate("unheard_of") is None
    root = write_rlds(tmp_path / "toy", [3])
    refused(r'`fps`: .* of toy_arm, .* got none\. Write .*\{"dataset": ".*", "fps": 5\}', open_dataset, root)
    assert open_rlds(root, fps=12.5).fps == 12.5
    refused("`fps`: expected a number greater than 0", open_rlds, root, fps=0)


def test_episodes_are_numbered_over_all_files(tmp_path):
    root = write_rlds(tmp_path / "toy", (3, 4, 5, 6, 7, 8), shards=(2, 1, 3))
    dataset = open_rlds(root)
    assert [e.length for e in dataset.episodes] == [3, 4, 5, 6, 7, 8]
    assert [dataset.files_of(i)[0].name[-14:-9] for i in range(6)] == ["00000", "00000", "00001", *["00002"] * 3]
    for i, e in enumerate(dataset.episodes):
        np.testing.assert_array_equal(dataset.columns(i, ["action"])["action"], episode(i, e.length)["steps/action"])


def test_a_broken_header_keeps_the_numbers_of_later_files(tmp_path):
    root = write_rlds(tmp_path / "toy", (3, 4, 5, 6), shards=(3, 1))
    path = shard_path(root, 0, 2)
    flip(path, len(record(example(episode(0, 3)))))  # the length of the second record
    dataset = open_rlds(root)
    assert [e.index for e in dataset.episodes] == [0, 3]
    assert [d.episode_index for d in dataset.damaged] == [1, 2]
    assert dataset.damaged[0].reason == f"{path}: record 1: the checksum of its length is wrong. Copy the file again."
    np.testing.assert_array_equal(dataset.columns(3, ["next.reward"])["next.reward"], episode(3, 6)["steps/reward"])
    refused(r"episode 2: .*record 1: the checksum of its length is wrong", dataset.columns, 2, ["action"])


def test_a_broken_payload_is_found_when_it_is_read(tmp_path):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    path = shard_path(root, 0, 1)
    data = path.read_bytes()
    flip(path, data.index(episode(1, 6)["steps/observation/image"][2]) + 200)
    dataset = open_rlds(root)
    assert [e.index for e in dataset.episodes] == [0, 1, 2]
    says = re.escape(f"{path}: record 1 (episode 1): the checksum of its data is wrong")
    for read in (lambda: dataset.columns(1, ["next.reward"]), lambda: dataset.frames(1, ["wrist"], [0])) * 2:
        refused(says, read)
    assert dataset.columns(0, ["next.reward"])["next.reward"].shape == (4,)
    assert dataset.frames(2, ["image"]).shape == (5, 1, 24, 32, 3)
    fresh = open_rlds(root)  # where pictures are decoded, numbers may leave it to them to read it all
    assert read_vectors(fresh, "key", "action", fresh.episodes, checked=False).shape == (15, 3)
    refused(says, read_vectors, fresh, "key", "action", fresh.episodes)


@pytest.mark.parametrize(("cut", "says"), [(10, "the file ends early"), (None, "the file ends after 2 records")])
def test_a_truncated_file(tmp_path, cut, says):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    path = shard_path(root, 0, 1)
    path.write_bytes(path.read_bytes()[: -(cut or len(record(example(episode(2, 5)))))])
    dataset = open_rlds(root)
    assert len(dataset.episodes) == 2
    assert [d.episode_index for d in dataset.damaged] == [2]
    assert f"record 2: {says}" in dataset.damaged[0].reason


def test_more_records_than_said_and_missing_files(tmp_path):
    root = write_rlds(tmp_path / "toy", LENGTHS, shards=(1, 2))
    path = shard_path(root, 1, 2)
    content = path.read_bytes()
    path.write_bytes(content + record(b""))
    refused(r"00001-of-00002: expected 2 records as dataset_info\.json says, got more", open_rlds, root)
    path.write_bytes(b"\0" * len(content))
    assert len(open_rlds(root).damaged) == 2
    path.unlink()
    refused(r"1 of 2 files of split `train` are missing: toy_arm.*00001-of-00002\. Copy", open_rlds, root)
    refused(r"`split`: expected one of train of .*, got 'test'", open_rlds, root, split="test")


def test_nothing_readable_at_all(tmp_path):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    path = shard_path(root, 0, 1)
    content = path.read_bytes()
    path.write_bytes(b"PK" + content[2:])
    refused(r"no episode of split `train` can be read: .*record 0: the checksum of", open_rlds, root)
    path.write_bytes(record(content))  # no example
    describe(root, [1])
    refused(r"no episode of split `train` can be read: .*record 0 \(episode 0\): byte", open_rlds, root)


def test_features_that_disagree_on_the_length(tmp_path):
    values = episode(0, 4)
    values["steps/reward"] = values["steps/reward"][:3]
    values["steps/observation/image"] = values["steps/observation/image"][:2]
    dataset = one_record(tmp_path / "d", STEPS, values)
    assert dataset.columns(0, ["action"])["action"].shape == (4, 3)
    refused(r"`steps/reward`: expected 4 values \(4 steps of 1\), got 3", dataset.columns, 0, ["action", "next.reward"])
    refused(r"\(episode 0\): `steps/observation/image`: expected 4 values", dataset.frames, 0, ["image"])


def test_features_json_of_another_dataset(tmp_path):
    values = episode(0, 4)
    del values["steps/reward"]
    refused(r"episode 0 has no steps/reward, which features\.json promises", one_record, tmp_path / "d", STEPS, values)
    steps = STEPS | {"reward": tensor("int64")}
    refused(r"`steps/reward`", lambda: one_record(tmp_path / "d", steps, episode(0, 4)).columns(0, ["next.reward"]))
    steps = STEPS | {"is_last": tensor("uint8"), "is_first": tensor("bool")}
    values = episode(0, 4) | {"steps/is_last": np.array([0, 255, 256, -1])}
    refused(r"`steps/is_last` holds numbers", lambda: one_record(tmp_path / "d", steps, values).columns(0, ["is_last"]))


def test_action_dictionaries_and_names(tmp_path):
    steps = {
        "action": features_dict(
            {"world_vector": tensor("float32", 3), "gripper": tensor("bool"), "open": tensor("bool", 1)}
        ),
        "observation": features_dict(
            {"natural_language_instruction": text(), "cams": features_dict({"a": image(8, 8, 3)})}
        ),
        "image": image(8, 8, 3),
        "timestamp": tensor("float32"),
        "label": {"pythonClassName": "…ClassLabel", "class_label": {"numClasses": "3"}},
        "bits": tensor("uint64"),
        "sound": {"python_class_name": "tensorflow_datasets.core.features.audio_feature.Audio", "audio": {}},
        "any": tensor("float32", 2, -1),
    }
    pixels = [encode_image(np.full((8, 8, 3), i, "u1"), "PNG") for i in range(2)]
    values = {
        "steps/action/world_vector": np.arange(6, dtype="f4"),
        "steps/action/gripper": np.array([0, 1]),
        "steps/action/open": np.array([1, 0]),
        "steps/observation/natural_language_instruction": [b"", b"pick \xff"],
        "steps/observation/cams/a": pixels,
        "steps/image": pixels,
        "steps/timestamp": np.zeros(2, dtype="f4"),
        "steps/label": np.array([2, 0]),
        "steps/bits": np.array([1, -1]),
    }
    dataset = one_record(tmp_path / "d", steps, values)
    assert dataset.cameras == ("observation.images.cams.a", "observation.images.image")
    assert dataset.episodes == ((0, 2, ("pick �", "")),)
    assert dataset.columns(0, ["task_index"])["task_index"].tolist() == [1, 0]
    assert dataset.left_out["steps/timestamp"] == "its key timestamp is taken"
    assert dataset.left_out["steps/sound"] == "features of the kind Audio are not read"
    assert dataset.left_out["steps/any"] == "its shape is not fixed"
    got = dataset.columns(0, ["action.world_vector", "action.gripper", "action.open", "label", "bits"])
    assert got["action.world_vector"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["action.gripper"].tolist() == [False, True]
    assert got["action.open"].tolist() == [True, False]  # shape (1,) is a scalar column
    assert got["label"].tolist() == [2, 0]
    assert got["bits"].tolist() == [1, 2**64 - 1]


def test_instructions_of_the_whole_episode(tmp_path):
    steps = {"action": tensor("float32", 1), "language_instruction_2": text(), "note": text()}
    values = {"steps/action": np.zeros(2, "f4"), "steps/language_instruction_2": [b"b"] * 2, "steps/note": [b"c"] * 2}
    assert one_record(tmp_path / "d", steps, values).tasks == ("b",)
    path = tmp_path / "d" / "features.json"
    top = features_dict(
        {"steps": sequence(features_dict(steps)), "about": features_dict({"language_instruction": text()})}
    )
    path.write_text(json.dumps(top))
    shard_path(tmp_path / "d", 0, 1).write_bytes(record(example(values | {"about/language_instruction": [b"a"]})))
    dataset = open_rlds(tmp_path / "d")
    assert dataset.tasks == ("a",)
    assert dataset.columns(0, ["task_index"])["task_index"].tolist() == [0, 0]
    assert one_record(tmp_path / "e", {"action": steps["action"]}, values).episodes == ((0, 2, ("",)),)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_a_flag_of_success_for_the_whole_episode(tmp_path, dtype):
    """As Kuka's; of another type it says nothing."""
    write = {"action": tensor("float32", 1)}
    one_record(tmp_path / "d", write, {"steps/action": np.zeros(2, "f4")})
    about = features_dict({"success": tensor(dtype)})
    top = features_dict({"steps": sequence(features_dict(write)), "episode_metadata": about})
    (tmp_path / "d" / "features.json").write_text(json.dumps(top))
    values = {"steps/action": np.zeros(2, "f4")}
    flags = [np.array([flag], "int64" if dtype == "bool" else "f4") for flag in (1, 0)]
    records = [record(example(values | {"episode_metadata/success": flag})) for flag in flags]
    shard_path(tmp_path / "d", 0, 1).write_bytes(b"".join(records))
    info = json.loads((tmp_path / "d" / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["2"]
    (tmp_path / "d" / "dataset_info.json").write_text(json.dumps(info))
    dataset = open_rlds(tmp_path / "d")
    assert [each.episodes for each in dataset.findings if each.kind == "failed-episodes"] == (
        [(1,)] if dtype == "bool" else []
    )


@pytest.mark.parametrize("encoding", ["zlib", "bytes", "none"])
def test_numbers_and_pixels_as_tensors(tmp_path, encoding: str):
    """As RL Unplugged's are packed, step by step; pixels may also be stored one by one."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype="u1")
    action = np.random.default_rng(1).standard_normal((5, 6))
    steps = {"action": tensor("float64", 6, encoding=encoding if encoding != "none" else "bytes")}
    steps |= {"observation": features_dict({"pixels": tensor("uint8", 8, 12, 3, encoding=encoding)})}
    pack = zlib.compress if encoding == "zlib" else bytes
    actions = [pack(row.astype("<f8").tobytes()) for row in action]
    packed = [pack(frame.tobytes()) for frame in frames]
    pixels = frames.astype("i8") if encoding == "none" else packed
    dataset = one_record(tmp_path / "d", steps, {"steps/action": actions, "steps/observation/pixels": pixels})
    np.testing.assert_array_equal(dataset.actions(0), action)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], frames)
    np.testing.assert_array_equal(dataset.frames(0, indices=[4, 1])[:, 0], frames[[4, 1]])
    assert dataset.encoded_images(0, dataset.cameras[0]) is None
    actions[3] = pack(bytes(47)) if encoding == "bytes" else b"neither"
    broken = one_record(tmp_path / "e", steps, {"steps/action": actions, "steps/observation/pixels": pixels})
    refused("`steps/action`: (expected 48 bytes for a step, got|Error -3)", broken.actions, 0)


def test_nothing_but_images(tmp_path):
    pixels = np.arange(3 * 8 * 8 * 3, dtype="u1").reshape(3, 8, 8, 3)
    steps = {"observation": features_dict({name: image(8, 8, 3, encoding="") for name in "ab"})}
    values = {f"steps/observation/{name}": [encode_image(frame, "PNG") for frame in pixels] for name in "ab"}
    dataset = one_record(tmp_path / "d", steps, values)
    assert dataset.episodes == ((0, 3, ("",)),)
    np.testing.assert_array_equal(dataset.frames(0), np.stack([pixels, pixels], axis=1))


def test_images_that_cannot_be_used(tmp_path):
    clear, other = np.zeros((8, 8, 4), "u1"), np.zeros((8, 9, 3), "u1")
    bad = {
        "clear": encode_image(clear, "PNG"),
        "other": encode_image(other, "PNG"),
        "broken": encode_image(other, "JPEG")[:99],
        "gif": b"GIF8",
    }
    steps = {"action": tensor("float32", 1), "observation": features_dict({name: image(8, 8, 3) for name in bad})}
    values = {f"steps/observation/{name}": [data] for name, data in bad.items()} | {"steps/action": np.zeros(1, "f4")}
    dataset = one_record(tmp_path / "d", steps, values)
    where = "`observation.images.{}` of episode 0, frame 0"
    for name, says in (("clear", "got mode RGBA"), ("other", "expected 8x8x3 as in features.json, got 8x9x3")):
        refused(where.format(name) + f".*{says}", dataset.frames, 0, [name])
    steps = {"action": tensor("float32", 1), "observation": features_dict({"any": image(-1, -1, 3)})}
    values = {"steps/observation/any": [encode_image(other, "PNG"), encode_image(other[:, :8], "PNG")]}
    unsaid = one_record(tmp_path / "unsaid", steps, values | {"steps/action": np.zeros(2, "f4")})
    refused("`observation.images.any` of .*: expected 8x9x3 as in the first episode", unsaid.frames, 0)
    for name in ("broken", "gif"):
        refused(where.format(name) + ": not a readable JPEG or PNG image", dataset.frames, 0, [name])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"splits": {"train": 3}}, "expected `name` and `splits` as TFDS writes them"),
        ({"fileFormat": "array_record"}, "expected the file format tfrecord, got 'array_record'"),
        ({"splits": [{"name": "train"}]}, "split `train` has no `shardLengths`"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "split `train` has no `shardLengths`"),
        ({"splits": [{"name": "train", "shardLengths": [3], "filepathTemplate": "../{SPLIT}"}]}, "`filepathTemplate`"),
        ({"splits": [{"name": "train", "shardLengths": [3], "filepathTemplate": "{X}"}]}, "`filepathTemplate`"),
        ({"splits": [{"name": "train", "shardLengths": [3, 3], "filepathTemplate": "{SPLIT}"}]}, "`filepathTemplate`"),
    ],
)
def test_broken_dataset_info(tmp_path, changes, says):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    describe(root, [3], **changes)
    refused(rf"dataset_info\.json: .*{says}", open_rlds, root)


def test_other_file_names_and_default_ones(tmp_path):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    describe(root, [3], splits=[{"name": "train", "shardLengths": ["3"]}, {"name": "val", "shardLengths": ["1"]}])
    assert len(open_rlds(root).episodes) == 3
    refused(r"1 of 1 file of split `val` is missing: .* Other splits: train\.", open_rlds, root, split="val")
    shard_path(root, 0, 1).rename(root / "x-00000-00001.rec")
    split = {"name": "train", "shardLengths": ["3"], "filepathTemplate": "x-{SHARD_INDEX}-{NUM_SHARDS}.rec"}
    describe(root, [3], splits=[split])
    assert len(open_rlds(root).episodes) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"type": "FeaturesDict", "content": {}}, "expected a FeaturesDict with the sequence `steps`"),
        (features_dict(METADATA), "expected a FeaturesDict with the sequence `steps`"),
        ({"featuresDict": {"features": "//host/x"}}, "expected a FeaturesDict with the sequence `steps`"),
        (features_dict({"steps": sequence(features_dict({}))}), "no feature of `steps` can be read"),
        (features_dict({"steps": sequence(tensor("float32", 2))}), "expected a FeaturesDict"),
        (
            features_dict({"steps": sequence(features_dict({"a": {"tensor": {"shape": {"dimensions": "x"}}}}))}),
            "a shape",
        ),
    ],
)
def test_broken_features_json(tmp_path, content, says):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    (root / "features.json").write_text(json.dumps(content))
    refused(rf"features\.json: .*{says}", open_rlds, root)


def test_snake_case_features_json(tmp_path):
    root = write_rlds(tmp_path / "toy", LENGTHS)
    expected = open_rlds(root)
    path = root / "features.json"
    path.write_text(
        re.sub(r'"[a-zA-Z]+":', lambda m: re.sub("[A-Z]", lambda c: "_" + c[0].lower(), m[0]), path.read_text())
    )
    assert '"python_class_name"' in path.read_text()
    again = open_rlds(root)
    assert (again.features, again.left_out) == (expected.features, expected.left_out)


def test_a_flipped_bit_gives_an_error_or_the_right_values(tmp_path, rng):
    root = write_rlds(tmp_path / "toy", (2, 3))
    path = shard_path(root, 0, 1)
    content = path.read_bytes()
    keys = ["action", "next.reward", "language_instruction", "observation.joints.left"]
    right = open_rlds(root)
    expected = {e.index: (e, right.columns(e.index, keys), right.frames(e.index, ["image"])) for e in right.episodes}
    failed, found = 0, set()
    for _ in range(200):
        path.write_bytes(content)
        flip(path, int(rng.integers(len(content))), int(rng.integers(8)))
        try:
            dataset = open_rlds(root)
        except LattokError:
            failed += 2
            continue
        assert len(dataset.episodes) + len(dataset.damaged) == 2
        failed += len(dataset.damaged)
        for e in dataset.episodes:
            try:
                columns, frames = dataset.columns(e.index, keys), dataset.frames(e.index, ["image"])
            except LattokError as error:
                found.add(str(error).split(": ")[-1])
                failed += 1
                continue
            whole, values, pixels = expected[e.index]
            assert e == whole
            assert all(np.array_equal(columns[key], values[key]) for key in keys)
            np.testing.assert_array_equal(frames, pixels)
    assert failed >= 200  # every flip costs an episode or more
    assert found == {"the checksum of its data is wrong. Copy the file again."}


def test_flips_in_the_json_files_never_crash(tmp_path, rng):
    root, found = write_rlds(tmp_path / "toy", (2, 3)), []
    for _ in range(200):
        broken = tmp_path / "broken"
        shutil.copytree(root, broken)
        path = broken / ["dataset_info.json", "features.json"][rng.integers(2)]
        flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
        try:
            dataset = open_rlds(broken)
            for e in dataset.episodes:
                dataset.columns(e.index, [key for key in dataset.features if key not in dataset.cameras])
                dataset.frames(e.index, dataset.cameras[:1])
        except LattokError as error:
            found.append(str(error))
        shutil.rmtree(broken)
    assert len(found) > 50
    assert not any("\n" in error for error in found)
