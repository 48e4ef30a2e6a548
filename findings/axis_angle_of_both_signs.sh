#!/usr/bin/env bash
# transforms3d, rowan, numpy-quaternion, pytorch-kinematics: the turn of q and of -q is one of 0.1 rad and one of 6.18 the other way
#
# Versions: transforms3d 0.4.2, rowan 1.3.2, numpy-quaternion 2024.0.13, pytorch-kinematics 0.10.0, scipy 1.18.1, pin 4.1.0, mujoco 4.0.0
# Guess: q and -q are one orientation, so axis and angle, or the rotation vector, of both are the same, at most pi long.
# Fact: Four libraries take twice the arc cosine of w as it is, so that a small turn stored with w below 0 becomes nearly a full one the other way.
#   Logged quaternions change sign freely, so actions or states made of them jump by 6.28. scipy, Pinocchio and MuJoCo, as kornia, roma and
#   pypose, take the shorter turn.
# Output: length of the rotation vectors of q and -q: 0.099 and 6.184 in transforms3d, rowan, numpy-quaternion and pytorch-kinematics; 0.099
#   and 0.099 in scipy, Pinocchio, MuJoCo
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps absl-py==2.5.1 arm-pytorch-utilities==0.5.0 contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 \
    lxml==6.1.3 matplotlib==3.11.2 numpy==2.5.5 numpy-quaternion==2024.0.13 packaging==26.4 pillow==13.0.0 pyparsing==3.3.3 \
    python-dateutil==4.0.0 pytorch-kinematics==0.10.0 pytorch-seed==0.2.0 pyyaml==6.0.4 rowan==1.3.2 scipy==1.18.1 six==1.17.0 \
    transforms3d==0.4.2
install venv mujoco==4.0.0 numpy==2.5.5 pin==4.1.0
venv/bin/python -W ignore - <<'PY'
import logging

import mujoco
import numpy as np
import pinocchio
import quaternion
import rowan
import torch
import transforms3d
from scipy.spatial.transform import Rotation

logging.disable(logging.WARNING)
import pytorch_kinematics


def by_mujoco(wxyz):
    turn = np.zeros(3)
    mujoco.mju_quat2Vel(turn, wxyz, 1.0)
    return turn


def times(pair):
    return np.asarray(pair[0]) * pair[1]


LONG = {
    "transforms3d": lambda q: times(transforms3d.quaternions.quat2axangle(q)),
    "rowan": lambda q: times(rowan.to_axis_angle(q)),
    "numpy-quaternion": lambda q: quaternion.as_rotation_vector(quaternion.from_float_array(q)),
    "pytorch-kinematics": lambda q: pytorch_kinematics.quaternion_to_axis_angle(torch.from_numpy(q)).numpy(),
}
SHORT = {
    "scipy": lambda q: Rotation.from_quat(q, scalar_first=True).as_rotvec(),
    "Pinocchio": lambda q: pinocchio.log3(pinocchio.Quaternion(*q)),
    "MuJoCo": by_mujoco,
}
turn = np.array([0.05, -0.03, 0.08])
wxyz = Rotation.from_rotvec(turn).as_quat(scalar_first=True)
for name, vector in (LONG | SHORT).items():
    one, other = vector(wxyz), vector(-wxyz)
    print(name, one.round(3), other.round(3), "lengths", [round(float(np.linalg.norm(each)), 3) for each in (one, other)])
    assert np.allclose(one, turn)
    assert np.allclose(other, turn if name in SHORT else turn * (1 - 2 * np.pi / np.linalg.norm(turn)))
PY
