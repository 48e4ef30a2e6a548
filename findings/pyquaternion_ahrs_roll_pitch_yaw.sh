#!/usr/bin/env bash
# pyquaternion, ahrs: yaw_pitch_roll is not that of z-y'-x'', and the matrix and the quaternion of ahrs disagree
#
# Versions: pyquaternion 0.9.9, ahrs 0.4.0, scipy 1.18.1
# Guess: One rotation, yaw 0.3, pitch 0.2 and roll 0.1 about z, y' and x'', has these angles in each library; DCM(rpy=...)
#   takes them as roll, pitch, yaw, as its docstring says, and to_rpy() gives them back.
# Fact: pyquaternion's docstring promises z-y'-x'', but its angles are those of x-y'-z''. ahrs's DCM takes rpy= as yaw,
#   pitch, roll, and to_rpy() gives the angles of the inverse rotation; Quaternion of the same library is right. Small
#   tilts look alike; a hand that looks down does not.
# Output: yaw, pitch, roll 0.3, 0.2, 0.1: pyquaternion 0.286, 0.220, 0.038; ahrs Quaternion 0.3, 0.2, 0.1, DCM -0.286,
#   -0.220, -0.038; DCM(rpy=(0.1, 0.2, 0.3)) has roll 0.3 and yaw 0.1, and its to_rpy() is -0.286, -0.220, -0.038
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps ahrs==0.4.0 numpy==2.5.5 pyquaternion==0.9.9 scipy==1.18.1
venv/bin/python -W ignore - <<'PY'
import ahrs
import numpy as np
import pyquaternion
from scipy.spatial.transform import Rotation

angles = 0.3, 0.2, 0.1  # yaw, pitch, roll
rotation = Rotation.from_euler("ZYX", angles)
wxyz = rotation.as_quat(scalar_first=True)
given = ahrs.DCM(rpy=angles[::-1])
found = {
    "pyquaternion": pyquaternion.Quaternion(wxyz).yaw_pitch_roll,
    "ahrs Quaternion": ahrs.Quaternion(wxyz).to_angles()[::-1],
    "ahrs DCM": ahrs.DCM(rotation.as_matrix()).to_rpy()[::-1],
    "DCM(rpy)": Rotation.from_matrix(np.array(given)).as_euler("ZYX"),
    "DCM(rpy).to_rpy()": given.to_rpy(),
}
for name, each in found.items():
    print(name, np.round(each, 3).tolist())
assert np.allclose(found["pyquaternion"], rotation.as_euler("XYZ")[::-1])
assert np.allclose(found["ahrs Quaternion"], angles)
assert np.allclose(found["ahrs DCM"], rotation.inv().as_euler("ZYX"))
assert np.allclose(found["DCM(rpy)"], angles[::-1])
assert np.allclose(found["DCM(rpy).to_rpy()"], Rotation.from_matrix(np.array(given)).inv().as_euler("ZYX")[::-1])
PY
