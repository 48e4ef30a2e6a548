#!/usr/bin/env bash
# moviepy: many films of a constant rate lose their last frame
#
# Versions: moviepy 2.2.1, imageio-ffmpeg 0.8.1, av 19.0.2
# Guess: VideoFileClip(file).iter_frames() gives the frames that are in the file, where it plays at a constant rate.
# Fact: The duration is read with two decimals and multiplied by the rate, so that 31 frames at 30 a second are 30.
#   Of the lengths from 2 to 60, a third lose one frame at 24 and 30 frames a second, few at 50, none at 10. Actions of
#   an episode then have one row more than its pictures. Read films with PyAV or torchcodec.
# Output: lengths from 2 to 60 without their last frame: 10 fps 0, 24 fps 19, 30 fps 19, 50 fps 3
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv av==19.0.2 imageio==2.38.1 imageio-ffmpeg==0.8.1 moviepy==2.2.1 numpy==2.5.5 pillow==11.3.0
venv/bin/python -W ignore - <<'PY'
import av
import numpy as np
from moviepy import VideoFileClip


def film(path, count, rate):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            picture = np.full((32, 32, 3), 4 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


lost = {}
for rate in (10, 24, 30, 50):
    lost[rate] = 0
    for count in range(2, 61):
        film("film.mp4", count, rate)
        with av.open("film.mp4") as container:
            assert sum(1 for _ in container.decode(video=0)) == count
        clip = VideoFileClip("film.mp4")
        read = [round(float(frame.mean()) / 4) for frame in clip.iter_frames()]
        clip.close()
        assert len(read) in (count, count - 1)
        assert all(abs(a - b) <= 1 for a, b in zip(read, range(count)))
        lost[rate] += len(read) < count
print("lengths from 2 to 60 without their last frame:", ", ".join(f"{rate} fps {n}" for rate, n in lost.items()))
assert lost[10] == 0 and min(lost[24], lost[30]) > 10
PY
