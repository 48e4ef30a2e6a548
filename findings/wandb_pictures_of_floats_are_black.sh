#!/usr/bin/env bash
# wandb 0.31: pictures of floats from 0 to 1, as LeRobot and torchvision give them, are logged black
#
# Versions: wandb 0.31.0
# Guess: wandb.Image of a float array or tensor in [0, 1] is that picture, scaled to bytes, as up to version 0.28.0.
# Fact: In 0.30.0 and 0.31.0 the values are cut to whole bytes as they are: a picture in [0, 1] is black, and a depth
#   of 300 millimetres is 44. There is no warning, and no argument `normalize` any more. The docstring says that
#   values "are expected to already be in the range [0, 255]".
# Output: largest byte of noise in [0, 1]: 0, of noise times 255: 254, of a depth of 300 mm: 44
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv wandb==0.31.0 numpy==2.5.5 pillow==13.0.0
WANDB_MODE=offline venv/bin/python - <<'PY'
import warnings

import numpy as np
import wandb

warnings.simplefilter("error")
picture = np.random.default_rng(0).random((64, 96, 3), np.float32)
depth = np.full((64, 96), 300, np.uint16)


def most(pixels):
    return int(np.asarray(wandb.Image(pixels).image).max())


found = most(picture), most(255 * picture), most(depth)
print("largest byte: [0, 1]", found[0], "times 255:", found[1], "depth of 300 mm:", found[2])
assert found == (0, 254, 44)
PY
