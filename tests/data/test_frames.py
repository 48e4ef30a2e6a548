"""Frames are exactly those that a decode of the whole file gives, and errors name file and time."""

from __future__ import annotations

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lattok.checks import LattokError
from lattok.data import frames_from_lerobot, open_dataset
from lattok.data.video import VideoEncoder


def decode_whole(path, first: int = 0, last: int = 10**6) -> np.ndarray:
    """Frames [first, last) of a file, counted from its start without seeking."""
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for i, frame in frames if first <= i < last])


@pytest.mark.parametrize("camera", ["corner2", "gripperPOV"])
@pytest.mark.parametrize("index", [0, 1, 24, 49])
def test_frames_equal_a_decode_of_the_whole_file(sample, camera, index):
    start = sum(e.length for e in sample.episodes[:index])
    stop = start + sample.episodes[index].length
    got = sample.frames(index, [camera])
    assert got.shape == (stop - start, 1, 128, 128, 3)
    assert got.dtype == np.uint8
    path, _, _ = sample.video_span(index, "observation.images." + camera)
    np.testing.assert_array_equal(got[:, 0], decode_whole(path, start, stop))


def test_cameras_stand_side_by_side(sample):
    both = sample.frames(2)
    for v, key in enumerate(sample.cameras):
        np.testing.assert_array_equal(both[:, v], sample.frames(2, [key])[:, 0])


def test_indices_in_any_order(sample):
    whole = sample.frames(7, ["corner2"])
    wanted = [200, 3, 3, 90, 0]
    np.testing.assert_array_equal(sample.frames(7, ["corner2"], indices=wanted), whole[wanted])
    for wrong in ([], [-1], [217]):
        with pytest.raises(LattokError, match="`indices`: expected frame indices from 0 to 216"):
            sample.frames(7, indices=wrong)


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
    with pytest.raises(LattokError, match=r"missing video file .*observation\.images\.wrist.*file-000\.mp4"):
        dataset.frames(0)
    assert dataset.frames(0, ["front"]).shape[0] == 6


def test_truncated_video(make_dataset):
    dataset = make_dataset([40])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LattokError, match=r"cannot decode video .*file-000\.mp4 .*truncated or damaged"):
        dataset.frames(0)


def test_a_video_that_ends_too_early_names_the_time(make_dataset):
    dataset = make_dataset([10])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    path.unlink()
    encoder = VideoEncoder(path, 10, (32, 32), "h264")
    encoder.add(np.zeros((6, 32, 32, 3), dtype=np.uint8))
    encoder.close()
    with pytest.raises(LattokError, match=r"file-000\.mp4: expected a frame at 0\.600 s, got the nearest at 0\.500 s"):
        dataset.frames(0)


def test_a_file_that_is_no_video(make_dataset):
    dataset = make_dataset([6])
    dataset.video_span(0, dataset.cameras[0])[0].write_text("hello")
    with pytest.raises(LattokError, match="cannot decode video"):
        dataset.frames(0)


def test_cameras_of_different_sizes(make_dataset):
    dataset = make_dataset([6])
    path = dataset.video_span(0, dataset.cameras[1])[0]
    path.unlink()
    encoder = VideoEncoder(path, 10, (16, 64), "h264")
    encoder.add(np.zeros((6, 16, 64, 3), dtype=np.uint8))
    encoder.close()
    with pytest.raises(LattokError, match=r"expected frames of one size, got 32x32x3 from .*front and 16x64x3"):
        dataset.frames(0)
    assert dataset.frames(0, transform=lambda block: block[:, :16, :16]).shape == (6, 2, 16, 16, 3)


def test_images_stored_in_the_table(make_dataset, rng):
    dataset = make_dataset([5, 4], cameras=False)
    images = rng.integers(0, 256, (9, 8, 10, 3), dtype=np.uint8)
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    path = dataset.data_file(0)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pq.read_table(path).append_column("observation.images.top", pa.array(cells, kind)), path)
    info = json.loads((dataset.root / "meta" / "info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "image", "shape": [8, 10, 3], "names": None}
    (dataset.root / "meta" / "info.json").write_text(json.dumps(info))
    opened = open_dataset(dataset.root)
    np.testing.assert_array_equal(opened.frames(1)[:, 0], images[5:])
    np.testing.assert_array_equal(opened.frames(0, indices=[3, 1])[:, 0], images[[3, 1]])


def test_the_encoder_checks_sizes(tmp_path):
    with pytest.raises(LattokError, match="expected an even height and width"):
        VideoEncoder(tmp_path / "a.mp4", 10, (33, 32), "h264")
    with pytest.raises(LattokError, match="`video_codec`: expected one of libsvtav1, h264"):
        VideoEncoder(tmp_path / "a.mp4", 10, (32, 32), "vp9")


def test_frames_from_a_lerobot_batch(sample):
    frames = torch.from_numpy(sample.frames(3, indices=[0, 16]))[None]  # 1 2 v h w 3
    batch = {key: frames[:, :, v].movedim(-1, -3).float() / 255 for v, key in enumerate(sample.cameras)}
    torch.testing.assert_close(frames_from_lerobot(batch, sample.cameras), frames, rtol=0, atol=0)
    with pytest.raises(LattokError, match="`cameras`: expected names among"):
        frames_from_lerobot(batch, ["corner2"])
    with pytest.raises(LattokError, match=r"expected float images \[..., 3, H, W\], got torch.uint8"):
        frames_from_lerobot({"a": frames}, ["a"])
