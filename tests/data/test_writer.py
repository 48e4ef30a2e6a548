"""Writing: what is read back, how files roll over, what is refused, and that nothing half-written stays."""

import json
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.data.image_writer import Clip, encode_clip
from lattok.data.images import is_rgb
from lattok.data.video import decode_at
from lattok.utils.checks import LattokError
from tests.data.memory import encode_image
from tests.errors import refused

FEATURES = {
    "action": Feature("float32", (2,), ("x", "y")),
    "reward": Feature("float64", (1,), None),
    "note": Feature("string", (1,), None),
    "camera": Feature("video", (16, 24, 3), None),
}


def episode(rng, length: int = 6) -> tuple[dict, dict]:
    columns = {
        "action": rng.standard_normal((length, 2)).astype(np.float32),
        "reward": rng.standard_normal(length),
        "note": np.array([f"step {t}" for t in range(length)]),
    }
    return columns, {"camera": rng.integers(0, 256, (length, 16, 24, 3), dtype=np.uint8)}


def encoded(frames: np.ndarray, kind: str = "JPEG", **options) -> list[bytes]:
    return [encode_image(frame, kind, **options) for frame in frames]


def create(root, **options) -> LeRobotWriter:
    return LeRobotWriter.create(root, 10, FEATURES, video_codec="h264", encoder_threads=1, **options)


@pytest.mark.parametrize("codec", ["h264", "libsvtav1"])
def test_clips_are_joined_frame_for_frame(tmp_path, rng, codec):
    shapes = [(length, 4, 8, 3) for length in (5, 1, 8, 3)]
    episodes = [rng.integers(0, 256, shape, dtype=np.uint8).repeat(16, 1).repeat(16, 2) for shape in shapes]
    camera = {"camera": Feature("video", (64, 128, 3), None)}
    alone = []
    with LeRobotWriter.create(tmp_path / "joined", 12.5, camera, video_codec=codec, video_file_mb=1e-3) as writer:
        for number, frames in enumerate(episodes):
            clip = encode_clip(tmp_path / f"{number}.mp4", frames, 12.5, codec)
            writer.add_episode({}, {"camera": clip}, "push")
            alone.append(np.concatenate(list(decode_at(clip.path, np.arange(len(frames)) / 12.5, 12.5))))
    with LeRobotWriter.create(tmp_path / "encoded", 12.5, camera, video_codec=codec) as writer:
        for frames in episodes:
            writer.add_episode({}, {"camera": frames}, "push")
    joined = open_dataset(tmp_path / "joined")
    for number, frames in enumerate(alone):
        np.testing.assert_array_equal(joined.frames(number)[:, 0], frames)
    assert len(list(tmp_path.glob("joined/videos/*/*/*.mp4"))) > 1
    statistics = [(tmp_path / name / "meta/stats.json").read_text() for name in ("joined", "encoded")]
    assert statistics[0] == statistics[1]  # of frames before they were encoded


def test_clips_that_do_not_fit_are_refused(tmp_path):
    clip = encode_clip(tmp_path / "clip.mp4", np.zeros((3, 64, 64, 3), np.uint8), 10, "h264")
    for camera, codec, what in [
        (Feature("video", (64, 128, 3), None), "h264", "expected a clip 128 x 64 of h264, got 64 x 64 of h264"),
        (Feature("video", (64, 64, 3), None), "libsvtav1", "expected a clip 64 x 64 of av1, got 64 x 64 of h264"),
        (Feature("image", (64, 64, 3), None), "h264", 'got a video. Declare its dtype "video"'),
    ]:
        writer = LeRobotWriter.create(tmp_path / "d", 10, {"camera": camera}, video_codec=codec)
        with pytest.raises(LattokError, match=what), writer:
            writer.add_episode({}, {"camera": clip}, "push")
    writer = LeRobotWriter.create(tmp_path / "d", 10, {"camera": Feature("video", (64, 64, 3), None)}, None, "h264")
    with pytest.raises(LattokError, match="`camera`: expected 4 frames, got 3"), writer:
        writer.add_episode({}, {"camera": Clip(clip.path, 4, clip.stats)}, "push")


def test_columns_come_back(tmp_path, rng):
    written = [episode(rng, n) for n in (6, 1, 9)]
    with create(tmp_path / "d", robot_type="arm") as writer:
        for i, (columns, frames) in enumerate(written):
            writer.add_episode(columns, frames, ("push", "lift")[i % 2])
    dataset = open_dataset(tmp_path / "d")
    assert dataset.info["robot_type"] == "arm"
    assert dataset.tasks == ("push", "lift")
    assert [(e.length, e.tasks) for e in dataset.episodes] == [(6, ("push",)), (1, ("lift",)), (9, ("push",))]
    start = 0
    for i, (columns, _) in enumerate(written):
        got = dataset.columns(i, [*columns, "timestamp", "frame_index", "episode_index", "index", "task_index"])
        length = len(columns["action"])
        for key, values in columns.items():
            assert got[key].tolist() == values.tolist()
        np.testing.assert_allclose(got["timestamp"], np.arange(length) / 10, atol=1e-6)
        np.testing.assert_array_equal(got["frame_index"], np.arange(length))
        np.testing.assert_array_equal(got["index"], start + np.arange(length))
        assert set(got["episode_index"]) == {i}
        assert set(got["task_index"]) == {i % 2}
        assert dataset.frames(i).shape == (length, 1, 16, 24, 3)
        start += length


def test_many_episodes_are_written_in_portions(tmp_path):
    features = {"action": Feature("float32", (1,), None)}
    with LeRobotWriter.create(tmp_path / "d", 10, features) as writer:
        for i in range(230):
            writer.add_episode({"action": np.full(2, i)}, {}, "push")
    dataset = open_dataset(tmp_path / "d")
    assert len(dataset.episodes) == 230
    assert dataset.columns(229, ["action"])["action"].tolist() == [229, 229]
    assert dataset.info["video_path"] is None


def test_statistics_are_those_of_all_frames(tmp_path, rng):
    written = [episode(rng, n)[0] for n in (6, 3, 9)]
    with create(tmp_path / "d") as writer:
        for columns in written:
            writer.add_episode(columns, episode(rng, len(columns["action"]))[1], "push")
    stats = json.loads((tmp_path / "d" / "meta" / "stats.json").read_text())
    values = np.concatenate([columns["action"] for columns in written])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(values, name)(0), rtol=1e-5)
    assert stats["action"]["count"] == [18]
    assert "note" not in stats
    assert np.shape(stats["camera"]["mean"]) == (3, 1, 1)
    assert 0.4 < stats["camera"]["mean"][0][0][0] < 0.6
    row = pq.read_table(tmp_path / "d" / "meta" / "episodes").to_pylist()[0]
    np.testing.assert_allclose(row["stats/action/mean"], written[0]["action"].mean(0), rtol=1e-5)


def test_a_failure_leaves_nothing(tmp_path, rng):
    with pytest.raises(RuntimeError), create(tmp_path / "d") as writer:  # noqa: PT012
        writer.add_episode(*episode(rng), "push")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LattokError, match="nothing to write"), create(tmp_path / "d"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failure_at_the_end_leaves_nothing(tmp_path, rng, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lattok.data.formats.lerobot_writer.sync_files", full)
    with pytest.raises(OSError, match="No space"), create(tmp_path / "d") as writer:
        writer.add_episode(*episode(rng), "push")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    writer = create(tmp_path / "d")
    writer.add_episode(*episode(rng), "push")
    (tmp_path / "d").mkdir()
    refused("`root`: expected a folder that does not exist yet", writer.finalize)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_two_writers_of_one_folder(tmp_path, rng):
    with create(tmp_path / "d") as writer:
        writer.add_episode(*episode(rng), "push")
        refused("`root`: another process is at work on .*d. ", create, tmp_path / "d")
        writer.add_episode(*episode(rng), "push")
    assert len(open_dataset(tmp_path / "d").episodes) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_a_killed_run_left_is_replaced(tmp_path, rng):
    left = create(tmp_path / "d")
    left.add_episode(*episode(rng), "push")
    del left  # and then nothing more
    with create(tmp_path / "d") as writer:
        writer.add_episode(*episode(rng, 3), "lift")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [e.length for e in open_dataset(tmp_path / "d").episodes] == [3]


@pytest.mark.parametrize("name", ["thesis.tex", "lock", "dataset/thesis.tex"])
def test_a_folder_of_somebody_else_with_that_name_is_not_touched(tmp_path, name):
    """It used to be emptied, whatever was in it."""
    theirs = tmp_path / ".d.writing" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("four years of work")
    refused(r"\.d\.writing is in the way and was not made by lattok\. Move it away\.", create, tmp_path / "d")
    assert theirs.read_text() == "four years of work"
    assert [path.name for path in tmp_path.iterdir()] == [".d.writing"]


def test_a_link_is_no_working_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".d.writing").symlink_to(tmp_path / "elsewhere")
    refused("was not made by lattok", create, tmp_path / "d")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    refused("`root`: expected a folder that does not exist yet", create, tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c, f: c.pop("reward"), "`columns`: expected action, reward, note, got action, note"),
        (lambda c, f: c.update(extra=c["reward"]), "`columns`: expected action, reward, note"),
        (lambda c, f: f.clear(), "`frames`: expected camera, got none"),
        (lambda c, f: c.update(reward=c["reward"][:3]), r"one length of at least 1, got lengths \[3, 6\]"),
        (lambda c, f: c.update(action=c["action"][:, :1]), r"`action`: expected shape \[6, 2\], got \[6, 1\]"),
        (lambda c, f: f.update(camera=f["camera"].astype(np.float32)), "`camera`: expected uint8 frames, got float32"),
        (lambda c, f: f.update(camera=f["camera"][:, :8]), r"`camera`: expected shape \[6, 16, 24, 3\]"),
    ],
)
def test_episodes_that_do_not_fit(tmp_path, rng, change, says):
    columns, frames = episode(rng)
    change(columns, frames)
    writer = create(tmp_path / "d")
    refused(says, writer.add_episode, columns, frames, "push")


@pytest.mark.parametrize(
    ("dtype", "given", "says"),
    [
        ("int64", [1.0, 1.9], "`a`: expected numbers that int64 can hold, got 1.9"),
        ("int64", [1.0, np.nan], "`a`: expected numbers that int64 can hold, got nan"),
        ("uint8", [3, 300], "`a`: expected numbers that uint8 can hold, got 300"),
        ("bool", [1, 0.4], "`a`: expected numbers that bool can hold, got 0.4"),
        ("float32", [1e300, 0], r"`a`: expected numbers that float32 can hold, got 1e\+300"),
        ("float32", ["far", "near"], "`a`: expected numbers that are float32, got 'far'"),
        ("string", [1, 2], "`a`: expected texts, or None, got something else"),
    ],
)
def test_numbers_that_a_column_cannot_hold_are_refused_before_anything_is_written(tmp_path, dtype, given, says):
    """They were cut off, wrapped around or made infinite, and nothing was said."""
    writer = LeRobotWriter.create(tmp_path / "d", 10, {"a": Feature(dtype, (1,), None)})
    refused(says, writer.add_episode, {"a": np.array(given)}, {}, "push")
    writer.add_episode({"a": np.array(["x", None], dtype=object) if dtype == "string" else np.ones(2)}, {}, "push")
    assert len(open_dataset(writer.finalize()).episodes) == 1


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"a/b": Feature("float32", (1,), None)}, "`features`: expected keys without '/'"),
        ({"timestamp": Feature("float32", (1,), None)}, "other than LeRobot's own"),
        ({"v": Feature("video", (16, 16), None)}, r"shape \(H, W, 3\) of a camera \(video\)"),
        ({"v": Feature("image", (16, 16, 1), None)}, r"shape \(H, W, 3\) of a camera \(image\)"),
        ({"a": Feature("float32", (), None)}, "a shape of one to five dimensions"),
        ({"a": Feature("float16", (2,), None)}, "expected one of video, image, string, bool, int8"),
    ],
)
def test_features_that_cannot_be_written(tmp_path, features, says):
    refused(says, LeRobotWriter.create, tmp_path / "d", 10, features)


def test_a_task_is_needed(tmp_path, rng):
    writer = create(tmp_path / "d")
    refused("`task`: expected an instruction, .* got None", lambda: writer.add_episode(*episode(rng), None))
    refused("`task`: expected 6 instructions, one per", lambda: writer.add_episode(*episode(rng), ["push", "lift"]))


IMAGES = {
    "action": Feature("float32", (2,), None),
    "given": Feature("image", (8, 12, 3), None),
    "kept": Feature("image", (8, 10, 3), None),
    "video": Feature("video", (8, 12, 3), None),
}


def test_images_without_loss(tmp_path, rng):
    shapes = {"given": (8, 12, 3), "kept": (8, 10, 3), "video": (8, 12, 3)}
    seen = [{k: rng.integers(0, 256, (n, *v), dtype=np.uint8) for k, v in shapes.items()} for n in (5, 3)]
    kept = [encoded(episode["kept"][:2]) + encoded(episode["kept"][2:], "PNG") for episode in seen]
    with LeRobotWriter.create(tmp_path / "d", 5, IMAGES, video_codec="h264") as writer:
        for episode, images in zip(seen, kept, strict=True):
            frames = {"given": episode["given"], "kept": images, "video": episode["video"]}
            writer.add_episode({"action": np.zeros((len(images), 2))}, frames, "push")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.cameras == ("given", "kept", "video")
    assert dataset.info["features"]["kept"] == {
        "dtype": "image",
        "shape": [8, 10, 3],
        "names": ["height", "width", "channels"],
    }
    assert [path.name for path in (tmp_path / "d" / "videos").iterdir()] == ["video"]
    cells = pq.read_table(tmp_path / "d" / "data")["kept"].to_pylist()
    assert [cell["bytes"] for cell in cells] == [data for images in kept for data in images]
    for i, episode in enumerate(seen):
        np.testing.assert_array_equal(dataset.frames(i, ["given"])[:, 0], episode["given"])
        expected = [np.asarray(Image.open(BytesIO(data))) for data in kept[i]]
        np.testing.assert_array_equal(dataset.frames(i, ["kept"])[:, 0], expected)
    stats = json.loads((tmp_path / "d" / "meta" / "stats.json").read_text())
    pixels = np.concatenate([episode["given"] for episode in seen]).reshape(-1, 3) / 255
    np.testing.assert_allclose(np.ravel(stats["given"]["mean"]), pixels.mean(0))


def test_grey_images_are_stored_in_colour(tmp_path, rng):
    grey = rng.integers(0, 256, (5, 8, 10), dtype=np.uint8)
    frames = {key: rng.integers(0, 256, (5, 8, 12, 3), dtype=np.uint8) for key in ("given", "video")}
    writer = LeRobotWriter.create(tmp_path / "d", 5, IMAGES, video_codec="h264")
    writer.add_episode({"action": np.zeros((5, 2))}, {**frames, "kept": encoded(grey, "PNG")}, "push")
    dataset = open_dataset(writer.finalize())
    assert np.array_equal(dataset.frames(0, ["kept"])[:, 0], grey[..., None].repeat(3, -1))
    stored = pq.read_table(next((tmp_path / "d/data").rglob("*.parquet")), columns=["kept"])["kept"][0]["bytes"].as_py()
    assert is_rgb(stored)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.update(kept=f["kept"][:3]), r"one length of at least 1, got lengths \[3, 5\]"),
        (lambda f: f["kept"].__setitem__(2, f["kept"][2][:-20]), "`kept`, frame 2: not a readable JPEG or PNG image"),
        (lambda f: f["kept"].__setitem__(0, b"GIF89a"), "`kept`, frame 0: not a readable JPEG or PNG image"),
        (
            lambda f: f.update(
                kept=encoded(
                    f["given"][:, :, :10],
                    exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
                )
            ),
            "got one to be turned by its Exif data",
        ),
        (lambda f: f.update(kept=encoded(f["given"])), r"`kept`: expected frames of shape \[8, 10, 3\], got \[8"),
        (lambda f: f.update(video=encoded(f["video"])), "`video`: expected uint8 frames for a video"),
        (lambda f: f.update(video=iter([f["given"][:4]])), "`video`: expected 5 frames, got 4"),
    ],
)
def test_images_that_do_not_fit(tmp_path, rng, change, says):
    frames = {key: rng.integers(0, 256, (5, 8, 12, 3), dtype=np.uint8) for key in ("given", "video")}
    frames["kept"] = encoded(frames["given"][:, :, :10])
    change(frames)
    writer = LeRobotWriter.create(tmp_path / "d", 5, IMAGES, video_codec="h264")
    refused(says, writer.add_episode, {"action": np.zeros((5, 2))}, frames, "push")


def test_frames_that_an_old_encoder_dies_of_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lattok.data.video.SMALLEST_AV1", 32)
    camera = {"camera": Feature("video", (16, 48, 3), None)}
    refused("`video_codec`: expected h264 for frames below 32 ", LeRobotWriter.create, tmp_path / "d", 10, camera)
    assert not list(tmp_path.iterdir())
    LeRobotWriter.create(tmp_path / "d", 10, camera, video_codec="h264")


def test_several_files_and_chunks(tmp_path, rng):
    with create(tmp_path / "d", data_file_mb=0.0005, video_file_mb=0.001, chunk_files=2) as writer:
        for _ in range(6):
            writer.add_episode(*episode(rng), "push")
    names = sorted(path.relative_to(tmp_path / "d" / "data").as_posix() for path in (tmp_path / "d/data").rglob("*.p*"))
    assert names[:3] == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    dataset = open_dataset(tmp_path / "d")
    assert [dataset.columns(i, ["index"])["index"][0] for i in range(6)] == [0, 6, 12, 18, 24, 30]


def test_the_folder_appears_at_the_end(tmp_path, rng):
    writer = create(tmp_path / "d")
    writer.add_episode(*episode(rng), "push")
    assert not (tmp_path / "d").exists()
    assert writer.finalize() == tmp_path / "d"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("left", [[], ["lock"]])
def test_a_kill_before_the_mark_is_written_is_no_dead_end(tmp_path, left):
    (tmp_path / ".d.writing").mkdir()
    for name in left:
        (tmp_path / ".d.writing" / name).touch()
    create(tmp_path / "d").__exit__(ValueError)
    assert not list(tmp_path.iterdir())


def test_what_somebody_put_beside_the_unfinished_dataset_stays(tmp_path, rng):
    with create(tmp_path / "d") as writer:
        writer.add_episode(*episode(rng), "push")
        (tmp_path / ".d.writing" / "notes").write_text("mine")
    assert (tmp_path / ".d.writing" / "notes").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / ".d.writing").iterdir()) == ["lock", "notes"]


def test_texts_that_are_missing_in_the_first_episode(tmp_path):
    with LeRobotWriter.create(tmp_path / "d", 10, {"note": Feature("string", (1,), None)}) as writer:
        for texts in ([None, None], ["a", None]):
            writer.add_episode({"note": np.array(texts, dtype=object)}, {}, "push")
    dataset = open_dataset(tmp_path / "d")
    assert [dataset.columns(i, ["note"])["note"].tolist() for i in (0, 1)] == [[None, None], ["a", None]]


def test_a_folder_whose_name_looks_like_a_protocol_of_ffmpeg(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with create("run-12:30") as writer:
        writer.add_episode(*episode(rng), "push")
    assert open_dataset("run-12:30").frames(0).shape == (6, 1, 16, 24, 3)


def test_a_place_in_the_home_folder(tmp_path, rng, monkeypatch):
    """A shell leaves `--out=~/x` as it is; the folder was called `~`, or was not found again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with create("~/d") as writer:
        writer.add_episode(*episode(rng), "push")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("fps", [1 / 3600, 0.3, 29.97])
def test_frames_are_found_again_at_any_rate(tmp_path, rng, fps):
    with LeRobotWriter.create(tmp_path / "d", fps, {"camera": FEATURES["camera"]}, video_codec="h264") as writer:
        writer.add_episode({}, {"camera": rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)}, "push")
    assert open_dataset(tmp_path / "d").frames(0).shape == (3, 1, 16, 24, 3)


def test_a_frame_rate_that_is_no_whole_number(tmp_path):
    for fps in (29.97, 30.0):
        with LeRobotWriter.create(tmp_path / str(fps), fps, {"a": Feature("float32", (1,), None)}) as writer:
            writer.add_episode({"a": np.zeros(3)}, {}, "push")
    assert json.loads((tmp_path / "29.97/meta/info.json").read_text())["fps"] == 29.97
    assert '"fps": 30,' in (tmp_path / "30.0/meta/info.json").read_text()


def test_columns_of_all_shapes_and_types(tmp_path, rng):
    features = {
        "matrix": Feature("float64", (2, 3), None),
        "row": Feature("uint8", (1, 2), None),
        "small": Feature("int16", (1,), None),
        "flags": Feature("bool", (3,), None),
    }
    columns = {
        "matrix": rng.standard_normal((4, 2, 3)),
        "row": rng.integers(0, 256, (4, 1, 2), dtype=np.uint8),
        "small": np.arange(-2, 2, dtype=np.int16),
        "flags": rng.integers(0, 2, (4, 3)).astype(bool),
    }
    with LeRobotWriter.create(tmp_path / "d", 5, features) as writer:
        writer.add_episode(columns, {}, "push")
    got = open_dataset(tmp_path / "d").columns(0, list(columns))
    for key, values in columns.items():
        np.testing.assert_array_equal(got[key], values)
        assert got[key].dtype == values.dtype
