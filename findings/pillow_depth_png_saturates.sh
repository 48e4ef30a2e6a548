#!/usr/bin/env bash
# Pillow: convert("RGB") of a 16-bit PNG clips at 255 and does not scale
#
# Versions: pillow 13.0.0, opencv-python-headless 5.0.0.93
# Guess: A 16-bit depth picture opened and converted as every picture is, Image.open(path).convert("RGB"), has its
#   upper 8 bits, as OpenCV gives them.
# Fact: Every value above 255 becomes 255: of depth in millimetres, all that is farther than 25.5 cm is white,
#   without a warning. OpenCV's imread divides by 256. Two loaders of one file show two different pictures.
# Output: mm 0 100 255 1000 5000 40000: Pillow 0 100 255 255 255 255, OpenCV 0 0 0 3 19 156
# Needs: Python 3.12 or newer (PYTHON=), 120 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    numpy==2.5.5 opencv-python-headless==5.0.0.93 pillow==13.0.0
venv/bin/python - <<'PY'
import cv2
import numpy as np
from PIL import Image

depth = np.array([[0, 100, 255, 1000, 5000, 40000]], np.uint16)  # millimetres
Image.fromarray(depth).save("depth.png")
image = Image.open("depth.png")
pillow = np.asarray(image.convert("RGB"))[0, :, 0].tolist()
opencv = cv2.imread("depth.png")[0, :, 0].tolist()
print(image.mode, "Pillow", pillow, "grey", np.asarray(image.convert("L"))[0].tolist(), "OpenCV", opencv)
assert image.mode == "I;16" and np.array_equal(np.asarray(image), depth)
assert pillow == np.asarray(image.convert("L"))[0].tolist() == np.minimum(depth[0], 255).tolist()
assert opencv == (depth[0] // 256).tolist()
PY
