"""Which way up the frames of a video are shown: [x', y', 1] = [x, y, 1] M for the display matrix M of its container.

FFmpeg passes M on with every frame. H.264 and HEVC may have another one within the stream (SEI), on single frames and
before the container's there. Only the container's counts here, for all frames alike, as torchcodec and OpenCV do it.
Of the matrix, mirrors and right angles are applied, as by ffmpeg; any other angle is rounded to the nearest right one.
"""

from typing import NamedTuple

import numpy as np
from av import VideoFrame
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.stream import VideoStream

SEI = {"h264": "6", "hevc": "39|40"}  # types of the NAL units that hold it, by codec


class Orientation(NamedTuple):
    """What is done to a stored frame [H, W, 3], in this order."""

    transposed: bool = False
    mirrored: bool = False  # left to right
    flipped: bool = False  # top to bottom

    def apply(self, image: np.ndarray) -> np.ndarray:
        image = image.swapaxes(0, 1) if self.transposed else image
        return image[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def orientation_of(frame: VideoFrame) -> Orientation | None:
    """Read the matrix that comes with a frame; None without one."""
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return None
    xx, xy, yx, yy = (int(number) for number in np.frombuffer(stored, dtype=np.int32)[[0, 1, 3, 4]])
    if abs(xx) + abs(yy) >= abs(xy) + abs(yx):
        return Orientation(False, xx < 0, yy < 0)
    return Orientation(True, yx < 0, xy < 0)


def orientation_of_container(container: InputContainer, stream: VideoStream) -> Orientation:
    """Decode the first frame of a film in H.264 or HEVC, without what its stream says of the matrix."""
    clean = BitStreamFilterContext(f"filter_units=remove_types={SEI[stream.codec.canonical_name]}", stream)
    for packet in container.demux(stream):
        for part in clean.filter(packet if packet.size else None):
            for frame in stream.codec_context.decode(part):
                return orientation_of(frame) or Orientation()
    return Orientation()
