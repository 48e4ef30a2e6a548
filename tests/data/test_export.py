"""Export: any dataset as LeRobot v3 with nothing lost, its images bit for bit where they are stored, and its labels."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, declare, export, open_dataset, with_actions
from lattok.data.schema import INDEX_KEYS, Damage
from lattok.data.video import VideoWriter
from lattok.labels import with_labels
from tests.conftest import moving_square, write_dataset
from tests.data.memory import CAMERA, MemoryDataset, encode_image, labels_for
from tests.data.rlds_sample import open_rlds, write_rlds
from tests.errors import refused
from tests.real import BRIDGE, needs_real

H264 = {"video_codec": "h264"}


@pytest.fixture
def stored(tmp_path):
    return MemoryDataset(tmp_path / "source", [4, 1, 6, 3, 5], encoded=True)


@pytest.fixture
def pixels(tmp_path):
    return MemoryDataset(tmp_path / "source", [4, 6, 5], size=(17, 25))


def read_meta(root, name):
    return json.loads((root / "meta" / name).read_text())


def close(got, expected):
    """Frames that went through a lossy encoder."""
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 6


def test_columns_and_stored_images_bit_for_bit(stored, tmp_path):
    done = export(stored, tmp_path / "out")
    assert done == (tmp_path / "out", (0, 1, 2, 3, 4), 19, ())
    again = open_dataset(tmp_path / "out")
    assert (again.robot, again.fps, again.tasks) == ("arm", 5.0, ("push", ""))
    assert [(e.length, e.tasks) for e in again.episodes] == [(e.length, e.tasks) for e in stored.episodes]
    assert again.features["action"] == stored.features["action"]
    assert again.features["pose"] == Feature("float32", (2, 2), None)  # float16 holds less
    assert again.features[CAMERA] == stored.features[CAMERA]
    cells = pq.read_table(tmp_path / "out" / "data")[CAMERA].to_pylist()
    assert [cell["bytes"] for cell in cells] == [data for images in stored.jpegs for data in images]
    for index in range(5):
        for key, values in again.columns(index, ["action", "flags", "pose"]).items():
            np.testing.assert_array_equal(values, stored.values[index][key])
        np.testing.assert_array_equal(again.frames(index), stored.frames(index))
    assert not (tmp_path / "out" / "meta" / "lattok.json").exists()
    assert read_meta(tmp_path / "out", "export.json") == {
        "source": {"name": "source", "kind": "rlds"},
        "episodes": [0, 1, 2, 3, 4],
        "frames": {CAMERA: "same"},
    }


def test_labels_are_columns_with_their_provenance(stored, pixels, tmp_path):
    labels = labels_for(stored, tmp_path / "labels", missing=(3,), model={"type": "test"})
    done = export(with_labels(stored, labels), tmp_path / "out", episodes=[2, 3, 4])
    assert done.episodes == (2, 3, 4)
    again, joined = open_dataset(tmp_path / "out"), with_labels(stored, labels)
    keys = ["latent.codes", "latent.valid", "latent.embedding"]
    for new, old in enumerate(done.episodes):
        expected = joined.columns(old, keys)
        for key, values in again.columns(new, keys).items():
            np.testing.assert_array_equal(values, expected[key])
            assert values.dtype == expected[key].dtype
            assert again.features[key] == joined.features[key]
    entry = read_meta(tmp_path / "out", "lattok.json")["latent"]
    assert entry.pop("frames") == "same"
    assert entry.pop("unlabelled") == [{"episodes": [1], "reason": "damaged"}]
    before = read_meta(labels, "lattok.json")["latent"]
    del before["unlabelled"]
    assert entry == before
    more = export(with_labels(pixels, labels_for(pixels, tmp_path / "others")), tmp_path / "video", **H264).path
    assert read_meta(more, "lattok.json")["latent"]["frames"] == "source"
    assert "unlabelled" not in read_meta(more, "lattok.json")["latent"]
    # once lossy, always lossy, and labels of actions do not look at frames
    third = export(open_dataset(more), tmp_path / "third", images="image").path
    assert read_meta(third, "lattok.json")["latent"]["frames"] == "source"
    acted = labels_for(pixels, tmp_path / "acted", cameras=[])
    fourth = export(with_labels(pixels, acted), tmp_path / "fourth", **H264).path
    assert read_meta(fourth, "lattok.json")["latent"]["frames"] == "same"


@pytest.mark.parametrize(
    "entry",
    [{"cameras": 5}, {"unlabelled": 3}, {"unlabelled": [{}]}, {"unlabelled": [{"episodes": [[]]}]}],
    ids=str,
)
def test_what_a_stranger_says_of_labels_is_refused_before_anything_is_written(entry, tmp_path):
    source = write_dataset(tmp_path / "d", [12, 7], ("lift", "push"))
    (source / "meta/lattok.json").write_text(json.dumps({"latent": entry}))
    refused(r"`latent` in `.*lattok.json`", lambda: export(open_dataset(source), tmp_path / "out", images="image"))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_part_of_a_lerobot_dataset(tmp_path):
    source = open_dataset(write_dataset(tmp_path / "d", [12, 7, 9, 3], ("lift", "push")))
    done = export(source, tmp_path / "out", episodes="1:3", **H264)
    again = open_dataset(tmp_path / "out")
    assert done.episodes == (1, 2)
    assert set(again.features) == set(source.features)
    assert again.tasks == ("lift", "push")
    for new, old in enumerate(done.episodes):
        length = source.episodes[old].length
        got, expected = (
            again.columns(new, ["action", "reward", "done"]),
            source.columns(old, ["action", "reward", "done"]),
        )
        for key in got:
            np.testing.assert_array_equal(got[key], expected[key])
        index = again.columns(new, ["timestamp", "frame_index", "episode_index", "index"])
        np.testing.assert_array_equal(index["frame_index"], np.arange(length))
        np.testing.assert_array_equal(index["index"], np.arange(length) + (7 if new else 0))
        np.testing.assert_array_equal(index["timestamp"], source.columns(old, ["timestamp"])["timestamp"])
        assert set(index["episode_index"]) == {new}
        close(again.frames(new), source.frames(old))


def test_instructions_that_change_within_an_episode(tmp_path):
    features = {"action": Feature("float32", (1,), None)}
    with LeRobotWriter.create(tmp_path / "d", 10, features) as writer:
        writer.add_episode({"action": np.zeros(5)}, {}, ["lift", "lift", "push", "push", "lift"])
    again = open_dataset(export(open_dataset(tmp_path / "d"), tmp_path / "out").path)
    assert again.episodes[0].tasks == ("lift", "push")
    assert again.columns(0, ["task_index"])["task_index"].tolist() == [0, 0, 1, 1, 0]
    info = read_meta(tmp_path / "d", "info.json")
    info["features"]["task_index"]["dtype"] = "float32"
    (tmp_path / "d/meta/info.json").write_text(json.dumps(info))
    (path,) = (tmp_path / "d/data").rglob("*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("task_index")
    pq.write_table(table.set_column(place, "task_index", table["task_index"].cast("float32")), path)
    refused("expected numbers of the 2 instructions", lambda: export(open_dataset(tmp_path / "d"), tmp_path / "other"))


def test_images_whose_channels_come_first_are_exported(pixels, tmp_path):
    root = export(pixels, tmp_path / "a", images="image").path
    info = read_meta(root, "info.json")
    height, width, _ = info["features"][CAMERA]["shape"]
    info["features"][CAMERA] |= {"shape": [3, height, width], "names": ["channels", "height", "width"]}
    (root / "meta/info.json").write_text(json.dumps(info))
    again = open_dataset(export(open_dataset(root), tmp_path / "b").path)
    assert again.features[CAMERA].shape == (height, width, 3)
    np.testing.assert_array_equal(again.frames(1, [CAMERA]), open_dataset(root).frames(1, [CAMERA]))


def test_labels_of_converted_actions_need_no_conversion_any_more(stored, tmp_path):
    before, after = [{"part": "other", "n": 1}, {"part": "gripper", "convention": "open_is_1"}], "closed_is_1"
    target = [before[0], {"part": "gripper", "convention": after}]
    view = with_actions(declare(stored, {"action": before}), target)
    made = {"cameras": [], "options": {"action_key": "action"}}
    labels = labels_for(stored, tmp_path / "labels", actions_as=view.actions_as["action"], **made)
    entry = read_meta(export(with_labels(view, labels), tmp_path / "out").path, "lattok.json")["latent"]
    assert "actions_as" not in entry
    assert entry["options"]["action_key"] == "action"
    assert (
        "actions_as" in read_meta(export(with_labels(stored, labels), tmp_path / "raw").path, "lattok.json")["latent"]
    )


@pytest.fixture
def videos(tmp_path):
    """Three videos, the last of another size."""
    rng = np.random.default_rng(3)
    for number, size in enumerate([32, 32, 48]):
        folder = tmp_path / "videos" / ("pour" if number else "cut")
        encoder = VideoWriter(folder / f"{number}.mp4", 10, (size, size), "h264", 1)
        encoder.add(moving_square(rng, 12, size))
        encoder.close()
    return tmp_path / "videos"


def test_a_folder_of_videos(videos, tmp_path):
    dataset = open_dataset(videos)
    said = refused(
        "of episode 2: expected frames of 32x32, got 48x48. .* size=32 32", export, dataset, tmp_path / "out", **H264
    )
    assert "skip_damaged" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]
    refused("`size`: expected an even height and width for", export, dataset, tmp_path / "out", size=(31, 32), **H264)
    labels = labels_for(dataset, tmp_path / "labels")
    export(with_labels(dataset, labels), tmp_path / "out", size=(24, 32), **H264)
    again = open_dataset(tmp_path / "out")
    assert again.tasks == ("cut", "pour")
    assert [e.tasks for e in again.episodes] == [("cut",), ("pour",), ("pour",)]
    for index in range(3):
        source = dataset.frames(index)[:, 0]
        expected = [np.asarray(Image.fromarray(f).resize((32, 24), Image.Resampling.BILINEAR)) for f in source]
        close(again.frames(index)[:, 0], np.stack(expected))


def test_memory_does_not_grow_with_an_episode(pixels, tmp_path, monkeypatch):
    """Frames pass in blocks: nobody asks for all of them."""
    monkeypatch.setattr(pixels, "frames", lambda *_, **__: pytest.fail("all frames at once"))
    assert export(pixels, tmp_path / "out", images="image").frames == sum(length for _, length, _ in pixels.episodes)


def test_damaged_episodes(stored, tmp_path):
    stored.broken = {0, 3}
    refused(r"0.bin: wrong checksum. .*Nothing was exported. .*skip_damaged=True", export, stored, tmp_path / "out")
    labels = labels_for(stored, tmp_path / "labels")
    stored.damaged = (Damage(7, "no end"),)
    stored.jpegs[2][1] = stored.jpegs[2][1][:-40]
    stored.jpegs[1] = [encode_image(np.zeros((8, 8, 3), dtype=np.uint8))]
    refused("no end. Nothing was exported", lambda: export(with_labels(stored, labels), tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]
    done = export(with_labels(stored, labels), tmp_path / "out", skip_damaged=True)
    assert done.episodes == (4,)
    assert [damage.episode_index for damage in done.left_out] == [0, 1, 2, 3, 7]
    assert "expected frames of shape [16, 24, 3], got [8, 8, 3]" in done.left_out[1].reason
    assert "not a readable JPEG" in done.left_out[2].reason
    again = open_dataset(tmp_path / "out")
    assert again.features[CAMERA].dtype == "image"  # although the first episode could not say so
    assert again.columns(0, ["latent.codes"])["latent.codes"][:, 0].tolist() == [4] * 5
    assert read_meta(tmp_path / "out", "export.json")["episodes"] == [4]
    stored.broken = set(range(5))
    refused("`source`: no episode can be read: ", export, stored, tmp_path / "none", skip_damaged=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": "png"}, "`images`: expected one of auto, video, image, got 'png'"),
        ({"size": (0, 4)}, "`size_height`: expected a whole number of at least 1"),
        ({"size": (4,)}, "`size`: expected 2 numbers, height and width, got 1"),
        ({"video_codec": "vp9"}, "`video_codec`: expected one of libsvtav1, h264"),
        ({"episodes": "8:9"}, "`episodes`: expected"),
    ],
)
def test_options_that_make_no_sense(stored, tmp_path, options, says):
    refused(says, export, stored, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_places_that_make_no_sense(tmp_path, monkeypatch):
    source = open_dataset(write_dataset(tmp_path / "d", [3], cameras=False))
    for out in ("d", "d/export"):
        refused("`out`: expected a folder outside the source dataset", export, source, tmp_path / out)
    (tmp_path / "there").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(type(source), "columns", lambda *_: pytest.fail("read before looking"))
        refused("`out`: expected a folder that does not exist", export, source, tmp_path / "there", skip_damaged=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LeRobotWriter, "add_episode", full)
    refused("cannot write .*out: No space left on device. Nothing half-written is", export, source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "there"]


def test_the_verb(videos, tmp_path, capsys):
    (videos / "cut" / "broken.mp4").write_bytes(b"no video")
    labels = labels_for(open_dataset(videos), tmp_path / "labels")
    words = ["export", str(videos), "--out", str(tmp_path / "out"), "--labels", str(labels), "--size", "32", "32"]
    words += ["--video-codec", "h264"]
    assert main(words) == 2
    assert "--skip-damaged" in capsys.readouterr().err
    assert main([*words, "--skip-damaged"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"Exported 3 episodes, 36 frames: {tmp_path / 'out'}\n"
    assert printed.err.startswith("left out: episode 1: ")
    assert open_dataset(tmp_path / "out").columns(2, ["latent.codes"])["latent.codes"][0].tolist() == [3, 0]


def same_values(again, source):
    """All columns and all frames, bit for bit."""
    columns = [key for key in source.features if key not in (*source.cameras, *INDEX_KEYS)]
    assert len(columns) > 1
    assert again.cameras == source.cameras
    for new, episode in enumerate(source.episodes):
        assert again.episodes[new].tasks == (episode.tasks[:1] or ("",))
        got, expected = again.columns(new, columns), source.columns(episode.index, columns)
        for key in columns:
            assert got[key].tolist() == expected[key].tolist(), key
        for key in source.cameras:
            np.testing.assert_array_equal(again.frames(new, [key]), source.frames(episode.index, [key]))


def test_rlds_comes_through_whole(tmp_path):
    source = open_rlds(write_rlds(tmp_path / "toy", shards=(1, 2)))
    done = export(with_labels(source, labels_for(source, tmp_path / "labels")), tmp_path / "out")
    again = open_dataset(done.path)
    same_values(again, source)
    for episode in source.episodes:
        for key in source.cameras:
            assert again.encoded_images(episode.index, key) == source.encoded_images(episode.index, key)


@needs_real
def test_the_bridge_sample(tmp_path):
    source = open_dataset(BRIDGE)
    done = export(with_labels(source, labels_for(source, tmp_path / "labels", per_file=10)), tmp_path / "out")
    again = open_dataset(done.path)
    assert (len(again.episodes), again.fps) == (25, source.fps)
    same_values(again, source)
    assert set(read_meta(done.path, "export.json")["frames"].values()) == {"same"}
