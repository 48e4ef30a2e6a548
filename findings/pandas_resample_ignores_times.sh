#!/usr/bin/env bash
# pandas: resample("20ms").interpolate() of joints at 30 Hz makes a steady speed of 10 vary from 5.6 to 13.9
#
# Versions: pandas 3.1.1
# Guess: Resampling to 50 Hz and interpolating gives each new time the value on the line between the two samples
#   around it.
# Fact: The samples and the new times are sorted into one list, and the default method "linear" takes the members of
#   this list as equally spaced: where a new time lies between two samples plays no part. At half and two thirds of
#   the rate the result happens to be right, at others velocities made of it are noise. The page says of "linear" that
#   it ignores the index, which here is what resample is asked for. interpolate("time") is right.
# Output: speed 10 at 30 Hz, resampled to 50 Hz: 5.6 to 13.9; to 25 Hz: 8.3 to 12.5; to 20 and 10 Hz: 10.0 to 10.0; by
#   "time" 10.0 to 10.0
# Needs: Python 3.12 or newer (PYTHON=), 100 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps numpy==2.5.5 pandas==3.1.1 python-dateutil==4.0.0
venv/bin/python - <<'PY'
import numpy as np
import pandas as pd

nanoseconds = np.arange(60) * 10**9 // 30
joint = pd.Series(10 * nanoseconds / 1e9, index=pd.to_datetime(nanoseconds))  # 10 a second, always


def speeds(rate, *method):
    made = joint.resample(pd.Timedelta(seconds=1 / rate)).interpolate(*method)
    made = made[made.index <= joint.index[-1]]
    speed = np.diff(made.to_numpy()) * rate
    return round(float(speed.min()), 1), round(float(speed.max()), 1)


found = {rate: speeds(rate) for rate in (50, 25, 20, 10)}
print("speeds by rate:", found, "by time:", speeds(50, "time"))
assert found == {50: (5.6, 13.9), 25: (8.3, 12.5), 20: (10.0, 10.0), 10: (10.0, 10.0)}
assert speeds(50, "time") == (10.0, 10.0)
PY
