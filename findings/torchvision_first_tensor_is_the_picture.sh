#!/usr/bin/env bash
# torchvision: RandomHorizontalFlip of an observation as a dict reverses the joints, or flips one of two cameras
#
# Versions: torchvision 0.29.2, torch 2.15.0
# Guess: Transforms of v2, which take dicts, change the pictures of a sample, all in the same way, and leave a vector of
#   7 joints alone.
# Fact: If no value is a tv_tensors.Image, the first tensor of the dict is the picture, whatever its shape, and all others
#   pass. A state that comes first is reversed joint by joint, and the pictures stay; of two cameras one is flipped.
#   ToDtype scales one camera to 1 and leaves the other at 255. The examples gallery has this rule, the classes do
#   not. Wrap each picture in tv_tensors.Image.
# Output: state first: joints 0 to 6 become 6 to 0, pictures as before; cameras only: the first flipped, the second not;
#   wrapped: both flipped, joints as before; ToDtype: float32 up to 1.0, uint8 up to 255
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps numpy==2.5.5 pillow==13.0.0 torchvision==0.29.2
venv/bin/python - <<'PY'
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

flip, state = v2.RandomHorizontalFlip(p=1), torch.arange(7.0)
picture = torch.arange(36, dtype=torch.uint8).reshape(3, 3, 4) * 7 + 10
cameras = {"observation.images.top": picture, "observation.images.wrist": picture.clone()}


def names(before, after):
    """What was flipped."""
    for key, value in before.items():
        assert torch.equal(after[key], value) or torch.equal(after[key], value.flip(-1))
    return [key for key, value in before.items() if not torch.equal(after[key], value)]


with_state = {"observation.state": state, **cameras}
wrapped = {"observation.state": state, **{key: tv_tensors.Image(value) for key, value in cameras.items()}}
found = [names(each, flip(each)) for each in (with_state, cameras, wrapped)]
scaled = v2.ToDtype(torch.float32, scale=True)(cameras)
tops = [(value.dtype, float(value.max())) for value in scaled.values()]
print("flipped:", *found, "scaled:", *tops)
assert found == [["observation.state"], ["observation.images.top"], list(cameras)]
assert tops == [(torch.float32, 1.0), (torch.uint8, 255.0)]
PY
