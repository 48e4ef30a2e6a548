"""Whether this PyAV really writes and reads the codecs of robot datasets: a tiny clip goes there and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO

import av
import numpy as np

from lattok.files import first_line
from lattok.findings import Finding

FRAMES, SIDE = 4, 64
CODECS = {  # decoder: encoders that can make a clip for it, container
    "h264": (("libx264", "libopenh264", "h264"), "mp4"),
    "av1": (("libsvtav1", "libaom-av1"), "mp4"),
    "vp9": (("libvpx-vp9",), "webm"),
}
ADVICE = (
    "Install PyAV from PyPI (pip install --force-reinstall --no-deps av): its wheels bring FFmpeg with all of them."
)


def codecs() -> Iterator[tuple[str, str] | Finding]:
    """One fact for decoders and one for encoders, and a finding for each that does not work."""
    decoders, encoders = [], []
    for codec, (names, container) in CODECS.items():
        encoder = next((name for name in names if name in av.codecs_available), None)
        if encoder is None:
            there = codec in av.codecs_available
            decoders += [f"{codec} (not tried)"] if there else []
            yield Finding("warning", f"PyAV {av.__version__} has no encoder for {codec}.", ADVICE)
            continue
        try:
            clip = _encode(encoder, container)
            encoders.append(encoder)
            _decode(codec, clip)
            decoders.append(codec)
        except Exception as error:
            what = f"PyAV {av.__version__} cannot write or read {codec}: {first_line(error).rstrip('.')}."
            yield Finding("error", what, ADVICE)
    yield "decoders", f"{', '.join(decoders) or 'none'} (PyAV {av.__version__})"
    yield "encoders", ", ".join(encoders) or "none"


def _encode(encoder: str, container: str) -> bytes:
    """A clip of frames that get brighter."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    target = BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=10)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", SIDE, SIDE
        for t in range(FRAMES):
            image = np.full((SIDE, SIDE, 3), 40 * (t + 1), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return target.getvalue()


def _decode(codec: str, clip: bytes) -> None:
    with av.open(BytesIO(clip)) as file:
        levels = [float(frame.to_ndarray(format="rgb24").mean()) for frame in file.decode(video=0)]
    expected = [40.0 * (t + 1) for t in range(FRAMES)]
    if len(levels) != FRAMES or max(abs(a - b) for a, b in zip(levels, expected, strict=True)) > 12:
        raise ValueError(f"a clip came back as {[round(level) for level in levels]} instead of {expected} ({codec})")
