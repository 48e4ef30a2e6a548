#!/usr/bin/env bash
# toppra: trajectories within an acceleration limit of 2 reach 2.2, unless the other parametrizer is asked for
#
# Versions: toppra 0.6.10, scipy 1.18.1
# Guess: TOPPRA(constraints, path).compute_trajectory() keeps the limits that it was given, to rounding.
# Fact: It keeps them at the points of its grid. By default a spline is then laid through them (ParametrizeSpline), which
#   accelerates up to 12 % more between them, and is a little faster than the limit. parametrizer="ParametrizeConstAccel" stays within 0.5 %.
#   Labels of a replay, or a robot that stops at its limit, meet the difference.
# Output: highest acceleration of eight paths, limit 2: 2.10 to 2.24 by default, 2.00 to 2.01 with ParametrizeConstAccel
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 matplotlib==3.11.2 numpy==2.5.5 packaging==26.4 \
    pillow==13.0.0 pyparsing==3.3.3 python-dateutil==4.0.0 scipy==1.18.1 toppra==0.6.10
venv/bin/python -W ignore - <<'PY'
import logging

import numpy as np
from toppra import SplineInterpolator
from toppra.algorithm import TOPPRA
from toppra.constraint import JointAccelerationConstraint, JointVelocityConstraint

logging.disable(logging.WARNING)
SPEED, LIMIT = np.tile([-1.0, 1.0], (7, 1)), np.tile([-2.0, 2.0], (7, 1))


def highest(seed, **options):
    """Of a path of seven joints through six points."""
    points = np.random.default_rng(seed).uniform(-1, 1, (6, 7))
    path = SplineInterpolator(np.linspace(0, 1, 6), points)
    planner = TOPPRA([JointVelocityConstraint(SPEED), JointAccelerationConstraint(LIMIT)], path, **options)
    found = planner.compute_trajectory()
    return float(np.abs(found(np.linspace(0, found.duration, 20_001), 2)).max())


default = [highest(seed) for seed in range(8)]
constant = [highest(seed, parametrizer="ParametrizeConstAccel") for seed in range(8)]
print("limit 2, by default", np.round(default, 3), "ParametrizeConstAccel", np.round(constant, 3))
assert min(default) > 2.05 and max(default) > 2.15
assert max(constant) < 2.03
PY
