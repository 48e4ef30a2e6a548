#!/usr/bin/env bash
# scipy, pytransform3d, Pinocchio, spatialmath: the six numbers of one motion begin with its turn in two, with a way in two
#
# Versions: scipy 1.18.1, pytransform3d 3.17.0, pin 4.1.0, spatialmath-python 1.1.18
# Guess: The logarithm of a rigid motion is six numbers in one order, and the way is among them.
# Fact: scipy (RigidTransform.as_exp_coords) and pytransform3d put the turn first, Pinocchio (log6) and spatialmath (log, Twist3) last.
#   All take and give six floats, so a delta action of one library is read by another without complaint. None of those
#   is the way: for 1 m along x and half a radian about z they are 0.979, -0.25, 0. spatialmath's delta, also six
#   numbers, has the way, but the sine of the turn.
# Output: 0 0 0.5 0.979 -0.25 0 (scipy, pytransform3d); 0.979 -0.25 0 0 0 0.5 (Pinocchio, spatialmath); delta 1 0 0 0 0 0.479; what
#   Pinocchio makes of scipy's six numbers is a turn of 58 degrees and a way of 0.48 m
# Needs: Python 3.12 or newer (PYTHON=), 500 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv ansitable==1.2.0 lxml==6.1.3 matplotlib==3.11.2 numpy==2.5.5 pin==4.1.0 pytransform3d==3.17.0 scipy==1.18.1 \
    spatialmath-python==1.1.18 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import numpy as np
import pinocchio as pin
from pytransform3d.transformations import exponential_coordinates_from_transform
from scipy.spatial.transform import RigidTransform, Rotation
from spatialmath import SE3, Twist3

motion = np.eye(4)
motion[:3, :3] = Rotation.from_rotvec([0, 0, 0.5]).as_matrix()
motion[0, 3] = 1.0
found = {
    "scipy": RigidTransform.from_matrix(motion).as_exp_coords(),
    "pytransform3d": exponential_coordinates_from_transform(motion),
    "Pinocchio": pin.log6(pin.SE3(motion)).vector,
    "spatialmath": SE3(motion).log(twist=True),
    "Twist3": Twist3(SE3(motion)).S,
    "delta": SE3().delta(SE3(motion)),
}
for name, six in found.items():
    print(name, six.round(3))
turn_first, turn_last = [0, 0, 0.5, 0.979, -0.25, 0], [0.979, -0.25, 0, 0, 0, 0.5]
for name in ("scipy", "pytransform3d"):
    assert np.allclose(found[name], turn_first, atol=1e-3)
for name in ("Pinocchio", "spatialmath", "Twist3"):
    assert np.allclose(found[name], turn_last, atol=1e-3)
assert np.allclose(found["delta"], [1, 0, 0, 0, 0, np.sin(0.5)])
misread = pin.exp6(found["scipy"])
turned = np.degrees(Rotation.from_matrix(misread.rotation).magnitude())
print("Pinocchio of scipy's:", misread.translation.round(2), f"and {turned:.0f} degrees")
assert abs(turned - np.degrees(np.hypot(0.979, 0.25))) < 0.5
PY
