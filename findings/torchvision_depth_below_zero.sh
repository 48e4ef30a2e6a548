#!/usr/bin/env bash
# torchvision: ToTensor makes depth from 32,768 on negative, and does not scale it, as v2 does
#
# Versions: torchvision 0.29.2, pillow 13.0.0, torch 2.15.0
# Guess: ToTensor, which scales pictures to [0, 1], does so with a depth picture of 16 bits; the transforms of v2 that its page names as its
#   successor give the same.
# Fact: It leaves 16-bit numbers as they are, in int16: what is beyond 32.767 m, or beyond 3.2767 m in tenths of millimetres, is negative, so
#   nearer than anything. ToImage and ToDtype(float32, scale=True) divide by 65,535.
# Output: 1000 32767 32768 65535 -> 1000 32767 -32768 -1 by ToTensor (int16), 0.015 0.5 0.5 1 by ToImage and ToDtype
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
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

Image.fromarray(np.array([[1000, 32767, 32768, 65535]], np.uint16)).save("depth.png")
depth = Image.open("depth.png")
old = transforms.ToTensor()(depth)
new = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(depth)
print(depth.mode, "ToTensor", old.dtype, old.flatten().tolist(), "v2", [round(each, 3) for each in new.flatten().tolist()])
assert old.dtype == torch.int16 and old.flatten().tolist() == [1000, 32767, -32768, -1]
assert torch.allclose(torch.as_tensor(new).flatten(), torch.tensor([1000, 32767, 32768, 65535]) / 65535)
PY
