#!/usr/bin/env bash
# filterpy, pykalman, simdkalman: with one model and one start the estimates of filterpy are a step ahead of the other two
#
# Versions: filterpy 2.0.0, pykalman 0.11.2, simdkalman 1.0.4
# Guess: x0 and P0 describe the state at the first measurement, in all three.
# Fact: In pykalman and simdkalman they do. filterpy's batch_filter predicts before the first measurement: x0 is the state a step
#   earlier. A recording that is what the model says, with its true start, is followed without an error by two of them, and by the third
#   with one of 0.33 that takes many steps to vanish. update_first=True gives what the others give.
# Output: speed 1 and places 0 1 2 3 4: pykalman and simdkalman estimate 0 1 2 3 4, filterpy 0.332 1.0 1.877 2.841 3.837
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv filterpy==2.0.0 numpy==2.5.5 pykalman==0.11.2 scikit-base==0.13.2 scipy==1.18.1 simdkalman==1.0.4
venv/bin/python -W ignore - <<'PY'
import numpy as np
import pykalman
import simdkalman
from filterpy.kalman import KalmanFilter

moves, sees = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
drift, noise, start, spread = np.eye(2) * 0.01, np.eye(1), np.array([0.0, 1.0]), np.eye(2)
places = np.arange(5.0)


def by_filterpy(**options):
    one = KalmanFilter(dim_x=2, dim_z=1)
    one.F, one.H, one.Q, one.R, one.x, one.P = moves, sees, drift, noise, start[:, None].copy(), spread.copy()
    return one.batch_filter(places, **options)[0][:, 0, 0]


three = pykalman.KalmanFilter(moves, sees, drift, noise, initial_state_mean=start, initial_state_covariance=spread)
two = simdkalman.KalmanFilter(moves, drift, sees, noise)
found = {
    "filterpy": by_filterpy(),
    "filterpy, update_first": by_filterpy(update_first=True),
    "pykalman": np.asarray(three.filter(places)[0])[:, 0],
    "simdkalman": two.compute(places, 0, initial_value=start, initial_covariance=spread, filtered=True).filtered.states.mean[:, 0],
}
for name, values in found.items():
    print(name, np.round(values, 3))
for name in ("pykalman", "simdkalman"):
    assert np.allclose(found[name], places)
assert abs(found["filterpy"][0] - 0.332) < 1e-3 and abs(found["filterpy"][-1] - places[-1]) > 0.1
PY
