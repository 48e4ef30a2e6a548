#!/usr/bin/env bash
# numcodecs: with the filter Delta all actions after a missing one are missing, and FixedScaleOffset turns 1.3 into -1.26
#
# Versions: numcodecs 0.17.1, zarr 3.4.2
# Guess: Delta gives back what was stored, and FixedScaleOffset of int8 stops at 127 and keeps NaN or refuses it.
# Fact: Delta stores differences and adds them up: one NaN makes each later row of its chunk NaN, and without any a float32 signal
#   through 0 comes back with half of its rows changed in the last digits. FixedScaleOffset wraps what its integers cannot
#   hold, so an action just over the limit becomes its opposite, and a missing one 0. A zarr array gives no word of either.
# Output: 1 NaN stored at row 100 of 20,000: 19,900 read; without it 53 % of the rows differ, by up to 1.5e-7; FixedScaleOffset of
#   1.27, 1.3, -1.3, NaN: 1.27, -1.26, 1.26, 0
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps donfig==0.8.1.post1 google-crc32c==1.9.0 msgspec==0.22.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 \
    pyyaml==6.0.4 typing-extensions==4.16.0 zarr==3.4.2
venv/bin/python -W ignore - <<'PY'
import numcodecs
import numpy as np
import zarr


def back(values, codec):
    array = zarr.create_array({}, shape=values.shape, chunks=values.shape, dtype=values.dtype, filters=[codec], zarr_format=2)
    array[:] = values
    return array[:]


actions = np.sin(np.arange(20_000) / 30).astype(np.float32)
read = back(actions, numcodecs.Delta("f4"))
changed = float((read != actions).mean())
actions[100] = np.nan
missing = int(np.isnan(back(actions, numcodecs.Delta("f4"))).sum())
print(f"Delta: {changed:.0%} of the rows differ, by up to {np.abs(read - actions)[101:].max():.1e}; one NaN becomes", missing)
assert 0.4 < changed < 0.7 and missing == 19_900
given = np.array([1.27, 1.3, -1.3, np.nan], np.float32)
read = back(given, numcodecs.FixedScaleOffset(offset=0, scale=100, dtype="f4", astype="i1"))
print("FixedScaleOffset:", given, read)
assert np.allclose(read, [1.27, -1.26, 1.26, 0], atol=1e-6)
PY
