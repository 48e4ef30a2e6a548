"""Folders of videos: frames against a full sequential decode, frame rates, captions, damaged files."""

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.data import RobotDataset, camera_keys, export, inspect_dataset, open_dataset
from lattok.data.formats import video_times
from lattok.data.formats.captions import captions_of
from lattok.data.formats.frame_plan import schedule
from lattok.data.formats.video_folder import CAMERA, VideoFolder
from lattok.data.formats.video_times import VideoTimes, read_times
from lattok.data.video import VideoWriter
from tests.conftest import moving_square
from tests.errors import refused
from tests.real import franka, needs_real

B_FRAMES = {"preset": "veryfast", "g": "12", "bf": "3"}
FORMATS = {
    "a.mp4": ("libx264", B_FRAMES),
    "b.mkv": ("libx264", B_FRAMES),
    "c.mov": ("libx264", B_FRAMES),
    "d.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8", "g": "12"}),
    "e.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "f.avi": ("mpeg4", {"g": "12"}),
    "g.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
}


def write_video(
    path: Path,
    length: int = 20,
    fps: float = 10,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times_ms: Sequence[int] | None = None,
    size: int = 32,
    width: int = 0,
    degrees: int = 0,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A video in which every frame has its own look, shown at `times_ms` or at a constant rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=muxer or {}) as container:
        try:
            stream = container.add_stream(codec, Fraction(fps).limit_denominator(1001), options=options or B_FRAMES)
        except (av.error.FFmpegError, ValueError):
            pytest.skip(f"this PyAV has no encoder {codec}")
        stream.height, stream.width = size, width or size
        stream.pix_fmt = "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        for t, image in enumerate(moving_square(np.random.default_rng(3), length, size)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:, : width or size]), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[t], Fraction(1, 1000)
                stream.codec_context.time_base = frame.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times [n] and pixels [n, H, W, 3] of all frames, decoded one after the other."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return np.array([time for time, _ in frames]), np.stack([image for _, image in frames])


def resampled(path: Path, length: int, fps: float) -> np.ndarray:
    """Frame i: the decoded one nearest to i / fps after the first, by brute force."""
    times, images = decoded(path)
    return images[[int(np.argmin(np.abs(times - (times[0] + i / fps)))) for i in range(length)]]


def remux(source: Path, target: Path, change) -> None:
    """Copy the packets of a video that `change(number, packet)` returns."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            changed = change(number, packet)
            if changed is not None:
                changed.stream = stream
                new.mux(changed)


def test_every_format_gives_the_frames_of_a_full_decode(tmp_path: Path):
    for name, (codec, options) in FORMATS.items():
        write_video(tmp_path / "wave" / name, codec=codec, options=options)
    dataset = VideoFolder(tmp_path)
    checked: RobotDataset = dataset
    assert (checked.kind, checked.robot, checked.damaged) == ("video", None, ())
    assert dataset.fps == 10
    assert dataset.cameras == (CAMERA,) == camera_keys(dataset, ["video"])
    assert dataset.features[CAMERA] == ("video", (32, 32, 3), None)
    for episode, name in zip(dataset.episodes, FORMATS, strict=True):
        path = tmp_path / "wave" / name
        _, images = decoded(path)
        assert dataset.files_of(episode.index) == (path,)
        assert episode == (episode.index, len(images), ("wave",)), name
        np.testing.assert_array_equal(dataset.frames(episode.index)[:, 0], images, err_msg=name)
        for t in (19, 0, 7):  # seeks
            np.testing.assert_array_equal(dataset.frames(episode.index, indices=[t])[0, 0], images[t], err_msg=name)
        np.testing.assert_array_equal(dataset.frames(episode.index, indices=[9, 2, 9])[:, 0], images[[9, 2, 9]])


@pytest.mark.parametrize(
    ("name", "codec", "options", "muxer"),
    [
        ("fragments.mp4", "libx264", B_FRAMES, {"movflags": "frag_keyframe+empty_moov"}),
        ("recorded.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "12"}, {"live": "1"}),
        ("open_groups.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3"}, {}),
    ],
)
def test_files_that_are_hard_to_seek_in(tmp_path: Path, name: str, codec: str, options: dict, muxer: dict):
    path = write_video(tmp_path / name, 50, codec=codec, options=options, muxer=muxer)
    dataset, (_, images) = VideoFolder(tmp_path), decoded(path)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], images)
    for t in range(50):
        np.testing.assert_array_equal(dataset.frames(0, indices=[t])[0, 0], images[t], err_msg=f"frame {t}")


def test_columns_say_where_a_row_is(tmp_path: Path):
    for name in ("lift/b.mp4", "lift/a.mp4", "push/c.mp4"):
        write_video(tmp_path / name, length=5)
    dataset = VideoFolder(tmp_path, "people")
    assert [file.name for i in range(3) for file in dataset.files_of(i)] == ["a.mp4", "b.mp4", "c.mp4"]
    assert dataset.tasks == ("lift", "push")
    columns = dataset.columns(2, ["timestamp", "frame_index", "episode_index", "task_index"])
    np.testing.assert_array_equal(columns["timestamp"], np.arange(5, dtype=np.float32) / 10)
    assert columns["timestamp"].dtype == np.float32
    assert columns["frame_index"].tolist() == [0, 1, 2, 3, 4]
    assert columns["episode_index"].tolist() == [2] * 5
    assert columns["task_index"].tolist() == [1] * 5
    assert all(column.dtype.name == dataset.features[key].dtype for key, column in columns.items())
    assert repr(dataset) == "VideoFolder('people', 3 episodes, 15 frames, 10 fps)"
    refused("`keys`: expected columns among timestamp, .*, got 'action'", dataset.columns, 0, ["action"])
    refused("`episode_index`: expected an episode of `people` \\(0 to 2\\), got 3", dataset.columns, 3, ["timestamp"])


def test_variable_rates_and_late_starts_are_resampled_to_the_nearest_frames(tmp_path: Path, rng):
    gaps = rng.integers(15, 250, 30)
    for name in ("variable.mp4", "variable.mkv"):
        write_video(tmp_path / name, length=30, times_ms=(4000 + np.cumsum(gaps)).tolist())
    for name in ("x.mp4", "y.mp4", "z.mp4"):
        write_video(tmp_path / name, length=2)
    dataset = VideoFolder(tmp_path)
    assert dataset.fps == 10
    for index, name in enumerate(("variable.mkv", "variable.mp4")):
        path, length = tmp_path / name, dataset.episodes[index].length
        assert abs(length / 10 - gaps[1:].sum() / 1000) < 0.35  # and the duration of the last frame
        expected = resampled(path, length, 10)
        np.testing.assert_array_equal(dataset.frames(index)[:, 0], expected)
        for t in (length - 1, 3, 11):
            np.testing.assert_array_equal(dataset.frames(index, indices=[t])[0, 0], expected[t])
    assert [finding.what for finding in dataset.findings] == ["2 of 5 videos do not keep to 10 fps (first: episode 0)."]


@pytest.mark.parametrize(("fps", "length"), [(5, 10), (15, 30), (10, 20), (24, 48), (0.5, 1), (0.01, 1)])
def test_another_rate_is_resampled(tmp_path: Path, fps: float, length: int):
    path = write_video(tmp_path / "a.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    dataset = VideoFolder(tmp_path, fps=fps)
    assert (dataset.fps, dataset.episodes[0].length) == (fps, length)
    times, images = decoded(path)
    got = dataset.frames(0)[:, 0]
    for i, image in enumerate(got):  # where two are equally near, either is right here
        distance = np.abs(times - i / fps)
        near = np.flatnonzero(distance <= distance.min() + 2e-3)
        assert any(np.array_equal(image, images[k]) for k in near)


def test_a_coarse_clock_makes_no_frames():
    """A tick of the file's clock may be longer than a frame of the wanted rate."""
    for rate, fps, length in ((30, 60, 180), (30, 300, 900), (30, 29.97, 90), (10, 25, 225)):
        video = VideoTimes.of(np.arange(90), 90 / rate, 1 / rate, rate, (32, 32))
        assert schedule(video, fps).length == length


def test_a_rate_that_would_repeat_each_frame_for_ever_takes_no_memory(tmp_path: Path):
    """A description file, or the header of one video, may say any rate; the other videos stay."""
    video = VideoTimes.of(np.arange(100), 10, 0.1, 10, (32, 32))
    refused("`fps`: expected a rate at which 100 frames are not 1e.10, got 1e.09", schedule, video, 1e9)
    write_video(tmp_path / "a.mp4", 4)
    refused("a.mp4: `fps`: expected a rate at which 4 frames are not", VideoFolder, tmp_path, fps=9e5)


def test_the_most_common_rate_is_the_datasets(tmp_path: Path):
    for i, fps in enumerate((25, 30000 / 1001, 30000 / 1001)):
        write_video(tmp_path / f"{i}.mkv", fps=fps, length=40)
    dataset = VideoFolder(tmp_path)
    assert dataset.fps == pytest.approx(30000 / 1001)
    assert [episode.length for episode in dataset.episodes] == [47, 40, 40]
    np.testing.assert_array_equal(dataset.frames(1)[:, 0], decoded(tmp_path / "1.mkv")[1])


def test_a_start_other_than_zero_changes_nothing(tmp_path: Path):
    for name in ("a.mp4", "a.mkv"):
        write_video(tmp_path / name, times_ms=[7000 + 100 * t for t in range(20)])
    dataset = VideoFolder(tmp_path)
    assert (dataset.fps, dataset.findings) == (10, ())
    for index in (0, 1):
        path = dataset.files_of(index)[0]
        assert decoded(path)[0][0] == 7
        np.testing.assert_array_equal(dataset.frames(index)[:, 0], decoded(path)[1])
        np.testing.assert_array_equal(dataset.frames(index, indices=[13])[0, 0], decoded(path)[1][13])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_sound_changes_nothing(tmp_path: Path, name: str, seconds: float):
    silent = write_video(tmp_path / "silent" / name)
    loud = (tmp_path / "loud").mkdir() or tmp_path / "loud" / name
    with av.open(str(silent)) as old, av.open(str(loud), "w") as new:
        stream, sound = new.add_stream_from_template(old.streams.video[0]), new.add_stream("aac", 16000)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, int(16000 * seconds)), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        new.mux([*sound.encode(frame), *sound.encode()])
    dataset = VideoFolder(tmp_path / "loud")
    assert dataset.damaged == ()
    np.testing.assert_array_equal(dataset.frames(0), VideoFolder(tmp_path / "silent").frames(0))


def test_nested_folders_are_recognised(tmp_path: Path):
    write_video(tmp_path / "train" / "push" / "1.mp4", length=2)
    assert open_dataset(tmp_path).tasks == ("push",)


def test_cameras_of_a_dataset_in_the_folder_are_no_episodes(tmp_path: Path, make_dataset):
    write_video(tmp_path / "recording.mp4", length=2)
    assert len(open_dataset(tmp_path).episodes) == 1
    root = make_dataset([12]).root
    refused("expected a folder with videos alone, got .* with the dataset .*Put the", open_dataset, tmp_path)
    assert root.parent == tmp_path


def test_edit_lists_hide_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", length=30, times_ms=[-700 + 100 * t for t in range(30)])
    _, images = decoded(path)
    assert len(images) < 30  # the muxer cut what lies before zero
    dataset = VideoFolder(tmp_path)
    assert dataset.episodes[0].length == len(images)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], images)


def test_frames_that_are_not_shown_do_not_count(tmp_path: Path):
    source = write_video(tmp_path / "source" / "a.webm", codec="libvpx", options={"deadline": "realtime"})
    hidden = (tmp_path / "vp8").mkdir() or tmp_path / "vp8" / "a.webm"

    def hide(number: int, packet: av.Packet) -> av.Packet:
        if number != 7:
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        changed = av.Packet(bytes(data))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        return changed

    remux(source, hidden, hide)
    _, images = decoded(hidden)
    assert len(images) == 19
    dataset = VideoFolder(tmp_path / "vp8", fps=10)
    assert dataset.episodes[0].length == 20  # resampled over the hole: the time is the same
    assert dataset.damaged == ()
    np.testing.assert_array_equal(dataset.frames(0)[[6, 8], 0], images[[6, 7]])


def test_a_video_that_begins_in_the_middle_begins_at_its_first_key_frame(tmp_path: Path):
    options = {"deadline": "realtime", "cpu-used": "8", "g": "12"}
    source = write_video(tmp_path / "source" / "a.webm", 30, codec="libvpx-vp9", options=options)
    (tmp_path / "cut").mkdir()
    remux(source, tmp_path / "cut" / "a.webm", lambda number, packet: packet if number >= 5 else None)
    dataset = VideoFolder(tmp_path / "cut")
    assert dataset.episodes[0].length == 18  # the second group of twelve begins with frame 12
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], decoded(source)[1][12:])


@pytest.mark.parametrize("cover", [True, False])
def test_a_cover_is_no_film_and_a_second_film_is_said(tmp_path: Path, cover: bool):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        tracks = [container.add_stream(codec, 10) for codec in (("mjpeg", "libx264") if cover else ("libx264",) * 2)]
        for track in tracks:
            track.height = track.width = 32
            track.pix_fmt = "yuvj420p" if track.codec_context.name == "mjpeg" else "yuv420p"
        for number, track in enumerate(tracks):
            for level in range(1 if cover and not number else 5):
                frame = np.full((32, 32, 3), 40 * level + 20 * number, np.uint8)
                container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(track.encode())
    dataset = open_dataset(tmp_path)
    shown = dataset.frames(0)[:, 0].mean((1, 2, 3))
    np.testing.assert_allclose(shown, [40 * level + 20 * cover for level in range(5)], atol=3)
    assert [each.kind for each in dataset.findings] == ["tracks"]


def test_rotated_videos_come_upright(tmp_path: Path):
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV does not write rotations")
    rotated = write_video(tmp_path / "r" / "a.mp4", degrees=90)
    with av.open(str(rotated)) as container:
        assert next(container.decode(video=0)).rotation == 90  # counter-clockwise
    _, images = decoded(rotated)
    np.testing.assert_array_equal(VideoFolder(tmp_path / "r").frames(0)[:, 0], np.rot90(images, axes=(1, 2)))
    write_video(tmp_path / "phone" / "b.mp4", width=16, degrees=90)
    dataset = VideoFolder(tmp_path / "phone")
    assert dataset.frames(0).shape[2:] == dataset.features[CAMERA].shape == (16, 32, 3)
    export(dataset, tmp_path / "out", video_codec="h264")
    assert open_dataset(tmp_path / "out").features[CAMERA].shape == (16, 32, 3)


def test_sizes_may_differ(tmp_path: Path):
    for name, size in (("a", 48), ("b", 32), ("c", 32)):
        write_video(tmp_path / f"{name}.mp4", size=size, length=4)
    dataset = VideoFolder(tmp_path)
    assert dataset.features[CAMERA].shape == (32, 32, 3)
    assert dataset.frames(0).shape == (4, 1, 48, 48, 3)
    assert dataset.frames(0, transform=lambda block: block[:, ::2, ::2]).shape == (4, 1, 24, 24, 3)


def test_hidden_files_other_files_and_loops_are_passed_by(tmp_path: Path):
    write_video(tmp_path / "deep" / "er" / "A.MP4", length=3)
    shutil.copy(tmp_path / "deep" / "er" / "A.MP4", tmp_path / "._a.mp4")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    dataset = VideoFolder(tmp_path)
    assert [dataset.files_of(e.index) for e in dataset.episodes] == [(tmp_path / "deep" / "er" / "A.MP4",)]
    assert dataset.tasks == ("er",)


def damage(folder: Path) -> dict[str, str]:
    """Files that are not whole, and what should be said about them."""
    write_video(folder / "good.mp4")
    fast = folder / "cut_fast.mp4"
    with av.open(str(folder / "good.mp4")) as old, av.open(str(fast), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    matroska = write_video(folder / "cut.mkv")
    webm = write_video(folder / "cut.webm", codec="libvpx-vp9", options={"deadline": "realtime"})
    for path in (fast, matroska, webm):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    whole = (folder / "good.mp4").read_bytes()
    (folder / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "garbage.webm").write_bytes(np.random.default_rng(0).bytes(5000))
    write_video(folder / "b_frames.avi")
    os.truncate(write_video(folder / "zeros.mkv"), 2**30)  # a demuxer searches them one by one, for 8 s
    reasons = dict.fromkeys(("cut_fast.mp4", "cut.mkv", "cut.webm"), "is truncated") | {"zeros.mkv": "only zeros"}
    reasons |= dict.fromkeys(("no_index.mp4", "text.mp4", "garbage.webm"), "truncated or damaged")
    reasons |= {"empty.mp4": "It is empty: copy it again."}
    return reasons | {"b_frames.avi": "Convert it to mp4"}


def test_damaged_files_are_listed_and_keep_their_numbers(tmp_path: Path):
    reasons = damage(tmp_path)
    dataset = VideoFolder(tmp_path)
    order = sorted([*reasons, "good.mp4"])
    assert [damage.episode_index for damage in dataset.damaged] == [i for i, n in enumerate(order) if n != "good.mp4"]
    for index, reason in dataset.damaged:
        assert str(tmp_path / order[index]) in reason
        assert reasons[order[index]] in reason
        assert "\n" not in reason
        refused(f"episode {index}: ", dataset.frames, index)
    (episode,) = dataset.episodes
    assert episode.index == order.index("good.mp4")
    np.testing.assert_array_equal(dataset.frames(episode.index)[:, 0], decoded(tmp_path / "good.mp4")[1])
    (tmp_path / "good.mp4").unlink()
    refused("none of 9 videos can be read, first .*b_frames.avi", VideoFolder, tmp_path)


def test_what_breaks_after_opening_is_an_error_with_file_and_episode(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4")
    dataset = VideoFolder(tmp_path)
    write_video(path, length=12)  # another, shorter video takes its place
    refused("episode 0: .*a.mp4: expected a frame at 1.200 s, got the nearest at 1.100", dataset.frames, 0)
    path.unlink()
    refused("episode 0: missing video file .*a.mp4", dataset.frames, 0, indices=[3])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fps": 0}, "`fps`: expected a number greater than 0, got 0"),
        ({"fps": "fast"}, "`fps`: expected a number greater than 0, got 'fast'"),
        ({"captions": "nowhere.csv"}, "`captions`: cannot read nowhere.csv: No such file"),
        ({"captions": "captions.xlsx"}, "`captions`: expected one of .jsonl, .json, .csv, .tsv, got '.xlsx'"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict, text: str):
    write_video(tmp_path / "a.mp4", length=2)
    refused(text, open_dataset, tmp_path, **arguments)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("cut", "pour"):
        write_video(tmp_path / name / "a.mp4", length=3)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("pour"):  # whoever runs the tests may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused(r"cannot read .*pour \(Permission denied\). Check its permissions", VideoFolder, tmp_path)


def test_folders_without_videos(tmp_path: Path):
    refused("`path`: expected a folder with videos \\(.mp4, .*\\), got none in", VideoFolder, tmp_path)
    refused("`path`: expected a folder with videos, got .*nothing", VideoFolder, tmp_path / "nothing")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips in two classes, two of them with the same name."""
    source = write_video(tmp_path / "push" / "1.mp4", length=2)
    for name in ("lift/1.mp4", "lift/22.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / name)
    return tmp_path


CAPTIONS = ("lifts a cup", "lifts it, again", "pushes")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "captions.jsonl",
            """{"file": "lift/1.mp4", "caption": "lifts a cup"}

            {"file": "22", "caption": "lifts it, again"}
            {"file": "./push/1", "caption": " pushes "}""",
        ),
        (
            "captions.json",
            """[{"id": 22, "label": "lifts it, again"}, {"id": "lift/1", "label": "lifts a cup"},
            {"id": "push/1", "label": "pushes"}]""",
        ),
        (
            "captions.csv",
            '\ufeffpath,text,score\r\nlift\\1.mp4,lifts a cup,1\r\n22.mp4,"lifts it, again",2\r\npush/1,pushes,3',
        ),
        ("captions.csv", "file;caption\nlift/1.mp4;lifts a cup\n22;lifts it, again\npush/1.mp4;pushes\n"),
        ("captions.tsv", "video\tinstruction\nlift/1.mp4\tlifts a cup\n22\tlifts it, again\npush/1.mp4\tpushes\n"),
    ],
)
def test_captions_are_found_and_joined(clips: Path, name: str, text: str):
    (clips / name).write_text(text, encoding="utf-8", newline="")
    dataset = VideoFolder(clips)
    assert [episode.tasks for episode in dataset.episodes] == [(caption,) for caption in CAPTIONS]
    assert dataset.tasks == CAPTIONS
    assert dataset.findings == ()


def test_videos_without_caption_take_their_folders_name(clips: Path):
    captions = clips / "elsewhere.jsonl"
    captions.write_text('{"file": "22", "caption": "lifts\\u2028it"}\n', encoding="utf-8")
    dataset = VideoFolder(clips, captions=captions)
    assert [episode.tasks for episode in dataset.episodes] == [("lift",), ("lifts\u2028it",), ("push",)]
    assert [finding.what for finding in dataset.findings] == [f"2 of 3 videos have no caption in {captions}."]
    said = inspect_dataset(dataset).render()
    assert "note    2 of 3 videos have no caption" in said
    assert "no language instruction" not in said  # and to write such a file is no advice any more


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.jsonl", '{"file": "1", "caption": "x"}', "1 in the folder more than once (1)"),
        (
            "c.jsonl",
            "".join(json.dumps({"file": f, "caption": "x"}) + "\n" for f in ("a", "b", "c", "d", "22", "lift/22.mp4")),
            "got 4 not in the folder (a, b, c, …), 1 in two rows (lift/22.mp4). Name each video by its path",
        ),
        ("c.jsonl", '{"file": "22"}', "c.jsonl, line 1: expected one of the names caption, text, label, instruction"),
        (
            "c.jsonl",
            '\n{"caption": "x"}',
            "c.jsonl, line 2: expected one of the names file, file_name, video, path, id, got",
        ),
        ("c.jsonl", '{"file": "22", "caption": ""}', "line 1: expected a text as `caption`, got ''"),
        ("c.jsonl", '{"file": "22", "caption": 3}', "line 1: expected a text as `caption`, got 3"),
        ("c.jsonl", '{"file": "22", "cap', "c.jsonl, line 1 is not valid JSON"),
        ("c.jsonl", "3", "line 1`: expected a value of type dict, got 3"),
        ("c.jsonl", "", "c.jsonl holds no captions"),
        ("c.json", '{"22": 1}', "c.json`: expected a list of objects, one for each video, or an object of captions"),
        ("c.json", '{"77": "x"}', "c.json: expected one row per video of the folder, got 1 not in the folder (77)"),
        ("c.json", "[" * 100_000, "c.json is not valid JSON"),
        ("c.csv", "file,caption\n22,lifts it, again\n", "c.csv, line 2: expected 2 columns. Put texts that hold"),
        ("c.csv", "file,caption\n22\n", "c.csv, line 2: expected 2 columns"),
        (
            "c.csv",
            "22,lifts\n1,x\n",
            "line 2: expected one of the names file, file_name, video, path, id, got 22",
        ),
        ("c.csv", "file,caption\n", "c.csv holds no captions"),
        ("c.csv", 'file,caption\n22,"' + "x" * 200_000 + '"\n', "c.csv, line 1: field larger than"),
    ],
)
def test_bad_captions(clips: Path, name: str, text: str, message: str):
    (clips / name).write_text(text, encoding="utf-8")
    refused(re.escape(message), VideoFolder, clips, captions=clips / name)


def test_many_videos_of_one_name(tmp_path: Path):
    files = [f"{i}/video.mp4" for i in range(60_000)]
    (tmp_path / "captions.jsonl").write_text('{"file": "59999/video.mp4", "caption": "pours"}\n')
    start = time.process_time()
    assert captions_of(files, tmp_path / "captions.jsonl") == {"59999/video.mp4": "pours"}
    assert time.process_time() - start < 4
    (tmp_path / "captions.jsonl").write_text('{"file": "video", "caption": "pours"}\n')
    refused(r"1 in the folder more than once \(video\)", captions_of, files[:3], tmp_path / "captions.jsonl")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lift/metadata.csv", "file_name,text\n1.mp4,lifts a cup\n22.mp4,lifts it\n9.mp4,was not downloaded\n"),
        (
            "metadata.jsonl",
            '{"file_name": "lift/1.mp4", "text": "lifts a cup"}\n{"file_name": "lift/22.mp4", "text": ""}\n',
        ),
        ("metas/1.txt", "lifts\na cup"),
        ("lift/1.txt", "lifts a cup"),
        ("lift/1.txt", "0.1 0.2 0.3 s"),
        ("metadata.csv", "clip,seconds\n1.mp4,3\n"),
        (
            "labels/train.json",
            '[{"id": "22", "label": "lifts it", "template": "lifts [it]"}, {"id": "lift/1", "label": "lifts a cup"}]',
        ),
        ("labels/train.json", '[{"id": "lift/1", "label": "lifts a cup"}]'),  # of few
        ("split.csv", "video,label\nlift/1,17\n22,3\n"),
    ],
)
def test_captions_as_others_write_them(clips: Path, name: str, text: str):
    (clips / name).parent.mkdir(exist_ok=True)
    (clips / name).write_text(text)
    if name.endswith(".txt"):
        (clips / name).with_name("22.txt").write_text("lifts it")
    said = "lifts" in text and (name != "labels/train.json" or "22" in text)
    assert VideoFolder(clips).tasks[0] == ("lifts a cup" if said else "lift")


def test_smaller_copies_and_numbers_in_stores_are_said(tmp_path: Path):
    """As of Ego-Exo4D, and of recorders that put films into a store."""
    for name, size in (("take/cam1.mp4", 64), ("take/down/cam1.mp4", 32), ("take/down/cam2.mp4", 32)):
        write_video(tmp_path / name, length=4, size=size)
    (tmp_path / "arm.zarr/q").mkdir(parents=True)
    for name in ("0.0", "1.0"):
        (tmp_path / "arm.zarr/q" / name).write_bytes(b"numbers")
    said = {each.kind: each for each in VideoFolder(tmp_path).findings}
    assert said.keys() == {"smaller-copies", "numbers-beside"}
    assert (said["smaller-copies"].episodes, "1 .zarr" in said["numbers-beside"].what) == ((1,), True)


def test_captions_in_another_encoding_or_twice(clips: Path):
    (clips / "captions.csv").write_bytes("file,caption\n22,drückt\n".encode("latin-1"))
    refused("captions.csv is not UTF-8 text", VideoFolder, clips)
    (clips / "captions.jsonl").write_text("{}")
    refused("`captions`: expected one captions file in .*, got captions.jsonl and", VideoFolder, clips)


def test_opening_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "a.mp4")

    def no(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("lattok.data.formats.frame_plan.decode_at", no)
    monkeypatch.setattr("lattok.data.video.decode_at", no)
    monkeypatch.setattr("lattok.data.video._decoded", no)
    assert VideoFolder(tmp_path).columns(0, ["frame_index"])["frame_index"][-1] == 19


@needs_real
def test_a_real_transition_as_a_video(tmp_path: Path):
    images, _ = franka()
    encoder = VideoWriter(tmp_path / "reach" / "franka.mp4", 4, images.shape[1:3], "h264", threads=1)
    encoder.add(images)
    encoder.close()
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.fps, dataset.tasks) == ("video", 4, ("reach",))
    frames = dataset.frames(0)
    assert frames.shape == (2, 1, 256, 256, 3)
    assert np.abs(frames[:, 0].astype(int) - images).mean() < 5  # compressed, in colour by less detail
    inspection = inspect_dataset(dataset)
    assert inspection.headline().startswith(f"{dataset.name}: 1 episode")
    assert [finding.severity for finding in inspection.findings if finding.severity == "error"] == []


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of so many videos that what was read of them is kept: six, one of which is damaged."""
    monkeypatch.setattr(video_times, "MIN_CACHED_VIDEOS", 5)
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "videos"
    for i in range(3):
        write_video(root / f"{i}.mp4", fps=(25, 24, 30000 / 1001)[i], length=12)
    write_video(root / "3.mkv", length=6, times_ms=[0, 40, 90, 200, 210, 350])
    write_video(root / "4.mkv", length=3, times_ms=[500, 540, 580])
    (root / "5.mp4").write_bytes(b"no video")
    return root


def opened(root: Path, monkeypatch: pytest.MonkeyPatch, fps: float = 25) -> tuple[VideoFolder, list[str]]:
    """The folder, and the files that were read to open it."""
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(video_times, "read_times", lambda path: read.append(path.name) or read_times(path))
        return VideoFolder(root, fps=fps), sorted(read)


def told(dataset: VideoFolder) -> list:
    """All that opening finds out."""
    plans = [
        (*plan[:2], None if plan.times is None else plan.times.tolist()) for (plan,) in dataset._schedules.values()
    ]
    return [dataset.episodes, dataset.damaged, dataset.fps, dataset._sizes, plans]


def test_many_videos_are_read_once(many: Path, monkeypatch: pytest.MonkeyPatch):
    first, read = opened(many, monkeypatch)
    assert read == ["0.mp4", "1.mp4", "2.mp4", "3.mkv", "4.mkv", "5.mp4"]
    again, read = opened(many, monkeypatch)
    assert read == ["5.mp4"]  # perhaps it is whole by now
    assert told(again) == told(first)
    assert told(opened(many, monkeypatch, fps=7)[0]) == told(VideoFolder(many, fps=7))
    write_video(many / "1.mp4", fps=25, length=3)  # changed, new, gone
    write_video(many / "6.mp4", fps=25, length=4)
    (many / "2.mp4").unlink()
    changed, read = opened(many, monkeypatch)
    assert read == ["1.mp4", "5.mp4", "6.mp4"]
    assert [episode.length for episode in changed.episodes] == [12, 3, *(e.length for e in first.episodes[3:]), 4]
    assert opened(many, monkeypatch)[1] == ["5.mp4"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "strange", "folder"])
def test_what_was_kept_and_is_damaged_counts_as_nothing(many: Path, monkeypatch: pytest.MonkeyPatch, damage: str):
    first, everything = opened(many, monkeypatch)
    (file,) = (many.parent / "cache").rglob("*.parquet")
    data = file.read_bytes()
    if damage == "flipped":
        pages = pq.ParquetFile(file).metadata.row_group(0).column(0)
        middle = (pages.dictionary_page_offset or pages.data_page_offset) + pages.total_compressed_size // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(data[:100])
    elif damage == "strange":
        pq.write_table(pa.table({"file": ["0.mp4"], "bytes": ["many"]}), file)
    else:  # where nothing can be written either
        file.unlink()
        file.mkdir()
    second, read = opened(many, monkeypatch)
    assert told(second) == told(first)
    assert read == everything


def test_an_interrupt_keeps_what_was_read(many: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(path: Path):
        if path.name == "3.mkv":
            raise KeyboardInterrupt
        return read_times(path)

    monkeypatch.setattr(video_times, "FILES_PER_TASK", 1)
    with monkeypatch.context() as patch:
        patch.setattr(video_times, "read_times", stop)
        with pytest.raises(KeyboardInterrupt):
            VideoFolder(many)
    assert opened(many, monkeypatch)[1] == ["3.mkv", "4.mkv", "5.mp4"]


def test_files_of_several_cameras_are_one_episode_where_it_is_described(tmp_path: Path):
    root = tmp_path / "films"
    for number, length in enumerate((8, 9)):
        write_video(root / f"open/ep{number}_cam_left.mp4", length)
        write_video(root / f"open/ep{number}_cam_right.mp4", length + 1, size=48)
    alone = open_dataset(root)
    assert len(alone.episodes) == 4
    (said,) = (str(each) for each in alone.findings if each.kind == "files-as-episodes")
    (tmp_path / "films.json").write_text(said.split("rite ")[1].split(" into ")[0])
    dataset = open_dataset(tmp_path / "films.json")
    assert dataset.cameras == ("observation.images.left", "observation.images.right")
    assert [(each.length, each.tasks) for each in dataset.episodes] == [(8, ("open",)), (9, ("open",))]
    for camera, shape in (("left", (32, 32, 3)), ("right", (48, 48, 3))):
        assert dataset.features[f"observation.images.{camera}"].shape == shape
        other = open_dataset(root, views={"it": f"*_cam_{camera}.mp4"})
        np.testing.assert_array_equal(dataset.frames(1, [camera]), other.frames(1, ["it"])[:9])
    assert [path.name for path in dataset.files_of(0)] == ["ep0_cam_left.mp4", "ep0_cam_right.mp4"]
    write_video(root / "open/ep2_cam_left.mp4", 5)
    more = open_dataset(tmp_path / "films.json")
    assert len(more.episodes) == 2
    assert [*more.left_out] == ["open/ep2_cam_left.mp4"]
    assert not [each for each in open_dataset(root).findings if each.kind == "files-as-episodes"]
    for views, match in (
        ([], "views.*expected an object"),
        ({"a": "*x*"}, "one \\* a pattern"),
        ({"a": "left*", "b": "*"}, "0 files of a"),
    ):
        refused(match, open_dataset, root, views=views)
