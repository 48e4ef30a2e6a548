#!/usr/bin/env bash
# brax: quat_to_euler(euler_to_quat(angles)) is the angles divided by 57.3: one takes degrees, the other gives radians
#
# Versions: brax 0.14.2
# Guess: Two functions of one module that reverse each other, both without a unit in their names, use one unit.
# Fact: euler_to_quat takes degrees, as MuJoCo's XML does, and quat_to_euler gives radians. Their docstrings say so, one each. An orientation
#   in radians that goes through both is a fiftieth of itself, which near 0 looks like a robot that stands straight.
# Output: 0.3 0.4 0.5 -> 0.0052 0.0070 0.0087; 30 40 20 degrees -> 0.524 0.698 0.349
# Needs: Python 3.12 or newer (PYTHON=), 700 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv brax==0.14.2 jax==0.12.0.1 mujoco==4.0.0 numpy==2.5.5
JAX_PLATFORMS=cpu venv/bin/python -W ignore - <<'PY'
import numpy as np
from brax.math import euler_to_quat, quat_to_euler

angles = np.array([0.3, 0.4, 0.5])
back = np.array(quat_to_euler(euler_to_quat(angles)))
degrees = np.array(quat_to_euler(euler_to_quat(np.array([30.0, 40.0, 20.0]))))
print("0.3 0.4 0.5 comes back as", back.round(4), "30 40 20 as", degrees.round(3))
assert np.allclose(back, np.radians(angles), atol=1e-5) and np.allclose(degrees, np.radians([30, 40, 20]), atol=1e-5)
PY
