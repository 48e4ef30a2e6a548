#!/usr/bin/env bash
# torchrl: SliceSampler draws episodes and not frames, so that 10 frames come as often as 100
#
# Versions: torchrl 0.14.1, tensordict 0.15.3, torch 2.15.0
# Guess: SliceSampler(slice_len=5) takes slices anywhere in the buffer: an episode of 100 frames gives about ten times as
#   much of a batch as one of 10, as with a uniform sampler.
# Fact: It first draws an episode, each one as likely, and then a start in it. 80 % of the frames give a third of the
#   batches; failed or cut demonstrations weigh ten times as much a frame. Episodes below slice_len are never drawn
#   (strict_length=True).
# Output: share of the buffer 0.81 0.08 0.08 0.03, share of the samples 0.33 0.32 0.35 0.00 (episodes of 100, 10, 10 and 4)
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
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

torch.manual_seed(0)
lengths = torch.tensor([100, 10, 10, 4])
episode = torch.arange(4).repeat_interleave(lengths)
done = torch.zeros(len(episode), 1, dtype=torch.bool)
done[lengths.cumsum(0) - 1] = True
frames = TensorDict({"episode": episode, "next": TensorDict({"done": done}, [len(episode)])}, [len(episode)])


def shares(sampler):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(frames)), sampler=sampler, batch_size=2000)
    buffer.extend(frames)
    counts = sum(buffer.sample()["episode"].bincount(minlength=4) for _ in range(5))
    return (counts / counts.sum()).numpy().round(2).tolist()


stored = (lengths / len(frames)).numpy().round(2).tolist()
found = [shares(SliceSampler(slice_len=5, **key)) for key in ({"traj_key": "episode"}, {"end_key": ("next", "done")})]
print("stored", stored, "drawn", *found)
for drawn in found:
    assert all(abs(share - 1 / 3) < 0.04 for share in drawn[:3]) and drawn[3] == 0
PY
