#!/usr/bin/env bash
# modern_robotics, spatialmath: the rotation vector of a gripper that points down is up to 180 degrees off, by a rounding error
#
# Versions: modern_robotics 1.1.1, spatialmath-python 1.1.18, scipy 1.18.1
# Guess: The logarithm of a rotation matrix gives back the rotation to about 1e-7, as in scipy; just one exact half turn needs care.
# Fact: Both divide by the sine of an angle that comes from the trace, which near a half turn is known to 1e-8 only. A matrix made of a float32
#   quaternion, as logs and policies have it, is about that near, for a gripper pointing down is a half turn. modern_robotics then
#   gives vectors of other orientations or of other lengths; spatialmath treats what is nearer than 1e-7 as exact, and is
#   degrees off just outside. scipy, MuJoCo, Pinocchio, transforms3d, kornia, roma: below 0.0001 degrees.
# Output: 360 headings of a gripper pointing down, quaternions in float32: modern_robotics more than 1 degree off in 34, at most 180;
#   1e-7 rad before a half turn: both 1.9 degrees off in the middle, at most 3.8; 1e-3 before: right
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps ansitable==1.2.0 colored==2.3.2 contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 matplotlib==3.11.2 \
    modern_robotics==1.1.1 numpy==2.5.5 packaging==26.4 pillow==13.0.0 pyparsing==3.3.3 python-dateutil==4.0.0 scipy==1.18.1 six==1.17.0 \
    spatialmath-python==1.1.18 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import modern_robotics
import numpy as np
from scipy.spatial.transform import Rotation
from spatialmath import SO3


def by_modern_robotics(matrix):
    return modern_robotics.so3ToVec(modern_robotics.MatrixLog3(matrix))


def by_spatialmath(matrix):
    angle, axis = SO3(matrix, check=False).angvec()
    return angle * np.array(axis)


def by_scipy(matrix):
    return Rotation.from_matrix(matrix).as_rotvec()


def off(method, turns):
    """Degrees between the rotation of the vector and the matrix that it was taken of."""
    found = Rotation.from_rotvec([method(matrix) for matrix in turns.as_matrix()])
    return np.degrees((found.inv() * turns).magnitude())


down = Rotation.from_euler("z", np.arange(360.0)[:, None], degrees=True) * Rotation.from_euler("x", 180, degrees=True)
logged = Rotation.from_quat(down.as_quat().astype(np.float32))
axes = np.random.default_rng(0).normal(size=(300, 3))
axes /= np.linalg.norm(axes, axis=1, keepdims=True)
for method in (by_modern_robotics, by_spatialmath, by_scipy):
    headings = off(method, logged)
    near, far = (off(method, Rotation.from_rotvec((np.pi - short) * axes)) for short in (1e-7, 1e-3))
    print(
        method.__name__,
        f"pointing down: more than 1 degree off in {np.sum(headings > 1)}, at most {headings.max():.3g};",
        f"1e-7 before a half turn: {np.median(near):.2g}, at most {near.max():.2g}; 1e-3 before: {far.max():.1g}",
    )
    assert far.max() < 1e-6
    assert (near.max() > 1) == (method is not by_scipy)
    assert (np.sum(headings > 1) > 10) == (method is by_modern_robotics)
PY
