#!/usr/bin/env bash
# Pillow, imageio: of a robot that stands still an animated GIF, PNG or WebP has one frame, so frame k is another one
#
# Versions: pillow 13.0.0, imageio 2.38.1, numpy 2.5.5
# Guess: save_all=True, append_images=frames stores each frame, as PNG and WebP are lossless here.
# Fact: In GIF, PNG and WebP a frame that equals the one before is not stored; the one before is shown longer. Read by number, later
#   frames move up, and there are fewer of them. AVIF and TIFF keep each. imageio writes and reads these formats by Pillow.
# Output: 6 frames, two of each kind: 3 in GIF, PNG and WebP, 6 in AVIF and TIFF
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv imageio==2.38.1 numpy==2.5.5 pillow==13.0.0
venv/bin/python - <<'PY'
import imageio.v3 as iio
import numpy as np
from PIL import Image

frames = np.zeros((6, 32, 32, 3), np.uint8)
for k, frame in enumerate(frames):  # moves at every other step
    frame[:, : 4 + 4 * (k // 2)] = 200
pictures = [Image.fromarray(frame) for frame in frames]
for kind, expected in (("gif", 3), ("png", 3), ("webp", 3), ("avif", 6), ("tiff", 6)):
    options = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(f"by_pillow.{kind}", save_all=True, append_images=pictures[1:], duration=100, **options)
    with Image.open(f"by_pillow.{kind}") as read:
        kept = [read.n_frames]
    if kind in ("gif", "png", "webp"):
        iio.imwrite(f"by_imageio.{kind}", frames, plugin="pillow", duration=100, **options)
        back = iio.imread(f"by_imageio.{kind}", index=..., plugin="pillow")[..., :3]
        kept.append(len(back))
        lit = [int((each[0, :, 0] > 100).sum()) for each in back]
        print(kind, "columns that are lit:", lit, "of", [4 + 4 * (k // 2) for k in range(6)])
        assert lit == [4, 8, 12]
    print(kind, kept)
    assert set(kept) == {expected}
PY
