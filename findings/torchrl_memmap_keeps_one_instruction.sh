#!/usr/bin/env bash
# torchrl: in a LazyMemmapStorage all frames have the instruction of the first one
#
# Versions: torchrl 0.14.1, tensordict 0.15.3, torch 2.15.0
# Guess: LazyTensorStorage and LazyMemmapStorage return what was stored, one in memory and one on disk.
# Fact: Text that comes with the frames ("task") is kept by LazyTensorStorage. LazyMemmapStorage, which is meant for large
#   datasets, keeps that of the first frame or episode and gives it to all others; the tensors beside it are right. A policy that is
#   to follow instructions learns that there is one.
# Output: pick, place, push stored with 0, 1, 2: in memory pick place push, on disk pick pick pick, both with 0, 1, 2
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
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
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer

tasks = ["pick", "place", "push"]
for storage in (LazyTensorStorage, LazyMemmapStorage):
    buffer = ReplayBuffer(storage=storage(10))
    for number, task in enumerate(tasks):
        buffer.add(TensorDict({"state": torch.tensor(float(number)), "task": task}, []))
    episodes = ReplayBuffer(storage=storage(10))
    for number, task in enumerate(tasks[:2]):
        episodes.extend(TensorDict({"state": torch.full((2,), float(number)), "task": task}, [2]))
    for each, states in ((buffer, [0.0, 1.0, 2.0]), (episodes, [0.0, 0.0, 1.0, 1.0])):
        kept = list(each[:]["task"])
        print(storage.__name__, each[:]["state"].tolist(), kept)
        assert each[:]["state"].tolist() == states
        right = [tasks[int(state)] for state in states]
        assert kept == (right if storage is LazyTensorStorage else ["pick"] * len(states))
PY
