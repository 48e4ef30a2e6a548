#!/usr/bin/env bash
# gymnasium: the flattened observation has joint_10 before joint_2, but not if the same space is written with keywords
#
# Versions: gymnasium 1.4.0
# Guess: flatten() and FlattenObservation put the parts of a Dict space one after the other as the space was written.
# Fact: A Dict space that is given a dict sorts its keys as text; given keywords, or an OrderedDict, it keeps their order. Both spaces
#   are called alike and hold the same observations. Twelve joints come as 0, 1, 10, 11, 2, ..., and the gripper comes before
#   the joints: statistics, or a policy, of the one space read other numbers from the other.
# Output: joints of a dict: 0 1 10 11 2 3 4 5 6 7 8 9; of keywords and of an OrderedDict: 0 to 11
# Needs: Python 3.12 or newer (PYTHON=), 100 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps cloudpickle==3.1.3 farama-notifications==0.0.6 gymnasium==1.4.0 numpy==2.5.5 typing-extensions==4.16.0
venv/bin/python - <<'PY'
from collections import OrderedDict

import numpy as np
from gymnasium.spaces import Box, Dict, flatten

parts = {f"joint_{number}": Box(-100, 100, (1,)) for number in range(12)}
seen = {name: np.array([number], np.float32) for number, name in enumerate(parts)}
found = {
    "dict": flatten(Dict(parts), seen),
    "keywords": flatten(Dict(**parts), seen),
    "OrderedDict": flatten(Dict(OrderedDict(parts)), seen),
}
print({name: values.astype(int).tolist() for name, values in found.items()})
assert found["dict"].tolist() == [0, 1, 10, 11, *range(2, 10)]
assert found["keywords"].tolist() == found["OrderedDict"].tolist() == [*range(12)]
assert Dict(parts).contains(seen) and Dict(**parts).contains(seen)
PY
