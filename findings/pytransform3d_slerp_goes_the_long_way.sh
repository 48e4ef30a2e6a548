#!/usr/bin/env bash
# pytransform3d: quaternion_slerp turns the long way round unless told otherwise
#
# Versions: pytransform3d 3.17.0, scipy 1.18.1
# Guess: Halfway between two orientations that are 60 degrees apart lies 30 degrees from both, whatever the signs of
#   the quaternions (scipy's Slerp).
# Fact: shortest_path=False is the default: if the recorded quaternion has the other sign, which means the same
#   orientation, the path goes through 300 degrees, and the middle is 150 degrees away. Recorded poses change sign
#   at will.
# Output: 60 degrees apart, second quaternion negated: pytransform3d 150.0, shortest_path=True 30.0, scipy 30.0
#   degrees
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 lxml==6.1.3 matplotlib==3.11.2 \
    numpy==2.5.5 packaging==26.4 pillow==13.0.0 pyparsing==3.3.3 python-dateutil==4.0.0 \
    pytransform3d==3.17.0 scipy==1.18.1 tzdata==2026.6
venv/bin/python - <<'PY'
import numpy as np
import pytransform3d.rotations as rotations
from scipy.spatial.transform import Rotation, Slerp


def degrees(wxyz):
    return round(float(np.degrees(2 * np.arccos(min(1, abs(wxyz[0]))))), 6)


start = np.array([1.0, 0, 0, 0])
end = np.array([np.cos(np.pi / 6), 0, 0, np.sin(np.pi / 6)])  # 60 degrees about z
poses = Rotation.from_quat([start, -end], scalar_first=True)
middle = {
    "same sign": degrees(rotations.quaternion_slerp(start, end, 0.5)),
    "negated": degrees(rotations.quaternion_slerp(start, -end, 0.5)),
    "shortest_path": degrees(rotations.quaternion_slerp(start, -end, 0.5, shortest_path=True)),
    "scipy": round(float(np.degrees(Slerp([0, 1], poses)(0.5).magnitude())), 6),
}
print(middle)
assert middle == {"same sign": 30, "negated": 150, "shortest_path": 30, "scipy": 30}
PY
