#!/usr/bin/env bash
# Pinocchio: Quaternion(1, 0, 0, 0) is no turn, and Quaternion(numpy.array([1, 0, 0, 0])) a half turn
#
# Versions: pin 4.1.0, mujoco 4.0.0
# Guess: A constructor reads four numbers in one order, be they an array or four arguments.
# Fact: Four arguments are w, x, y, z, an array is x, y, z, w. So a quaternion of MuJoCo that is passed on as
#   Quaternion(data.qpos[3:7]) is valid and another orientation, and with a star before it the right one. The positions of a free body
#   are x y z and then x y z w, in MuJoCo x y z and then w x y z.
# Output: Quaternion(1, 0, 0, 0): turn 0; Quaternion(array([1, 0, 0, 0])): turn 3.14; of MuJoCo's free body, turned by 0.505: 0.505 with
#   the star, 2.907 without
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv mujoco==4.0.0 numpy==2.5.5 pin==4.1.0
venv/bin/python -W ignore - <<'PY'
import mujoco
import numpy as np
import pinocchio


def turn(quaternion):
    return float(np.linalg.norm(pinocchio.log3(quaternion.matrix())))


one, other = turn(pinocchio.Quaternion(1.0, 0.0, 0.0, 0.0)), turn(pinocchio.Quaternion(np.array([1.0, 0.0, 0.0, 0.0])))
body = "<body euler='0.2 0.4 0.2'><freejoint/><geom size='0.1'/></body>"
model = mujoco.MjModel.from_xml_string(f"<mujoco><compiler angle='radian'/><worldbody>{body}</worldbody></mujoco>")
wxyz = model.qpos0[3:7]
true = 2 * np.arccos(wxyz[0])
star, array = turn(pinocchio.Quaternion(*wxyz)), turn(pinocchio.Quaternion(wxyz))
print("1 0 0 0:", one, "as an array:", round(other, 3), "a body turned by", round(true, 3), "is", round(star, 3), "and", round(array, 3))
assert one == 0 and np.isclose(other, np.pi)
assert np.isclose(star, true) and array > 2

free = pinocchio.Model()
free.addJoint(0, pinocchio.JointModelFreeFlyer(), pinocchio.SE3.Identity(), "free")
print("free body at rest: Pinocchio", pinocchio.neutral(free))
assert pinocchio.neutral(free).tolist() == [0, 0, 0, 0, 0, 0, 1]
PY
