#!/usr/bin/env bash
# d3rlpy: what follows the last terminal or timeout is not in the dataset; a recording without an end is lost
#
# Versions: d3rlpy 2.8.1, torch 2.15.0
# Guess: MDPDataset of 10 steps, with ends after step 3 and step 6, holds three episodes; the last one is open, as where
#   a recording was stopped or cut to a number of steps.
# Fact: Only flags make episodes. Steps 7 to 9 are gone without a word. Of demonstrations that are joined with a flag
#   between two of them, as by a change of the episode's number, the last one is missing.
# Output: steps of the episodes: 4 3, with a timeout at the last step 4 3 3
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps click==8.5.1 cloudpickle==3.1.3 colorama==0.4.6 d3rlpy==2.8.1 dataclasses-json==0.6.7 farama-notifications==0.0.6 \
    gym==0.26.2 gym-notices==0.1.0 gymnasium==1.4.0 h5py==3.16.0 joblib==1.6.0 marshmallow==4.4.0 mypy-extensions==1.2.0 narwhals==2.29.0 \
    numpy==2.5.5 packaging==26.4 scikit-learn==1.9.1 scipy==1.18.1 structlog==26.1.0 threadpoolctl==3.8.0 tqdm==4.70.1 \
    typing-extensions==4.16.0 typing-inspect==0.9.0
venv/bin/python -W ignore - <<'PY'
import logging

import d3rlpy
import numpy as np
import structlog

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
steps = np.arange(10, dtype=np.float32)
columns = {"observations": steps[:, None], "actions": steps[:, None] / 10, "rewards": steps}
ends, stop = np.isin(steps, [3, 6]).astype(np.float32), (steps == 9).astype(np.float32)
found = [
    [episode.rewards.ravel().tolist() for episode in d3rlpy.dataset.MDPDataset(**columns, terminals=ends, timeouts=timeouts).episodes]
    for timeouts in (None, stop)
]
print("episodes:", *found, sep="\n")
assert found[0] == [[0, 1, 2, 3], [4, 5, 6]], "steps 7 to 9 are in no episode"
assert found[1] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
PY
