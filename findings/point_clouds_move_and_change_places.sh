#!/usr/bin/env bash
# laspy, DracoPy: a point cloud in metres comes back rounded to centimetres, or with its points in another order
#
# Versions: laspy 2.7.0, DracoPy 2.2.0
# Guess: What is stored without a word on precision keeps it to float32, and point k is point k, so labels, contact forces or colours that are
#   kept beside it still fit.
# Fact: laspy.create() rounds to 0.01, also at once in memory: x is 0.12 right after 0.1234 was set. The scale must be changed before.
#   DracoPy's encode orders points anew; what it stores itself (colors=) goes along, what you keep beside does not. It also rounds to
#   14 bits by default. preserve_order=True keeps the order.
# Output: laspy: 0.1234 0.1249 -> 0.12 0.12; DracoPy: point 0 of 1,000 comes back elsewhere, 999 of them moved; with preserve_order none
# Needs: Python 3.12 or newer (PYTHON=), 80 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv DracoPy==2.2.0 laspy==2.7.0 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import DracoPy
import laspy
import numpy as np

cloud = laspy.create()
cloud.x = np.array([0.1234, 0.1249])
inside = np.array(cloud.x)
cloud.write("hand.las")
stored = np.array(laspy.read("hand.las").x)
print("laspy", inside, stored)
assert np.allclose(inside, [0.12, 0.12]) and np.allclose(stored, inside)

points = np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32)


def moved(**options):
    """How many points have another one in their place, and how far each is from its nearest."""
    back = DracoPy.decode(DracoPy.encode(points, **options)).points
    apart = np.linalg.norm(points[:, None] - back[None], axis=2)
    return int(np.sum(apart.argmin(1) != np.arange(1000))), float(apart.min(1).max())


default, kept = moved(), moved(preserve_order=True)
print("DracoPy: moved, and distance", default, "preserve_order", kept)
assert default[0] > 900 and kept[0] == 0
assert 1e-5 < default[1] < 2e-4
PY
