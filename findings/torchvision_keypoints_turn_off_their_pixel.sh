#!/usr/bin/env bash
# torchvision: KeyPoints stay on their pixel when a picture is flipped, and leave it by one pixel when it is turned
#
# Versions: torchvision 0.29.2, torch 2.15.0
# Guess: A keypoint, such as where a gripper should grasp, that names a pixel names the same one after any transform of both.
# Fact: A flip takes x to width - 1 - x, so that whole numbers are the middles of pixels. rotate and affine turn about width / 2 and
#   resize scales from 0, so that whole numbers are edges. A flip in x and one in y together differ from a half turn by one pixel in x and
#   y. At 84 pixels, as policies see them, that is about a centimetre of a table.
# Output: pixel 7, 4 of a picture of 30 x 20 turned by 180 degrees is at 22, 15, its keypoint at 23, 16, after two flips at 22, 15
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps numpy==2.5.5 pillow==13.0.0 torchvision==0.29.2
venv/bin/python -W ignore - <<'PY'
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

X, Y, SIZE = 7, 4, (20, 30)
picture = torch.zeros(1, *SIZE)
picture[0, Y, X] = 1
keypoint = tv_tensors.KeyPoints(torch.tensor([[float(X), float(Y)]]), canvas_size=SIZE)


def after(transform):
    """Where the white pixel is, and where its keypoint is."""
    white = transform(picture)[0] > 0.5
    assert white.sum() == 1
    y, x = white.nonzero()[0].tolist()
    return [x, y], transform(keypoint)[0].tolist()


found = {
    "two flips": after(lambda each: F.vertical_flip(F.horizontal_flip(each))),
    "half turn": after(lambda each: F.rotate(each, 180)),
    "quarter turn": after(lambda each: F.rotate(each, 90, expand=True)),
    "crop": after(lambda each: F.crop(each, 2, 3, 10, 10)),
}
for name, (pixel, point) in found.items():
    print(name, "pixel", pixel, "keypoint", [round(value, 3) for value in point])
assert found["two flips"] == ([22, 15], [22, 15]) and found["crop"] == ([4, 2], [4, 2])
assert found["half turn"] == ([22, 15], [23, 16])
assert found["quarter turn"][0] == [4, 22] and found["quarter turn"][1] == [4, 23]
PY
