"""MCAP recordings, written by the ROS 2 writer of the mcap package: topics, times, order of joints, damaged files."""

import base64
import importlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lattok.data import open_dataset
from lattok.data.formats import mcap
from lattok.utils.checks import LattokError
from tests.errors import refused

writer = pytest.importorskip("mcap_ros2.writer")
records = pytest.importorskip("mcap.records")

LINE = "=" * 80
HEADER = f"""std_msgs/Header header
BODY
{LINE}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
{LINE}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
TYPES = {
    "sensor_msgs/msg/CompressedImage": HEADER.replace("BODY", "string format\nuint8[] data"),
    "sensor_msgs/msg/Image": HEADER.replace(
        "BODY", "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
    ),
    "sensor_msgs/msg/JointState": HEADER.replace(
        "BODY", "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
    ),
    "std_msgs/msg/Float64MultiArray": "float64[] data",
}
FRAMES = np.random.default_rng(0).integers(0, 256, (10, 8, 12, 3), dtype=np.uint8)
TOPICS = {
    "observation.images.front": "/front/image/compressed",
    "observation.images.wrist": "/wrist/image",
    "observation.state": "/joint_states",
    "action": "/command",
}


def png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def record(path: Path, count: int = 10, first: int = 0) -> None:
    """A camera at 10 Hz; joints at 50 Hz that swap their order; a command 30 ms after a picture; BGR with padding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    messages: list[tuple[int, str, str, dict[str, Any]]] = []
    for i in range(first, first + count):
        time = i * 100
        header = {"stamp": {"sec": 50 + time // 1000, "nanosec": time % 1000 * 10**6}, "frame_id": ""}
        frame = FRAMES[i]
        compressed = {"header": header, "format": "png", "data": png(frame)}
        messages.append((time, "/front/image/compressed", "sensor_msgs/msg/CompressedImage", compressed))
        rows = np.pad(frame[..., ::-1].reshape(8, 36), ((0, 0), (0, 4)))
        raw = {"header": header, "height": 8, "width": 12, "encoding": "bgr8", "is_bigendian": 0, "step": 40}
        messages.append((time + 1, "/wrist/image", "sensor_msgs/msg/Image", raw | {"data": rows.tobytes()}))
        for k in range(5):
            names, values = ["a", "b"], [float(time + 20 * k), -1.0]
            joints = {"header": header, "name": names[:: (-1) ** k], "position": values[:: (-1) ** k]}
            joints |= {"velocity": [], "effort": []}
            messages.append((time + 20 * k, "/joint_states", "sensor_msgs/msg/JointState", joints))
        messages.append((time + 30, "/command", "std_msgs/msg/Float64MultiArray", {"data": [float(i), 0.5]}))
    with path.open("wb") as file:
        out = writer.Writer(file)
        schemas = {name: out.register_msgdef(name, text) for name, text in TYPES.items()}
        for time, topic, kind, message in sorted(messages, key=lambda each: each[0]):
            out.write_message(topic, schemas[kind], message, log_time=time * 10**6, publish_time=time * 10**6)
        out.finish()


def test_frames_are_those_of_the_first_camera(tmp_path: Path):
    record(tmp_path / "runs" / "pour" / "a.mcap")
    dataset = open_dataset(tmp_path / "runs", topics=TOPICS)
    assert (dataset.kind, dataset.fps, dataset.tasks) == ("mcap", 10, ("pour",))
    assert dataset.features["observation.state"].names == ("a", "b")
    columns = dataset.columns(0, ["observation.state", "action", "timestamp"])
    np.testing.assert_array_equal(columns["observation.state"][:, 0], np.arange(10) * 100.0)  # logged with the picture
    np.testing.assert_array_equal(columns["observation.state"][:, 1], -1.0)
    np.testing.assert_array_equal(columns["action"][:, 0], np.arange(10))  # the command after the picture
    np.testing.assert_array_equal(dataset.frames(0, ["front"])[:, 0], FRAMES)
    before = [0, *range(9)]  # the wrist's picture of 1 ms later is not there yet
    np.testing.assert_array_equal(dataset.frames(0, ["wrist"])[:, 0], FRAMES[before])
    np.testing.assert_array_equal(dataset.frames(0, ["wrist"], indices=[9, 3])[:, 0], FRAMES[[8, 2]])
    by_header = open_dataset(tmp_path / "runs", topics={**TOPICS, "action": "/joint_states:position"}, clock="header")
    np.testing.assert_array_equal(by_header.frames(0, ["wrist"])[:, 0], FRAMES)


def test_a_rosbag_folder_is_one_recording(tmp_path: Path):
    record(tmp_path / "bag" / "bag_0.mcap", count=4)
    record(tmp_path / "bag" / "bag_1.mcap", count=6, first=4)
    (tmp_path / "bag" / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 9\n")
    dataset = open_dataset(tmp_path / "bag", topics=TOPICS)
    assert [episode.length for episode in dataset.episodes] == [10]
    np.testing.assert_array_equal(dataset.frames(0, ["front"], indices=[3, 4, 9])[:, 0], FRAMES[[3, 4, 9]])


def test_without_topics_the_draft_that_is_shown_works(tmp_path: Path):
    record(tmp_path / "runs" / "a.mcap")
    said = refused(r"`topics`: expected which topic .*/command \(Float64MultiArray\)", open_dataset, tmp_path / "runs")
    (tmp_path / "runs.json").write_text(said.split("Write ")[1].split(" into ")[0])
    dataset = open_dataset(tmp_path / "runs.json")
    assert set(dataset.cameras) == {"observation.images.front", "observation.images.wrist"}
    assert {"action", "observation.state"} < set(dataset.features)


def test_json_messages_and_the_draft_of_their_fields(tmp_path: Path):
    with (tmp_path / "a.mcap").open("wb") as file:
        out = importlib.import_module("mcap.writer").Writer(file)
        out.start()
        channels = {}
        for topic, kind in (("/state", "gr00t.State"), ("/action", "Action"), ("/front", "foxglove.CompressedImage")):
            schema = out.register_schema(kind, "jsonschema", b"{}")
            channels[topic] = out.register_channel(topic, "json", schema)
        for i, frame in enumerate(FRAMES):
            state = {"timestamp": i / 10, "left": {"arm": [i, 2]}, "gripper": 0.5, "note": "x"}
            image = {"data": base64.b64encode(png(frame)).decode(), "format": "png"}
            for topic, message in (("/state", state), ("/action", {"arm": [i + 1, 2]}), ("/front", image)):
                out.add_message(channels[topic], i * 10**8, json.dumps(message).encode(), i * 10**8)
        out.finish()
    said = refused("topics", open_dataset, tmp_path / "a.mcap")
    (tmp_path / "a.json").write_text(said.split("Write ")[1].split(" into ")[0])
    dataset = open_dataset(tmp_path / "a.json")
    keys = ["action", "observation.state", "observation.state.state_gripper"]
    columns = dataset.columns(0, keys)
    np.testing.assert_array_equal(columns["action"], np.stack([np.arange(1, 11), np.full(10, 2)], 1))
    np.testing.assert_array_equal(columns["observation.state"][:, 0], np.arange(10))
    np.testing.assert_array_equal(columns["observation.state.state_gripper"], np.full(10, 0.5))
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], FRAMES)


def test_messages_of_protobuf(tmp_path: Path):
    """Foxglove's encoding: definitions in the file, in any order; joints without names, also in JSON."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    arm = descriptor_pb2.FileDescriptorProto(
        name="arm.proto", package="arm", dependency=["joint.proto"], syntax="proto3"
    )
    joint = descriptor_pb2.FileDescriptorProto(name="joint.proto", package="arm", syntax="proto3")
    joint.message_type.add(name="Joints").field.add(name="position", number=1, type=1, label=3)
    joint.message_type.add(name="RawImage")
    for number, (name, kind) in enumerate(
        {"width": 13, "height": 13, "encoding": 9, "step": 13, "data": 12}.items(), 1
    ):
        joint.message_type[1].field.add(name=name, number=number, type=kind, label=1)
    state = arm.message_type.add(name="State")
    state.field.add(name="left", number=1, type=11, type_name=".arm.Joints", label=1)
    state.field.add(name="more", number=2, type=11, type_name=".arm.State", label=1)
    state.field.add(name="gripper", number=3, type=2, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(joint)
    pool.Add(arm)
    State, Raw = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"arm.{n}")) for n in ("State", "RawImage")
    )
    files = descriptor_pb2.FileDescriptorSet(file=[arm, joint]).SerializeToString()
    with (tmp_path / "a.mcap").open("wb") as file:
        out = importlib.import_module("mcap.writer").Writer(file)
        out.start()
        kinds = {"/state": "arm.State", "/front": "arm.RawImage"}
        channels = {
            topic: out.register_channel(topic, "protobuf", out.register_schema(kind, "protobuf", files))
            for topic, kind in kinds.items()
        }
        channels["/cmd"] = out.register_channel("/cmd", "json", out.register_schema("JointState", "jsonschema", b"{}"))
        for i, frame in enumerate(FRAMES):
            said = State(left={"position": [i, 2]}, gripper=0.5)
            image = Raw(width=12, height=8, encoding="rgb8", step=36, data=frame.tobytes())
            sent = json.dumps({"position": [i + 1, 3]}).encode()
            for topic, data in (
                ("/state", said.SerializeToString()),
                ("/front", image.SerializeToString()),
                ("/cmd", sent),
            ):
                out.add_message(channels[topic], i * 10**8, data, i * 10**8)
        out.finish()
    said = refused("topics", open_dataset, tmp_path / "a.mcap")
    (tmp_path / "a.json").write_text(said.split("Write ")[1].split(" into ")[0])
    dataset = open_dataset(tmp_path / "a.json")
    columns = dataset.columns(0, ["action", "observation.state", "observation.state.state_gripper"])
    np.testing.assert_array_equal(columns["action"], np.stack([np.arange(1, 11), np.full(10, 3)], 1))
    np.testing.assert_array_equal(columns["observation.state"][:, 0], np.arange(10))
    np.testing.assert_array_equal(columns["observation.state.state_gripper"], np.full(10, 0.5))
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], FRAMES)


@pytest.mark.parametrize("far", [1, 32])
def test_only_chunks_around_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: int):
    """Pictures of equal times in chunks of their own, in two files: each is found, and others are not read."""
    monkeypatch.setattr(mcap, "FAR", far)
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").write_text("")
    for part, numbers in enumerate((range(6), range(6, 10))):
        with (tmp_path / "bag" / f"bag_{part}.mcap").open("wb") as file:
            out = writer.Writer(file, chunk_size=1)
            schema = out.register_msgdef("sensor_msgs/msg/CompressedImage", TYPES["sensor_msgs/msg/CompressedImage"])
            for i in numbers:
                header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
                image = {"header": header, "format": "png", "data": png(FRAMES[i])}
                time = i // 2 * 10**8 + 2**63  # the clock of a file may be anywhere
                out.write_message("/front", schema, image, log_time=time, publish_time=time)
            out.finish()
    dataset = open_dataset(tmp_path / "bag", topics={"observation.images.front": "/front"}, fps=10)
    for indices in ([3], [0, 9], [2, 3, 8], [5, 6], range(10)):
        np.testing.assert_array_equal(dataset.frames(0, indices=list(indices))[:, 0], FRAMES[list(indices)])
    seen, read = [], records.Chunk.read
    monkeypatch.setattr(records.Chunk, "read", staticmethod(lambda *given: seen.append(1) or read(*given)))
    dataset.frames(0, indices=[1, 4])
    assert len(seen) == (4 if far == 1 else 6)


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ([], "`topics`: expected an object"),
        ({"action": "/comand"}, "`topics.action`: .*Did you mean /command"),
        ({"state": "/front/image/compressed"}, "pictures as observation.images.NAME"),
        ({"action": "/command:dta"}, "a field dta"),
        ({"action": "/command:__class__"}, "a field __class__"),
        ({"action": "/joint_states:velocity"}, "expected numbers as velocity, got none"),
        ({"observation.images.../../x": "/front/image/compressed"}, "that a file can have"),
    ],
)
def test_topics_that_are_refused(tmp_path: Path, topics: Any, said: str):
    record(tmp_path / "a.mcap", count=2)
    with pytest.raises(LattokError, match=said):
        _ = open_dataset(tmp_path / "a.mcap", topics=topics, fps=10).features


def test_a_summary_that_counts_more_messages_than_there_is_room_for(tmp_path: Path):
    """One bit of a count, which has no checksum of its own in files of many writers, made it 2 ** 44 + 10."""
    record(tmp_path / "a.mcap")
    path = tmp_path / "b.mcap"
    record(path)
    with path.open("rb") as file:
        summary = importlib.import_module("mcap.reader").make_reader(file).get_summary()
    counts = summary.statistics.channel_message_counts
    pairs = b"".join(struct.pack("<HQ", *pair) for pair in counts.items())
    data = path.read_bytes()
    assert data.count(pairs) == 1
    place = data.index(pairs) + 2
    path.write_bytes(data[: place + 5] + bytes([data[place + 5] ^ 16]) + data[place + 6 :])
    dataset = open_dataset(tmp_path, topics=TOPICS)
    assert len(dataset) == 1
    assert "messages of" in dataset.damaged[0].reason
    assert str(2**44 + next(iter(counts.values()))) in dataset.damaged[0].reason


def test_a_recorder_that_was_killed_leaves_a_damaged_episode(tmp_path: Path):
    record(tmp_path / "a.mcap")
    record(tmp_path / "b.mcap")
    whole = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(whole[: len(whole) // 2])
    dataset = open_dataset(tmp_path, topics=TOPICS)
    assert [episode.index for episode in dataset.episodes] == [1]
    assert "mcap recover" in dataset.damaged[0].reason
    assert json.dumps(dataset.columns(1, ["episode_index"])["episode_index"].tolist()) == json.dumps([1] * 10)


@pytest.mark.parametrize("set_back", [None, 0.1, 2.0])
def test_joints_sent_in_turn_and_a_clock_that_is_set_back(tmp_path: Path, set_back: float | None):
    """An arm and a gripper, of two programs, on one topic; between the last pictures nothing came for a second."""
    file, times = tmp_path / "a.mcap", [0.1 * i + 5 for i in range(9)] + [6.9]
    if set_back:
        times = [*times[:5], *(time - set_back for time in times[5:])]
    with file.open("wb") as stream:
        out = writer.Writer(stream)
        schemas = {name: out.register_msgdef(name, text) for name, text in TYPES.items()}
        header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
        for i, time in enumerate(times):
            told = {"header": header, "velocity": [], "effort": []}
            arm, hand = ({"name": names, "position": [float(i)] * len(names)} for names in (["a", "b"], ["g"]))
            picture = {"header": header, "format": "png", "data": png(FRAMES[i])}
            messages = [(0, TOPICS["observation.images.front"], "sensor_msgs/msg/CompressedImage", picture)]
            messages += [(-20, "/joint_states", "sensor_msgs/msg/JointState", told | arm)]
            messages += [(10, "/joint_states", "sensor_msgs/msg/JointState", told | hand)]
            for late, topic, kind, message in sorted(messages, key=lambda each: each[0]):
                moment = round(time * 1e9) + late * 10**6
                out.write_message(topic, schemas[kind], message, log_time=moment, publish_time=moment)
        out.finish()
    names = {"observation.images.front": TOPICS["observation.images.front"], "observation.state": "/joint_states"}
    dataset = open_dataset(file, topics=names | {"action": "/joint_states"})
    columns = dataset.columns(0, ["action", "observation.state"])
    assert dataset.features["observation.state"].names == ("a", "b", "g")
    if not set_back:
        step = np.arange(10)
        np.testing.assert_array_equal(columns["observation.state"], np.stack([step, step, (step - 1).clip(0)], 1))
        np.testing.assert_array_equal(columns["action"], np.stack([(step + 1).clip(0, 9)] * 2 + [step], 1))
    assert "other-rates" in {each.kind for each in open_dataset(file, topics=names, fps=15).file_findings()}
    kinds = {each.kind for each in dataset.file_findings()}
    assert kinds == ({"clock-set-back"} if set_back == 2 else {"pictures-lost"})


def write_topics(path: Path, topics: dict[str, tuple[str, str, list[dict[str, Any]]]]) -> None:
    """Write messages by topic, with their type and its definition, at 10 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        out = writer.Writer(file)
        for topic, (kind, text, messages) in topics.items():
            schema = out.register_msgdef(kind, text)
            for i, message in enumerate(messages):
                out.write_message(topic, schema, message, log_time=i * 10**8, publish_time=i * 10**8)
        out.finish()


TRAJECTORY = f"""string[] joint_names
trajectory_msgs/JointTrajectoryPoint[] points
{LINE}
MSG: trajectory_msgs/JointTrajectoryPoint
float64[] positions
"""


def test_trajectories_leaders_and_texts(tmp_path: Path):
    """The draft knows commands and the instruction; joints of trajectories are put in one order."""
    trajectories = [
        {"joint_names": ["a", "b"][:: (-1) ** i], "points": [{"positions": [i, -1][:: (-1) ** i]}]} for i in range(6)
    ]
    joints = [
        {"header": {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}, "name": ["a"], "position": [float(i)]}
        for i in range(6)
    ]
    joints = [each | {"velocity": [], "effort": []} for each in joints]
    state = ("sensor_msgs/msg/JointState", TYPES["sensor_msgs/msg/JointState"], joints)
    topics = {
        "/arm/joint_trajectory": ("trajectory_msgs/msg/JointTrajectory", TRAJECTORY, trajectories),
        "/joint_states": state,
        "/leader/joint_states": state,
        "/task_instruction": ("std_msgs/msg/String", "string data", [{"data": "fold the towel"}]),
    }
    write_topics(tmp_path / "runs" / "a.mcap", topics)
    message = refused("Correct this draft", open_dataset, tmp_path / "runs")
    (tmp_path / "draft.json").write_text(message.partition("Write ")[2].partition(" into a file")[0])
    dataset = open_dataset(tmp_path / "draft.json")
    assert dataset.tasks == ("fold the towel",)
    assert {"action.leader_joint_states", "observation.state"} <= dataset.features.keys()
    np.testing.assert_array_equal(dataset.actions(0), [[i, -1] for i in range(6)])
    refused(
        "`topics.instruction`: expected a topic of text",
        open_dataset,
        tmp_path / "runs",
        topics={**TOPICS, "instruction": "/joint_states"},
    )


@pytest.mark.parametrize("encoding", ["yuv422", "yuv422_yuy2", "bayer_rggb8"])
def test_packed_pictures(tmp_path: Path, encoding: str):
    """A red picture of a camera that sends two colours for four pixels, or one for each; rows are padded."""
    pixels = {"yuv422": (90, 81, 240, 81), "yuv422_yuy2": (81, 90, 81, 240)}.get(encoding)
    plain = np.array([[255, 0], [0, 0]], np.uint8) if pixels is None else np.array([pixels, pixels], np.uint8)
    rows = np.pad(np.tile(plain, (8, 8)), ((0, 0), (0, 5)))
    message = {"header": {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}, "height": 16, "width": 16}
    message |= {"encoding": encoding, "is_bigendian": 0, "step": rows.shape[1], "data": rows.tobytes()}
    kind = "sensor_msgs/msg/Image"
    write_topics(tmp_path / "a.mcap", {"/cam": (kind, TYPES[kind], [message] * 3)})
    frames = open_dataset(tmp_path, topics={"observation.images.cam": "/cam"}).frames(0)[:, 0]
    assert np.abs(frames[:, 4:12, 4:12].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("encoding", ["8UC3", "8UC4", "8UC1", "mono16", "rgb16", "bgr16"])
@pytest.mark.parametrize("big", [0, 1])
def test_encodings_of_opencv_and_of_sixteen_bits(tmp_path: Path, encoding: str, big: int):
    """Beside a topic of distances, one of labels and one of packed distances, which the draft leaves out."""
    deep, first = encoding.endswith("16"), encoding in ("8UC3", "8UC4", "bgr16")
    told = {
        "header": {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""},
        "height": 8,
        "width": 12,
        "is_bigendian": big,
    }
    messages = list[dict[str, Any]]()
    for frame in FRAMES:
        pixels = frame[..., ::-1] if first else frame
        pixels = pixels[..., :1] if encoding in ("8UC1", "mono16") else pixels
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1))) if encoding == "8UC4" else pixels
        rows = (pixels.astype(">u2" if big else "<u2") * 256 + 7 if deep else pixels).reshape(8, -1)
        data = rows.astype(">u2" if big else "<u2").tobytes() if deep else rows.tobytes()
        messages.append({**told, "encoding": encoding, "step": len(data) // 8, "data": data})
    kinds = {name: TYPES[f"sensor_msgs/msg/{name}"] for name in ("Image", "CompressedImage")}
    far = {**told, "encoding": "16UC1", "step": 24, "data": bytes(192)}
    packed = {"header": told["header"], "format": "16UC1; compressedDepth png", "data": bytes(12)}
    topics = {"/cam": ("sensor_msgs/msg/Image", kinds["Image"], messages)}
    topics |= {"/a": ("sensor_msgs/msg/Image", kinds["Image"], [far] * 10)}
    topics |= {"/b": ("sensor_msgs/msg/CompressedImage", kinds["CompressedImage"], [packed] * 10)}
    write_topics(tmp_path / "runs/a.mcap", topics)
    said = refused("`topics`: expected which topic", open_dataset, tmp_path / "runs")
    (tmp_path / "runs.json").write_text(said.split("Write ")[1].split(" into ")[0])
    frames = open_dataset(tmp_path / "runs.json").frames(0)[:, 0]
    wanted = np.repeat(FRAMES[..., :1], 3, 3) if encoding in ("8UC1", "mono16") else FRAMES
    np.testing.assert_array_equal(frames, wanted)
    for topic, what in (("/a", r"distances or labels \(16UC1\)"), ("/b", r"distances \(16UC1; compressedDepth png\)")):
        dataset = open_dataset(tmp_path / "runs", topics={"observation.images.cam": topic})
        refused(f"expected pictures, got {what}. Leave the topic out", dataset.frames, 0)
