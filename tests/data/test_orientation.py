"""Which way up frames come: against ffmpeg's own rule, by its own filters, for every mirror and right angle."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph

from lattok.data import export, inspect_dataset, open_dataset
from lattok.data.video import VideoWriter, decode_at

ONE = 2**16
# x' = xx x + yx y, y' = xy x + yy y, as (xx, xy, yx, yy)
MATRICES = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "half": (-1, 0, 0, -1),
    "quarter": (0, 1, -1, 0),
    "three": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "other": (0, -1, -1, 0),
    "scaled": (-2, 0, 0, 1),
    "nearly": (-1, 0.005, 0.005, 1),
    "nothing": (0, 0, 0, 0),
}


def write(path: Path, codec: str = "h264") -> np.ndarray:
    """A video that no turn leaves as it is; returns its frames as they are stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:24, :32], image[:24, 32:, 0], image[24:, :32, 1] = 200, 150, 100
    video = VideoWriter(path, 10, (48, 64), codec)
    video.add(np.stack([image, 255 - image, image // 2, image]))
    video.close()
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def set_matrix(path: Path, xx: float, xy: float, yx: float, yy: float) -> list[int]:
    """Write the matrix of an MP4 into the header of its track, as cameras do."""
    data, matrix = bytearray(path.read_bytes()), [int(ONE * n) for n in (xx, xy, 0, yx, yy, 0, 0, 0)] + [2**30]
    place = data.index(b"tkhd") + 44  # ISO 14496-12, version 0
    data[place : place + 36] = np.array(matrix, dtype=">i4").tobytes()
    path.write_bytes(data)
    return matrix


def set_sei(path: Path, options: str) -> None:
    """Write another orientation into the stream, which H.264 has with its first frame."""
    source = path.rename(path.with_name("source.mp4"))
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        insert = BitStreamFilterContext(
            f"h264_metadata=display_orientation=insert:{options}", old.streams.video[0], stream
        )
        for packet in old.demux(video=0):
            for part in insert.filter(packet if packet.size else None):
                part.stream = stream
                new.mux(part)
    source.unlink()


def by_ffmpeg(images: np.ndarray, matrix: list[int]) -> np.ndarray:
    """What the tool ffmpeg does before it encodes: configure_input_video_filter of fftools/ffmpeg_filter.c."""
    scale = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    angle = math.degrees(math.atan2(matrix[1] / scale[1], matrix[0] / scale[0])) if all(scale) else 0.0
    angle = round(angle) % 360
    filters = []
    if abs(angle - 90) < 1:
        filters = [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    elif abs(angle - 180) < 1:
        filters = [("hflip", "")] * (matrix[0] < 0) + [("vflip", "")] * (matrix[4] < 0)
    elif abs(angle - 270) < 1:
        filters = [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    elif matrix[4] < 0:
        filters = [("vflip", "")]
    graph, height, width = Graph(), *images.shape[1:3]
    chain = [graph.add_buffer(width=width, height=height, format="rgb24", time_base=1)]
    filters += [("copy", "")]  # PyAV 15 cannot read what vflip makes: rows that run backwards in memory
    chain += [graph.add(name, options) for name, options in filters] + [graph.add("buffersink")]
    graph.link_nodes(*chain).configure()
    found = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = number
        graph.push(frame)
        found.append(graph.pull().to_ndarray(format="rgb24"))
    return np.stack(found)


@pytest.mark.parametrize("name", MATRICES)
def test_every_mirror_and_right_angle_is_that_of_ffmpeg(name: str, tmp_path: Path):
    stored = write(tmp_path / "v" / "a.mp4")
    expected = by_ffmpeg(stored, set_matrix(tmp_path / "v" / "a.mp4", *MATRICES[name]))
    assert name in ("upright", "nothing") or not np.array_equal(expected, stored)
    dataset = open_dataset(tmp_path / "v")
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], expected)
    np.testing.assert_array_equal(dataset.frames(0, indices=[2])[:, 0], expected[2:3])
    (camera,) = dataset.cameras
    assert dataset.features[camera].shape == expected.shape[1:]
    ((_, facts),) = inspect_dataset(dataset).cameras
    assert facts is not None
    assert (facts.height, facts.width) == expected.shape[1:3]


@pytest.mark.parametrize(("options", "matrix"), [("rotate=90", "upright"), ("flip=horizontal", "quarter")])
def test_one_orientation_for_all_frames_the_containers(options: str, matrix: str, tmp_path: Path):
    path = tmp_path / "v" / "a.mp4"
    stored = write(path)
    set_sei(path, options)
    expected = by_ffmpeg(stored, set_matrix(path, *MATRICES[matrix]))
    with av.open(str(path)) as container:
        known = [frame.side_data.get("DISPLAYMATRIX") for frame in container.decode(video=0)]
    assert known[0] is not None  # and of the next frames only what the container says
    assert (known[1] is None) == (matrix == "upright")
    dataset = open_dataset(tmp_path / "v")
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], expected)
    for index in range(len(stored)):
        np.testing.assert_array_equal(dataset.frames(0, indices=[index])[0, 0], expected[index])


def test_what_is_exported_is_upright_for_every_reader(tmp_path: Path):
    stored = write(tmp_path / "v" / "a.mp4")
    expected = by_ffmpeg(stored, set_matrix(tmp_path / "v" / "a.mp4", *MATRICES["transposed"]))
    out = open_dataset(export(tmp_path / "v", tmp_path / "out", images="image").path)
    np.testing.assert_array_equal(out.frames(0)[:, 0], expected)


def test_a_codec_without_such_messages_is_opened_once(tmp_path: Path, monkeypatch):
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV does not write rotations")
    stored = write(tmp_path / "a.mp4", "libsvtav1")
    set_matrix(tmp_path / "a.mp4", *MATRICES["mirrored"])
    monkeypatch.setattr("lattok.data.video.orientation_of_container", lambda *_: pytest.fail("opened again"))
    found = np.concatenate([block.copy() for block in decode_at(tmp_path / "a.mp4", np.arange(4) / 10, 10)])
    np.testing.assert_array_equal(found, stored[:, :, ::-1])
