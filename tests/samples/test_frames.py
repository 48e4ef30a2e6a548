"""Frames are exactly those that a decode of the whole file gives, and errors name file and time."""

import os
from collections.abc import Container
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from lattok.data import frames_from_lerobot, open_dataset, schema
from lattok.data.video import VERSION, VideoWriter, decode_at, probe
from lattok.samples import FramePairs
from lattok.samples import frames as frames_module
from lattok.samples.frames import FrameReader
from lattok.utils.checks import LattokError
from lattok.utils.parallel import Abandoned
from tests.conftest import put_video
from tests.data.edits import add_feature, set_column
from tests.data.memory import encode_image
from tests.errors import refused
from tests.process_jobs import together
from tests.samples.policies import CAMERAS, Demonstrations


def decode_whole(path, rows: Container[int] = range(10**6)) -> np.ndarray:
    """Frames `rows` of a file, counted from its start without seeking."""
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for i, frame in frames if i in rows])


@pytest.mark.parametrize("camera", ["corner2", "gripperPOV"])
def test_frames_equal_a_decode_of_the_whole_file(sample, camera):
    (path,) = {sample.video_span(e.index, "observation.images." + camera)[0] for e in sample.episodes}
    ends = np.cumsum([e.length for e in sample.episodes])
    chosen = {i: range(ends[i] - sample.episodes[i].length, ends[i]) for i in (0, 1, 24, 49)}
    expected = decode_whole(path, {row for rows in chosen.values() for row in rows})
    for index, rows in chosen.items():
        got = sample.frames(index, [camera])
        assert got.shape == (len(rows), 1, 128, 128, 3)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got[:, 0], expected[: len(rows)])
        expected = expected[len(rows) :]


def test_cameras_stand_side_by_side(sample):
    both = sample.frames(2)
    for v, key in enumerate(sample.cameras):
        np.testing.assert_array_equal(both[:, v], sample.frames(2, [key])[:, 0])


def test_indices_in_any_order(sample):
    whole = sample.frames(7, ["corner2"])
    wanted = [200, 3, 3, 90, 0]
    np.testing.assert_array_equal(sample.frames(7, ["corner2"], indices=wanted), whole[wanted])
    for wrong in ([], [-1], [217], [0.5], [3.0], np.arange(217) == 3, [[1]], ["1"], 3, [None]):
        refused("`indices`", sample.frames, 7, indices=wrong)


def test_a_transform_gives_a_frame_for_a_frame(sample, monkeypatch):
    for wrong in (lambda block: block[::2], lambda block: block.repeat(2, axis=0)):
        refused("`transform`", sample.frames, 2, transform=wrong)
    pictures = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    monkeypatch.setattr(sample, "blocks", lambda *_: iter([pictures]))
    refused("`frames` of `observation.images.corner2`: expected 35 frames, got 3", sample.frames, 2, ["corner2"])


def test_transform_sees_blocks_only(sample):
    seen = []

    def half(block: np.ndarray) -> np.ndarray:
        seen.append(len(block))
        return block[:, ::2, ::2]

    got = sample.frames(7, transform=half)
    np.testing.assert_array_equal(got, sample.frames(7)[:, :, ::2, ::2])
    assert max(seen) <= 64


def test_writer_and_reader_agree_on_every_frame_over_several_files(make_dataset):
    dataset = make_dataset([13, 9, 17, 5, 8], video_file_mb=0.001, chunk_files=2)
    spans = [dataset.video_span(i, dataset.cameras[0]) for i in range(5)]
    files = {path for path, _, _ in spans}
    assert len(files) >= 3
    assert {path.parent.name for path in files} >= {"chunk-000", "chunk-001"}
    for index, (path, start, stop) in enumerate(spans):
        first = round(start * dataset.fps)
        expected = decode_whole(path)[first : round(stop * dataset.fps)]
        np.testing.assert_array_equal(dataset.frames(index, ["front"])[:, 0], expected)


def test_far_apart_frames_are_found_by_seeking(make_dataset):
    dataset = make_dataset([120])
    whole = dataset.frames(0)
    np.testing.assert_array_equal(dataset.frames(0, indices=[1, 50, 51, 119]), whole[[1, 50, 51, 119]])


def test_missing_video(make_dataset):
    dataset = make_dataset([6])
    dataset.video_span(0, dataset.cameras[1])[0].unlink()
    refused(r"missing video file .*observation\.images\.wrist.*file-000\.mp4", dataset.frames, 0)
    assert dataset.frames(0, ["front"]).shape[0] == 6


def test_truncated_video(make_dataset):
    dataset = make_dataset([40])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(r"cannot decode video .*file-000\.mp4 .*truncated or damaged", dataset.frames, 0)


def test_a_video_that_ends_too_early_names_the_time(make_dataset):
    dataset = make_dataset([10])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    put_video(path, np.zeros((6, 32, 32, 3), dtype=np.uint8), fps=10)
    refused(r"file-000\.mp4: expected a frame at 0\.600 s, got the nearest at 0\.500 s", dataset.frames, 0)


def test_a_file_that_is_no_video(make_dataset):
    dataset = make_dataset([6])
    dataset.video_span(0, dataset.cameras[0])[0].write_text("hello")
    refused("by its first bytes it is no MP4", dataset.frames, 0)


def whole_video(path, count: int) -> np.ndarray:
    """The first `count` frames of a video at 10 fps."""
    return np.concatenate([block.copy() for block in decode_at(path, np.arange(count) / 10, 10)])


def with_bytes(path, place: int, content: bytes) -> None:
    """Overwrite some bytes."""
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(whole)


def damaged_frame(path, number: int) -> None:
    """Garbage in the middle of a frame's data, of AV1 at its beginning: a decoder takes the middle for other pixels."""
    with av.open(str(path)) as container:
        packet = sorted((p for p in container.demux(video=0) if p.size), key=lambda p: p.pts)[number]
        middle = 0 if container.streams.video[0].codec.canonical_name == "av1" else packet.size // 2
    with_bytes(path, packet.pos + middle, b"garbage garbage garbage!")


SILENT_AV1 = pytest.mark.skipif(VERSION not in (16, 17, 18), reason="this PyAV decodes damaged AV1 without a word")


@pytest.mark.parametrize("codec", ["h264", pytest.param("libsvtav1", marks=SILENT_AV1)])
def test_damaged_frames_are_an_error_also_where_only_others_need_them(make_dataset, codec):
    dataset = make_dataset([30], video_codec=codec)
    whole = dataset.frames(0)
    path = dataset.video_span(0, dataset.cameras[0])[0]
    damaged_frame(path, 20)
    refused(r"cannot decode video .*file-000\.mp4 \(.*\)\. It is truncated or damaged", dataset.frames, 0)
    if codec == "h264":  # key frames are two frames apart
        refused(r"\(the frame at 2\.000 s is incomplete\)", dataset.frames, 0, indices=[21])
    np.testing.assert_array_equal(dataset.frames(0, indices=[3, 26]), whole[[3, 26]])


def outcome(read, *arguments) -> str:
    """What a `LattokError` says, if there is one."""
    try:
        read(*arguments)
    except LattokError as error:
        return str(error)
    return ""


def test_whatever_is_changed_in_a_video_no_other_error_appears(make_dataset, rng):
    path = make_dataset([25]).video_span(0, "observation.images.front")[0]
    content, texts = path.read_bytes(), []
    for i in range(120):
        changed, place = bytearray(content), int(rng.integers(len(content)))
        if i % 3 == 0:
            changed[place] ^= 1 << int(rng.integers(8))
        elif i % 3 == 1:
            changed[place : place + 16] = rng.bytes(len(changed[place : place + 16]))
        else:
            del changed[place : place + int(rng.integers(1, 200))]
        path.write_bytes(changed)
        texts += [outcome(probe, path), outcome(whole_video, path, 25)]
    assert not any("\n" in text for text in texts)
    assert sum(map(bool, texts[1::2])) > 80


def test_absurd_sizes_are_refused_before_memory_is_claimed(make_dataset, monkeypatch):
    dataset = make_dataset([6])
    monkeypatch.setattr("lattok.data.video.MOST_PIXELS", 32 * 32 - 1)
    refused(r"cannot decode video .* It is truncated or damaged", dataset.frames, 0)


def test_a_codec_that_nobody_knows(make_dataset):
    path = make_dataset([6]).video_span(0, "observation.images.front")[0]
    with_bytes(path, path.read_bytes().index(b"avc1\0\0"), b"zzzz")
    for read in (probe, lambda path: whole_video(path, 6)):
        refused(r"cannot decode video .* \(of an unknown codec\)", read, path)


def test_large_frames_come_in_smaller_blocks(make_dataset, monkeypatch):
    path = make_dataset([9]).video_span(0, "observation.images.front")[0]
    whole = whole_video(path, 9)
    monkeypatch.setattr("lattok.data.video.BLOCK_BYTES", 2 * whole[0].nbytes)
    assert [len(block) for block in decode_at(path, np.arange(9) / 10, 10)] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(whole_video(path, 9), whole)


def test_cameras_of_different_sizes(make_dataset):
    dataset = make_dataset([6])
    path = dataset.video_span(0, dataset.cameras[1])[0]
    put_video(path, np.zeros((6, 16, 64, 3), dtype=np.uint8), fps=10)
    refused(r"expected frames of one size, got 32x32x3 from .*front and 16x64x3", dataset.frames, 0)
    assert dataset.frames(0, transform=lambda block: block[:, :16, :16]).shape == (6, 2, 16, 16, 3)


def with_stored_images(dataset, images):
    """The dataset with a camera whose images stand in the table as PNG."""
    cells = [{"bytes": encode_image(image, "PNG"), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    set_column(dataset.data_file(0), "observation.images.top", pa.array(cells, kind))
    add_feature(dataset.root, "observation.images.top", "image", [8, 10, 3])
    return open_dataset(dataset.root)


def test_images_stored_in_the_table(make_dataset, rng):
    images = rng.integers(0, 256, (9, 8, 10, 3), dtype=np.uint8)
    opened = with_stored_images(make_dataset([5, 4], cameras=False), [Image.fromarray(image) for image in images])
    np.testing.assert_array_equal(opened.frames(1)[:, 0], images[5:])
    np.testing.assert_array_equal(opened.frames(0, indices=[3, 1])[:, 0], images[[3, 1]])


@pytest.mark.parametrize(("mode", "index"), [("LA", 0), ("RGBA", 3), ("I;16", 1)])
def test_stored_images_that_are_not_rgb(make_dataset, mode, index):
    images = [Image.new("RGB" if i < index else mode, (10, 8)) for i in range(5)]
    opened = with_stored_images(make_dataset([5], cameras=False), images)
    message = rf"images\.top` of episode 0, frame {index}: expected an upright RGB image, got mode {mode[:1]}"
    refused(message, opened.frames, 0)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_stored_images_of_grey_and_of_nothing_transparent(make_dataset, rng, mode):
    grey = np.repeat(rng.integers(0, 256, (5, 8, 10, 1), dtype=np.uint8), 3, axis=3)
    opened = with_stored_images(
        make_dataset([5], cameras=False), [Image.fromarray(image).convert(mode) for image in grey]
    )
    np.testing.assert_array_equal(opened.frames(0)[:, 0], grey)


def test_stored_images_of_several_sizes(make_dataset):
    sizes = [(10, 8), (10, 8), (6, 4), (10, 8)]
    opened = with_stored_images(
        make_dataset([4], cameras=False), [Image.new("RGB", size, (i, 0, 0)) for i, size in enumerate(sizes)]
    )
    refused(r"expected frames of one size, got 8x10x3 from .*top and 4x6x3 from .*top\.", opened.frames, 0)
    assert opened.frames(0, transform=lambda block: block[:, :2, :2])[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3]


def write_video(path, parts, pixels="yuv420p", codec="h264", container="mp4"):
    """A video at 10 fps of several arrays [n, H, W, 3], each encoded by itself, one after the other."""
    path.unlink(missing_ok=True)
    with av.open(str(path), "w", format=container) as file:
        stream, start = None, 0
        for frames in parts:
            encoder = av.codec.CodecContext.create(codec, "w")
            encoder.height, encoder.width, encoder.pix_fmt = frames.shape[1], frames.shape[2], pixels
            encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
            encoder.options = {"tune": "zerolatency", "qp": "0"} if codec == "h264" else {}
            if stream is None:
                stream = file.add_stream(codec, 10)
                stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
            for i, image in enumerate([*frames, None]):
                frame = None if image is None else av.VideoFrame.from_ndarray(image, format="rgb24")
                if frame is not None:
                    frame.pts, frame.time_base = start + i, Fraction(1, 10)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    file.mux(packet)
            start += len(frames)


@pytest.mark.parametrize("video", [("gray", "h264", "mp4"), ("rgba", "png", "mov"), ("gray", "png", "mov")])
def test_grey_and_transparent_videos_become_rgb(make_dataset, video):
    dataset = make_dataset([6])
    path, _, _ = dataset.video_span(0, dataset.cameras[0])
    shades = np.broadcast_to(np.arange(40, 100, 10, dtype=np.uint8)[:, None, None, None], (6, 32, 32, 3))
    write_video(path, [shades], *video)
    got = dataset.frames(0, ["front"])
    assert got.shape == (6, 1, 32, 32, 3)
    assert (got == got[:, :, :1, :1, :1]).all()  # grey is grey
    assert (np.diff(got[:, 0, 0, 0, 0].astype(int)) >= 8).all()


def test_a_video_that_changes_its_size(make_dataset, rng):
    dataset = make_dataset([9])
    path, _, _ = dataset.video_span(0, dataset.cameras[0])
    parts = [np.full((n, size, size, 3), 30 * i, dtype=np.uint8) for i, (n, size) in enumerate([(4, 32), (5, 48)])]
    write_video(path, parts, container="matroska")
    refused(r"expected frames of one size, got 32x32x3 from .*front and 48x48x3 from", dataset.frames, 0, ["front"])
    assert dataset.frames(0, ["front"], transform=lambda block: block[:, :16, :16]).shape == (9, 1, 16, 16, 3)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (lambda block: block / np.float32(255), r"float32 \[6, 32, 32, 3\]"),
        (lambda block: block[..., :1], r"uint8 \[6, 32, 32, 1\]"),
    ],
)
def test_blocks_that_are_no_pixels(make_dataset, transform, got):
    dataset, expected = make_dataset([6]), r"`: expected blocks of RGB pixels, uint8 .*, got " + got
    refused("`transform" + expected, dataset.frames, 0, transform=transform)
    real = dataset.blocks
    dataset.blocks = lambda *given: map(transform, real(*given))
    refused("`blocks` of `observation.images.front" + expected, dataset.frames, 0)


def test_the_encoder_checks_sizes(tmp_path):
    refused("expected an even height and width", VideoWriter, tmp_path / "a.mp4", 10, (33, 32), "h264")
    refused("`video_codec`", VideoWriter, tmp_path / "a.mp4", 10, (32, 32), "vp9")


def test_frames_from_a_lerobot_batch(sample):
    frames = torch.from_numpy(sample.frames(3, indices=[0, 16]))[None]  # 1 2 v h w 3
    batch = {key: frames[:, :, v].movedim(-1, -3).float() / 255 for v, key in enumerate(sample.cameras)}
    torch.testing.assert_close(frames_from_lerobot(batch, sample.cameras), frames, rtol=0, atol=0)
    refused("`cameras`", frames_from_lerobot, batch, ["corner2"])
    refused(r"expected float images \[..., 3, H, W\], got torch.uint8", frames_from_lerobot, {"a": frames}, ["a"])
    images = frames[:, :, 0].movedim(-1, -3).float()
    refused("`a`", frames_from_lerobot, {"a": images}, ["a"])
    refused("`a`", frames_from_lerobot, {"a": images / 64 - 2}, ["a"])
    refused("`a`", frames_from_lerobot, {"a": images * torch.nan}, ["a"])


def reader_of(dataset, cameras=CAMERAS[:1], transform=None):
    return FrameReader(dataset, dataset.episodes, cameras, transform)


def test_episodes_that_cannot_be_read_leave_the_others_as_they_are():
    """What their rows hold means nothing; a frame's shape is that of the first one that can be read."""
    dataset = Demonstrations(Path(), [3, 2, 4, 2])
    whole, read = reader_of(dataset).all(), dataset.frames

    def frames(index, *arguments, **options):
        if index in torn:
            raise LattokError(f"episode {index} is torn")
        found = read(index, *arguments, **options)
        return found.repeat(2, axis=2) if index == 3 else found

    dataset.frames = frames
    torn, reader = {0, 2}, reader_of(dataset)
    assert reader.shape == (1, 6, 8, 3)
    assert (reader.frame_bytes, reader.bytes, len(reader)) == (144, 11 * 144, 11)
    rows = np.array([1, 2, 3, 4, 8, 9])
    found, sound, errors = reader.rows(rows)
    assert sound.tolist() == [False, False, True, True, False, False]
    assert reader.episode_of(rows).tolist() == [0, 0, 1, 1, 2, 3]
    np.testing.assert_array_equal(found[2:4], whole[3:5])
    assert {index: str(error).split(",")[0] for index, error in errors.items()} == {
        0: "episode 0 is torn",
        2: "episode 2 is torn",
        3: "`frames`: expected shape (1",
    }
    assert "in episode 3. Give a `transform` that resizes" in str(errors[3])
    torn = {0, 1, 2, 3}
    with pytest.raises(LattokError, match="episode 0 is torn"):
        _ = reader_of(dataset).shape
    torn, far = set(), np.array([0, 2, 7])
    found, sound, errors = reader.rows(far)
    assert sound.all()
    assert not errors
    np.testing.assert_array_equal(found, whole[far])


def test_decoding_ends_at_the_next_block_once_nobody_wants_it(sample, monkeypatch):
    reader = FrameReader(sample, sample.episodes[:1], sample.cameras[:1])
    assert reader.shape == (1, 128, 128, 3)
    monkeypatch.setattr(schema, "check_wanted", Mock(side_effect=Abandoned))
    with pytest.raises(Abandoned):
        reader.rows(np.array([0, 2]))


def test_files_are_numbered_as_the_first_camera_has_them():
    """Those of the images where there is no video; none where all of them are here."""
    dataset = Demonstrations(Path(), [3, 2, 4, 1])
    reader = reader_of(dataset, CAMERAS[::-1])
    episodes = np.array([2, 0, 0, 1, 3, 2])
    assert reader.fetched_file_of(episodes) is None
    own = {CAMERAS[1]: ["b", "b", "a", None], CAMERAS[0]: ["0", "1", "2", "3"]}
    dataset.files = SimpleNamespace(commit="0123")
    dataset.video_span = lambda index, camera: own[camera][index] and (Path(own[camera][index]), 0.0, 1.0)
    dataset.files_of = lambda index: (Path("0.parquet"), Path("c"))
    assert reader.fetched_file_of(episodes).tolist() == [1, 2, 2, 2, 0, 1]


EPISODES = [12, 15, 9, 11, 13]


def _worker(rank, root, out):
    decoded, read = [], FrameReader._read

    def counted(reader, index, rows=None, *more):
        if rows is None:
            decoded.append(index)
        return read(reader, index, rows, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameReader, "_read", counted)
        pairs = FramePairs(open_dataset(root), 2)
        pairs.frames = pairs.reader.all(shared=True)
        found = {"frames": torch.from_numpy(np.asarray(pairs.frames).copy()), "decoded": list(decoded)}
        dist.barrier()
        if rank == 0:
            pairs.frames[3] = 77
        dist.barrier()
        found["seen"] = int(pairs.frames[3, 0, 0, 0, 0])  # what one process writes the other one sees
        patch.setattr(frames_module, "CAN_SHARE", False)
        decoded.clear()
        alone = FramePairs(open_dataset(root), 2)
        alone.frames = alone.reader.all(shared=True)
        found["alone"] = len(decoded)

        def damaged(reader, index, *more):
            if index == 1 and not (more and more[0] is not None):
                raise LattokError("episode 1 is damaged")
            return read(reader, index, *more)

        patch.setattr(frames_module, "CAN_SHARE", True)
        patch.setattr(FrameReader, "_read", damaged)
        refused("^episode 1 is damaged$", pairs.reader.all, shared=True)
    torch.save(found, out / f"{rank}.pt")


@pytest.mark.skipif(not frames_module.CAN_SHARE, reason="memory without a name is Linux's")
def test_two_processes_have_one_array_and_decode_half_of_it_each(make_dataset, tmp_path):
    dataset = make_dataset(EPISODES)
    together(_worker, dataset.root, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    frames = FramePairs(dataset, 2).frames
    for found in (first, second):
        np.testing.assert_array_equal(found["frames"].numpy(), frames)
        assert found["seen"] == 77
        assert found["alone"] == len(EPISODES)
    assert (first["decoded"], second["decoded"]) == ([0, 2, 4], [1, 3])


def test_memory_of_another_process_under_the_same_number_is_refused(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(bytes(64))
    with open(path) as file:
        offer = os.getpid(), file.fileno(), "lattok-0"
        assert frames_module._mapped(*offer, (8,)) is None
    assert frames_module._mapped(*offer, (8,)) is None
