#!/usr/bin/env bash
# numpy-quaternion: the mean of orientations whose quaternions change sign is another orientation, or not a number
#
# Versions: numpy-quaternion 2024.0.13, scipy 1.18.1
# Guess: mean_rotor_in_chordal_metric is "closest to all R in the least-squares sense": q and -q are one R, so signs do not
#   matter, as in scipy's Rotation.mean.
# Fact: It adds the quaternions and scales the sum to length 1. Poses from recordings, which change sign at will, average
#   to anything: q and -q to NaN, without a warning. unflip_rotors before it helps where poses come one after another.
# Output: 50 orientations about one: scipy's mean is 0.037 rad from it, numpy-quaternion's with every second sign changed
#   3.094 rad, with unflip_rotors 0.037; mean of q and -q: nan
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps numpy==2.5.5 numpy-quaternion==2024.0.13 scipy==1.18.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import quaternion
from scipy.spatial.transform import Rotation

middle = Rotation.from_euler("xyz", [2.5, 0.4, 1.0])
poses = middle * Rotation.from_rotvec(np.random.default_rng(0).normal(size=(50, 3)) * 0.1)
wxyz = poses.as_quat(scalar_first=True)
wxyz *= np.sign(wxyz @ wxyz[0])[:, None]  # all of one sign
changing = wxyz * np.where(np.arange(50) % 2, -1, 1)[:, None]


def away(rotors):
    mean = quaternion.as_float_array(quaternion.mean_rotor_in_chordal_metric(rotors))
    return round(float((middle.inv() * Rotation.from_quat(mean, scalar_first=True)).magnitude()), 3)


rotors = quaternion.as_quat_array(changing)
found = {
    "scipy": round(float((middle.inv() * Rotation.from_quat(changing, scalar_first=True).mean()).magnitude()), 3),
    "one sign": away(quaternion.as_quat_array(wxyz)),
    "changing signs": away(rotors),
    "unflip_rotors": away(quaternion.unflip_rotors(rotors)),
}
both = quaternion.mean_rotor_in_chordal_metric(quaternion.as_quat_array([wxyz[0], -wxyz[0]]))
print(found, "q and -q:", both)
assert found["scipy"] == found["one sign"] == found["unflip_rotors"] < 0.1
assert found["changing signs"] > 0.5 and np.isnan(both.w)
PY
