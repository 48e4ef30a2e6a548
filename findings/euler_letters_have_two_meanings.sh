#!/usr/bin/env bash
# MuJoCo, scipy, rowan, ahrs: small letters of "xyz" mean axes that turn along in one and fixed axes in the other
#
# Versions: mujoco 4.0.0, scipy 1.18.1, rowan 1.3.2, ahrs 0.4.0, transforms3d 0.4.2
# Guess: The sequence "xyz" with the same three angles is one rotation.
# Fact: MuJoCo's small letters turn along (intrinsic) and its capitals are fixed; scipy has it the other way round. rowan
#   and ahrs read "xyz" as MuJoCo does, transforms3d without a sequence as scipy does. Each page says so of its
#   own. A file's eulerseq that is passed on to scipy gives a valid and wrong orientation, near right for small angles.
# Output: angles 0.3, 0.2, 0.1: MuJoCo xyz, scipy XYZ, rowan xyz and ahrs xyz are one rotation; MuJoCo XYZ, scipy xyz and
#   transforms3d another one, 4.0 degrees away; of 1.0, 1.0, 1.0 it is 86.0 degrees away
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv ahrs==0.4.0 mujoco==4.0.0 numpy==2.5.5 rowan==1.3.2 scipy==1.18.1 transforms3d==0.4.2
venv/bin/python -W ignore - <<'PY'
import ahrs
import mujoco
import numpy as np
import rowan
import transforms3d
from scipy.spatial.transform import Rotation


def in_mujoco(letters, angles):
    wxyz = np.zeros(4)
    mujoco.mju_euler2Quat(wxyz, angles, letters)
    return Rotation.from_quat(wxyz, scalar_first=True)


for angles in ([0.3, 0.2, 0.1], [1.0, 1.0, 1.0]):
    turning = {
        "MuJoCo xyz": in_mujoco("xyz", angles),
        "scipy XYZ": Rotation.from_euler("XYZ", angles),
        "rowan xyz": Rotation.from_quat(rowan.from_euler(*angles, "xyz"), scalar_first=True),
        "ahrs xyz": Rotation.from_matrix(np.array(ahrs.DCM(euler=("xyz", angles)))),
    }
    fixed = {
        "MuJoCo XYZ": in_mujoco("XYZ", angles),
        "scipy xyz": Rotation.from_euler("xyz", angles),
        "transforms3d": Rotation.from_quat(transforms3d.euler.euler2quat(*angles), scalar_first=True),
    }
    for group in (turning, fixed):
        first = next(iter(group.values()))
        assert all((first.inv() * each).magnitude() < 1e-6 for each in group.values()), group
    apart = np.degrees((turning["MuJoCo xyz"].inv() * fixed["scipy xyz"]).magnitude())
    print(*turning, "|", *fixed, f"| {apart:.1f} degrees apart at", angles)
    assert apart > 3
PY
