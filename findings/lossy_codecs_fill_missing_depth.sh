#!/usr/bin/env bash
# hdf5plugin, h5py, imagecodecs: a missing depth (NaN) comes back as -4 m, as 0 or as the nearest depth of the picture
#
# Versions: hdf5plugin 7.1.0, h5py 3.16.0, imagecodecs 2026.10.10
# Guess: A codec for floats with a promised error of 1 mm keeps NaN, or refuses it.
# Fact: Zfp of hdf5plugin, scaleoffset of h5py and LERC of imagecodecs store a number in its place, each another one; all other
#   pixels keep the promise. SZ3 of imagecodecs keeps NaN.
# Output: NaN becomes: Zfp -4.0, scaleoffset 0.7 (the least depth of the picture), LERC 0.0, SZ3 NaN
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv h5py==3.16.0 hdf5plugin==7.1.0 imagecodecs==2026.10.10 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import h5py
import hdf5plugin
import imagecodecs
import numpy as np

steps = np.arange(64, dtype=np.float32)
depth = 1 + 0.3 * np.sin(steps / 9)[:, None] * np.cos(steps / 7)  # metres
depth = depth.astype(np.float32)
depth[10, 10] = np.nan


def stored(**options):
    with h5py.File("depth.h5", "w") as file:
        file.create_dataset("depth", data=depth, chunks=depth.shape, **options)
    with h5py.File("depth.h5") as file:
        return file["depth"][:]


packed = imagecodecs.sz3_encode(depth, mode="abs", abs=1e-3)
found = {
    "Zfp": stored(**hdf5plugin.Zfp(accuracy=1e-3)),
    "scaleoffset": stored(scaleoffset=3),
    "SZ3": imagecodecs.sz3_decode(packed, shape=depth.shape, dtype=depth.dtype),
    "LERC": imagecodecs.lerc_decode(imagecodecs.lerc_encode(depth, level=1e-3)),
}
missing = {}
for name, back in found.items():
    back = np.asarray(back).reshape(depth.shape)
    assert np.nanmax(np.abs(back - depth)) < 1.1e-3, "all others are well"
    missing[name] = float(back[10, 10])
    print(name, missing[name])
assert abs(missing["Zfp"] + 4) < 0.01
assert abs(missing["scaleoffset"] - np.nanmin(depth)) < 1e-3 and missing["LERC"] == 0
assert np.isnan(missing["SZ3"])
PY
