#!/usr/bin/env bash
# imageio's FFMPEG plugin repeats frames over a gap and loses those behind it
#
# Versions: imageio 2.38.1, imageio-ffmpeg 0.8.1 (ffmpeg 9.0.2), av 19.0.2
# Guess: imread of an mp4 with 30 frames gives 30 frames, also if the recorder paused for a second in between.
# Fact: 76 frames come: frame 14 is repeated over the gap, frame 15 to the end, and frames 16 to 29 never, by imread
#   and by get_data(i). count_frames of the same plugin says 30; the pyav plugin gives all 30. Nothing is said.
#   output_params=['-fps_mode', 'passthrough'] gives the file's frames.
# Output: FFMPEG 76 frames, last picture 15; passthrough 30; pyav 30, last picture 29; count_frames 30
# Needs: Python 3.12 or newer (PYTHON=), 130 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    av==19.0.2 imageio==2.38.1 imageio-ffmpeg==0.8.1 numpy==2.5.5 pillow==13.0.0
venv/bin/python - <<'PY'
import shlex
import subprocess

import imageio
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

tool = imageio_ffmpeg.get_ffmpeg_exe()
frames = np.repeat(np.arange(30, dtype=np.uint8) * 8, 64 * 64 * 3).reshape(30, 64, 64, 3)
taken = f"{tool} -loglevel error -f rawvideo -pix_fmt rgb24 -s 64x64 -r 30 -i -"
paused = "-vf setpts=N/30/TB+gte(N\\\\\\,15)/TB -fps_mode vfr -c:v libx264 -pix_fmt yuv420p gap.mp4"
subprocess.run(shlex.split(f"{taken} {paused}"), input=frames.tobytes(), check=True)


def seen(**options):
    return [round(float(frame.mean()) / 8) for frame in iio.imread("gap.mp4", **options)]


plain, pyav = seen(plugin="FFMPEG"), seen(plugin="pyav")
kept = seen(plugin="FFMPEG", output_params=["-fps_mode", "passthrough"])
reader = imageio.get_reader("gap.mp4", "ffmpeg")
print("FFMPEG", plain, "| passthrough", len(kept), "| pyav", len(pyav), "| count_frames", reader.count_frames())
assert kept == pyav == list(range(30)) and reader.count_frames() == 30
assert len(plain) == 76 and sorted(set(plain)) == list(range(16))
assert round(float(reader.get_data(20).mean()) / 8) == 14
PY
