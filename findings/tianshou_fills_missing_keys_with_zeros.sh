#!/usr/bin/env bash
# tianshou: a batch that lacks a key, put into a row of a larger one, sets that key to 0, and Batch.stack makes zeros of it
#
# Versions: tianshou 2.0.1, torch 2.15.0
# Guess: batch[1] = Batch(action=9.0) changes the action of row 1 and leaves its reward, as a dict's update does, or raises, as Batch.cat
#   does where keys differ.
# Fact: What is not given becomes 0: rewards, states, actions. Batch.stack pads a key that one of its batches lacks with 0 as well, so an episode
#   that was recorded without rewards has rewards of 0. A number with decimals put into a column of whole numbers is cut off. The
#   docstring of stack says so of stack.
# Output: rewards 1 2 3, then batch[1] = Batch(action=9.0): 1 0 3; stack of one batch with and one without rewards: second row 0 0; 1.7 into
#   whole numbers: 1
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps absl-py==2.5.1 cloudpickle==3.1.3 contourpy==1.4.0 cycler==0.12.1 deepdiff==7.0.1 farama-notifications==0.0.6 \
    fonttools==4.68.0 grpcio==1.85.3 gymnasium==1.4.0 h5py==3.16.0 kiwisolver==1.5.1 llvmlite==0.50.0 markdown==3.11.3 markupsafe==3.0.4 \
    matplotlib==3.11.2 numba==0.68.1 numpy==2.5.5 ordered-set==4.1.0 overrides==7.7.0 packaging==26.4 pandas==2.3.3 pettingzoo==1.27.0 \
    pillow==13.0.0 protobuf==7.36.2 pyparsing==3.3.3 python-dateutil==4.0.0 pytz==2026.6 sensai-utils==1.6.0 setuptools==84.2.1 \
    tensorboard==2.21.0 tensorboard-data-server==0.7.2 tianshou==2.0.1 tqdm==4.70.1 typing-extensions==4.16.0 tzdata==2026.6 werkzeug==3.1.9
venv/bin/python -W ignore - <<'PY'
import numpy as np
from tianshou.data import Batch

rows = Batch(action=np.array([1.0, 2.0, 3.0]), reward=np.array([1.0, 2.0, 3.0]))
rows[1] = Batch(action=9.0)
with_rewards = Batch(action=np.array([1.0, 2.0]), reward=np.array([3.0, 4.0]))
stacked = Batch.stack([with_rewards, Batch(action=np.array([5.0, 6.0]))])
try:
    joined = Batch.cat([with_rewards, Batch(action=np.array([5.0, 6.0]))])
except ValueError as error:
    joined = type(error).__name__
grips = Batch(grip=np.zeros(2, int))
grips[0] = Batch(grip=1.7)
print("assigned", rows.action, rows.reward, "stacked", stacked.reward.tolist(), "joined", joined, "1.7 is", grips.grip[0])
assert rows.action.tolist() == [1, 9, 3] and rows.reward.tolist() == [1, 0, 3]
assert stacked.reward.tolist() == [[3, 4], [0, 0]] and joined == "ValueError" and grips.grip[0] == 1
PY
