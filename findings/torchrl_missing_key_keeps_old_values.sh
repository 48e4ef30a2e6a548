#!/usr/bin/env bash
# torchrl: a batch without one of the keys is stored, and has the rewards of other frames in the place of its own
#
# Versions: torchrl 0.14.1, tensordict 0.15.3, torch 2.15.0
# Guess: extend() of demonstrations that lack a key of the buffer (rewards) raises, as torch.stack and torch.cat of such
#   TensorDicts do, or marks it as missing.
# Fact: Only the keys that are there are written. The others keep what their rows had: the rewards of the frames that were
#   overwritten, or, in rows never written, memory as it was found. What is sampled looks whole.
# Output: observations 10 11 2 3 with rewards 1 2 3 4, where frames 10 and 11 have none
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps cloudpickle==3.1.3 importlib-metadata==10.2.0 numpy==2.5.5 orjson==3.13.0 packaging==26.4 pyvers==0.2.3 \
    tensordict==0.15.3 torchrl==0.14.1 tqdm==4.70.1 zipp==4.1.2
RL_LOGGING_LEVEL=ERROR venv/bin/python -W ignore - <<'PY'
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), batch_size=4)
frames = TensorDict({"observation": torch.arange(4.0), "reward": torch.tensor([1.0, 2.0, 3.0, 4.0])}, [4])
demonstration = TensorDict({"observation": torch.tensor([10.0, 11.0])}, [2])
buffer.extend(frames)
buffer.extend(demonstration)
rows = {key: buffer[:][key].tolist() for key in frames.keys()}
print(rows)
assert rows == {"observation": [10, 11, 2, 3], "reward": [1, 2, 3, 4]}

try:
    torch.cat([frames, demonstration])
    joined = True
except (KeyError, RuntimeError):
    joined = False
assert not joined, "torch.cat refuses what the buffer takes"
PY
