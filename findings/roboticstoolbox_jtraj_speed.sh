#!/usr/bin/env bash
# roboticstoolbox: the velocities of jtraj(q0, q1, 50) are 50 times those by its own times
#
# Versions: roboticstoolbox-python 1.5.0, spatialmath-python 1.1.18
# Guess: .q, .qd and .t of one trajectory belong together: the sum of qd over t is the way, whatever the third argument is.
# Fact: With a number of steps qd and qdd are those of a motion that lasts 1, and .t goes from 0 to 50 all the same: driven by
#   these velocities at these times a joint turns 50 times too far. quintic() and trapezoidal() with 50 steps give velocities a step,
#   which do fit; jtraj fits where it is given times in place of a number.
# Output: way of 1 by qd over t: jtraj of 50 steps 50.0, quintic of 50 steps 1.0 (t from 0 to 49), jtraj of times 1.0
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv ansitable==1.2.0 colored==2.3.2 gitpython==3.2.1 matplotlib==3.11.2 numpy==2.5.5 pgraph-python==1.0.0 progress==1.6.1 \
    robot-descriptions==2.0.0 roboticstoolbox-python==1.5.0 rtb-data==2.0.0 scipy==1.18.1 spatialgeometry==1.4.2 \
    spatialmath-python==1.1.18 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import numpy as np
import roboticstoolbox as rtb

ways = {}
for name, motion in {
    "jtraj of 50": rtb.jtraj([0.0], [1.0], 50),
    "jtraj of times": rtb.jtraj([0.0], [1.0], np.linspace(0, 5, 50)),
    "quintic of 50": rtb.quintic(0.0, 1.0, 50),
}.items():
    assert abs(np.ravel(motion.q)[-1] - 1) < 1e-9
    ways[name] = float(np.trapezoid(np.ravel(motion.qd), motion.t))
    print(f"{name}: t from {motion.t[0]} to {motion.t[-1]}, the integral of qd is {ways[name]:.3f}")
assert abs(ways["jtraj of times"] - 1) < 1e-2 and abs(ways["quintic of 50"] - 1) < 1e-2
assert 48 < ways["jtraj of 50"] < 51
PY
