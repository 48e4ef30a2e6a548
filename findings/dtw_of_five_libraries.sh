#!/usr/bin/env bash
# tslearn, dtaidistance, aeon, fastdtw, dtw-python: four distances of one pair of trajectories, and a window of 3 is 2 in one of them
#
# Versions: tslearn 0.10.0, dtaidistance 2.5.1, aeon 1.6.0, fastdtw 0.3.4, dtw-python 1.9.0
# Guess: Dynamic time warping is one number, and a window of 3 lets two steps be matched that are 3 apart.
# Fact: tslearn and dtaidistance give the root of the sum of squares, aeon the sum of squares, fastdtw the sum of distances, and
#   dtw-python that sum with steps along both trajectories counted twice (symmetric2). Peaks 3 steps apart are matched by
#   tslearn's radius of 3, and not by dtaidistance's window of 3. aeon takes the rows of an array for the joints, the others for the
#   time: with [steps, joints] it warps the joints, in silence.
# Output: tslearn and dtaidistance 0.448, aeon 0.201, fastdtw 3.287, dtw-python 3.990; peaks 3 apart in a window of 3: 0 in tslearn,
#   1.414 in dtaidistance; two joints, root of aeon's: 0.896 as [joints, steps], 3.297 as [steps, joints]
# Needs: Python 3.12 or newer (PYTHON=), 600 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps aeon==1.6.0 cloudpickle==3.1.3 deprecated==3.0.1 dtaidistance==2.5.1 dtw-python==1.9.0 fastdtw==0.3.4 \
    joblib==1.6.0 llvmlite==0.46.0 narwhals==2.29.0 numba==0.63.1 numpy==2.3.5 packaging==26.4 pandas==3.0.6 \
    python-dateutil==4.0.0 scikit-learn==1.9.1 scipy==1.17.1 threadpoolctl==3.8.0 tslearn==0.10.0 typing-extensions==4.16.0 wrapt==2.5.2
venv/bin/python -W ignore - <<'PY'
from math import isclose, sqrt

import numpy as np
from aeon.distances import dtw_distance
from dtaidistance import dtw as dtai
from dtw import dtw as dtw_python
from fastdtw import fastdtw
from tslearn.metrics import dtw as tslearn

time = np.linspace(0, 1, 100)
one, other = np.sin(6 * time), np.sin(6 * time**1.3) + 0.1
found = {
    "tslearn": tslearn(one, other),
    "dtaidistance": dtai.distance(one, other),
    "aeon": dtw_distance(one, other),
    "fastdtw": fastdtw(one, other, radius=100)[0],
    "dtw-python": dtw_python(one, other).distance,
}
print({name: round(float(value), 3) for name, value in found.items()})
assert isclose(found["tslearn"], found["dtaidistance"], rel_tol=1e-6)
assert isclose(found["tslearn"], sqrt(found["aeon"]), rel_tol=1e-6)
assert found["tslearn"] < 0.5 and 3 < found["fastdtw"] < 3.5 < found["dtw-python"]

peaks = np.eye(30)[10], np.eye(30)[13]
within = tslearn(*peaks, global_constraint="sakoe_chiba", sakoe_chiba_radius=3), dtai.distance(*peaks, window=3)
print("peaks 3 apart, 3 allowed (tslearn, dtaidistance):", within)
assert within[0] == 0 and within[1] > 1.4 and dtai.distance(*peaks, window=4) == 0

joints = np.stack([one, time], 1), np.stack([other, time], 1)  # [100 steps, 2 joints]
turned = sqrt(dtw_distance(joints[0].T.copy(), joints[1].T.copy())), sqrt(dtw_distance(*joints))
print("tslearn", tslearn(*joints), "aeon of [joints, steps] and [steps, joints]", turned)
assert isclose(tslearn(*joints), turned[0], rel_tol=1e-6) and turned[1] > 3 * turned[0]
PY
