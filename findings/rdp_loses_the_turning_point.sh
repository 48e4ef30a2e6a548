#!/usr/bin/env bash
# rdp: waypoints of a hand that goes out and back leave out where it turned; shapely keeps every point of the same path
#
# Versions: rdp 0.8, simplification 2.0.0, shapely 2.2.0, scikit-image 0.26.0
# Guess: Ramer-Douglas-Peucker keeps each point that is further than epsilon from the simplified path.
# Fact: rdp measures to the endless line through two points, so a hand that goes to 2 and back to 1.5 on one line has no
#   waypoint at 2: half a metre is lost at an epsilon of 0.1. simplification and scikit-image measure to the piece between the
#   points, and keep it. shapely's simplify keeps all points of a path that lies on itself, unless preserve_topology=False.
# Output: waypoints along x of 0, 0.5, 1, 1.5, 2, 1.8, 1.5: rdp 0 1.5; simplification and scikit-image 0 2 1.5; shapely all seven;
#   shapely without topology 0 2 1.5
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 rdp==0.8 scikit-image==0.26.0 scipy==1.18.1 shapely==2.2.0 simplification==2.0.0
venv/bin/python -W ignore - <<'PY'
import numpy as np
from rdp import rdp
from shapely import LineString
from simplification.cutil import simplify_coords
from skimage.measure import approximate_polygon

path = np.zeros((7, 3))
path[:, 0] = [0, 0.5, 1, 1.5, 2, 1.8, 1.5]
found = {
    "rdp": rdp(path, epsilon=0.1),
    "simplification": simplify_coords(path[:, :2].tolist(), 0.1),
    "scikit-image": approximate_polygon(path[:, :2], 0.1),
    "shapely": LineString(path[:, :2]).simplify(0.1).coords,
    "shapely, no topology": LineString(path[:, :2]).simplify(0.1, preserve_topology=False).coords,
}
along = {name: [float(point[0]) for point in points] for name, points in found.items()}
for name, points in along.items():
    print(name, points)
assert along["rdp"] == [0, 1.5]
assert along["simplification"] == along["scikit-image"] == along["shapely, no topology"] == [0, 2, 1.5]
assert along["shapely"] == path[:, 0].tolist()
PY
