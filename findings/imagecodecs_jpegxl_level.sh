#!/usr/bin/env bash
# imagecodecs: the zarr codec Jpegxl ignores its level, which the function of the same library obeys
#
# Versions: imagecodecs 2026.10.10, numcodecs 0.17.1, numpy 2.5.5
# Guess: Jpegxl(level=99), with which UMI and Diffusion Policy store camera frames in zarr, is nearly lossless, and
#   level=50 is small and rough, as jpegxl_encode(frame, level=50) is.
# Fact: The codec has lossless=True unless told otherwise, and then neither level nor distance changes anything: frames
#   have 2 times the bytes of level 99 and 23 times those of level 50. Datasets that the same script wrote with an
#   older version hold other pixels. Say lossless=False together with a level.
# Output: level 99: codec 14048 bytes, off by 0; function 6492 bytes, off by 27
#   level 50: codec 14048 bytes, off by 0; function 602 bytes, off by 81
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv imagecodecs==2026.10.10 numcodecs==0.17.1 numpy==2.5.5
venv/bin/python - <<'PY'
import numpy as np
from imagecodecs import jpegxl_decode, jpegxl_encode
from imagecodecs.numcodecs import Jpegxl

rows, columns = np.mgrid[:96, :96]
waves = [np.sin(rows / 7 + k) * np.cos(columns / (5 + k)) for k in range(3)]
frame = (127 + 120 * np.stack(waves, -1)).astype(np.uint8)
frame += np.random.default_rng(0).integers(0, 8, frame.shape, dtype=np.uint8)


def off(decoded):
    return int(np.abs(np.asarray(decoded).astype(int) - frame).max())


sizes = set()
for level in (99, 50):
    codec = Jpegxl(level=level)
    stored, small = codec.encode(frame), jpegxl_encode(frame, level=level)
    print(f"level {level}: codec {len(stored)} bytes, off by {off(codec.decode(stored))};", end=" ")
    print(f"function {len(small)} bytes, off by {off(jpegxl_decode(small))}")
    assert off(codec.decode(stored)) == 0 < off(jpegxl_decode(small))
    assert len(Jpegxl(level=level, lossless=False).encode(frame)) == len(small) < len(stored)
    sizes.add(len(stored))
assert len(sizes) == 1
PY
