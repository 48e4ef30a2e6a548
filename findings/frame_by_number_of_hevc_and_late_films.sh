#!/usr/bin/env bash
# decord2 and imageio: frame 40 of an HEVC film depends on what was read before, and of a film that starts late it is frame 2
#
# Versions: decord2 3.4.0, imageio 2.38.1, av 19.0.2
# Guess: reader[k] and imread(file, index=k, plugin="pyav") give frame k, in whatever order frames are asked for.
# Fact: decord2 gives HEVC's frames in their order, but nearly half of them are others when read backwards or shuffled, where the
#   encoder leaves groups of pictures open, as x265 does by default. imageio's pyav plugin seeks to k / rate on the
#   clock of the file: after a start at 1.4 s, frames 2 to 42 are all frame 0. All frames of one imread are right.
# Output: wrong of 60: decord2 in order 0, backwards 26; imageio by number in the late file 58, in HEVC 16
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps av==19.0.2 decord2==3.4.0 imageio==2.38.1 numpy==2.5.5 pillow==13.0.0
venv/bin/python - <<'PY'
from fractions import Fraction

import av
import imageio.v3 as iio
import numpy as np
from decord import VideoReader

COUNT, RATE = 60, 30


def write(name, codec, start=0, **options):
    """A film whose frame k shows the bits of k as six bars."""
    with av.open(name, "w") as film:
        stream = film.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for number in range(COUNT):
            bars = np.repeat([number >> bit & 1 for bit in range(6)], 16).astype(np.uint8) * 255
            frame = av.VideoFrame.from_ndarray(np.tile(bars[None, :, None], (96, 1, 3)), format="rgb24")
            frame.pts, frame.time_base = number + start, Fraction(1, RATE)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def number(picture):
    return sum(int(picture[:, 16 * bit + 4 : 16 * bit + 12].mean() > 128) << bit for bit in range(6))


def wrong(read, order=range(COUNT)):
    return sum(number(read(each)) != each for each in order)


write("hevc.mp4", "libx265", **{"x265-params": "keyint=10:bframes=4:log-level=none"})
write("late.mp4", "libx264", start=42)
reader = {name: VideoReader(name) for name in ("hevc.mp4", "late.mp4")}
found = {}
for name, film in reader.items():
    with av.open(name) as file:
        assert [number(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)] == [*range(COUNT)]
    assert [number(each) for each in iio.imread(name, plugin="pyav")] == [*range(COUNT)] and len(film) == COUNT
    forwards = wrong(lambda k: film[k].asnumpy())
    backwards = wrong(lambda k: film[k].asnumpy(), range(COUNT)[::-1])
    found[name] = forwards, backwards, wrong(lambda k: iio.imread(name, index=k, plugin="pyav"))
print("wrong of", COUNT, "(decord2 in order, backwards, imageio by number):", found)
assert found["hevc.mp4"][0] == 0 and found["hevc.mp4"][1] > 20 and found["hevc.mp4"][2] > 10
assert found["late.mp4"][:2] == (0, 0) and found["late.mp4"][2] > 50
assert [number(iio.imread("late.mp4", index=k, plugin="pyav")) for k in (2, 20, 40)] == [0, 0, 0]
PY
