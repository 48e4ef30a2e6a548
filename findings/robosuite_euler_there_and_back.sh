#!/usr/bin/env bash
# robosuite: mat2euler(euler2mat(angles)) is other angles, and quat2axisangle of -q is a turn of 6.18 rad instead of 0.1
#
# Versions: robosuite 1.5.2, scipy 1.17.1
# Guess: Two functions of one file whose names are each other's reverse give back what they were given, and orientations do not
#   depend on the sign of the quaternion.
# Fact: euler2mat turns about axes that turn along (scipy's XYZ), mat2euler by default about fixed ones ("sxyz", scipy's xyz). With "rxyz" it is
#   the reverse. Near 0 both agree, so small angles pass a test. quat2axisangle, by which LIBERO's states and those of many policies are
#   made, does not take the shorter turn: where a log has -q, the state jumps by a full turn.
# Output: 0.3 0.4 0.5 comes back as 0.462 0.186 0.605, with "rxyz" as 0.3 0.4 0.5; lengths of q and -q: 0.099 and 6.184
# Needs: Python 3.12 (numpy 1.26; PYTHON=), 400 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    absl-py==2.5.1 etils==1.15.0 evdev==2.0.0 fsspec==2026.9.0 glfw==2.11.0 iniconfig==2.3.1 \
    llvmlite==0.50.0 mink==0.0.5 mujoco==3.3.0 numba==0.68.1 numpy==1.26.4 opencv-python==4.11.0.86 \
    packaging==26.4 pillow==13.0.0 pluggy==1.7.0 pygments==2.21.0 pynput==1.8.2 pyopengl==3.1.10 \
    pytest==9.2.0 python-xlib==0.33 qpsolvers==4.13.0 quadprog==0.1.14 robosuite==1.5.2 scipy==1.17.1 \
    six==1.17.0 termcolor==3.3.0 tqdm==4.70.1 typing-extensions==4.16.0 zipp==4.1.2
venv/bin/python -W ignore - <<'PY'
import numpy as np
from robosuite.utils.transform_utils import euler2mat, mat2euler, quat2axisangle
from scipy.spatial.transform import Rotation

angles = np.array([0.3, 0.4, 0.5])
matrix = euler2mat(angles)
back, along = mat2euler(matrix), mat2euler(matrix, axes="rxyz")
print("there and back", back.round(3), 'with "rxyz"', along.round(3))
assert np.allclose(matrix, Rotation.from_euler("XYZ", angles).as_matrix())
assert np.allclose(back, Rotation.from_matrix(matrix).as_euler("xyz")) and np.abs(back - angles).max() > 0.2
assert np.allclose(along, angles, atol=1e-6)

turn = np.array([0.05, -0.03, 0.08])
xyzw = Rotation.from_rotvec(turn).as_quat()
lengths = [float(np.linalg.norm(quat2axisangle(each.copy()))) for each in (xyzw, -xyzw)]
print("q and -q", np.round(lengths, 3))
assert np.allclose(lengths, [np.linalg.norm(turn), 2 * np.pi - np.linalg.norm(turn)])
PY
