#!/usr/bin/env bash
# movement-primitives: a DMP gives back a demonstration one step too early, and of some lengths one row more
#
# Versions: movement-primitives 0.9.1
# Guess: After imitate(times, positions) open_loop() returns the demonstration: row k is near row k, and there are as many rows.
# Fact: Row k is near row k + 1: the error is a step's way (9 mm at 100 Hz for 1 m in 2 s), and falls a hundredfold when the rows
#   are compared one off. Beside recorded pictures all actions are a frame ahead. One second at 24 or 30 Hz has a row more than
#   the demonstration, as 1 / 24 and 1 / 30 are rounded; at 25 or 50 Hz it has not.
# Output: error at 100 Hz 9.4 mm, one row later 0.02 mm; rows of one second: 26 for 25 at 24 Hz, 26 for 26 at 25 Hz, 32 for 31 at 30 Hz
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 lxml==6.1.3 matplotlib==3.11.2 movement-primitives==0.9.1 \
    numpy==2.5.5 packaging==26.4 pillow==13.0.0 pyparsing==3.3.3 python-dateutil==4.0.0 pytransform3d==3.17.0 scipy==1.18.1 six==1.17.0 tqdm==4.70.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
from movement_primitives.dmp import DMP


def imitate(rate, seconds, weights=50):
    """A motion of 1 m that begins and ends at rest (minimum jerk), and what a DMP makes of it."""
    times = np.linspace(0, seconds, seconds * rate + 1)
    part = times / seconds
    shown = (10 * part**3 - 15 * part**4 + 6 * part**5)[:, None]
    primitive = DMP(n_dims=1, execution_time=float(seconds), dt=1 / rate, n_weights_per_dim=weights)
    primitive.imitate(times, shown)
    return shown, primitive.open_loop()[1]


for rate in (50, 100):
    shown, made = imitate(rate, 2)
    same, later = np.abs(made - shown).max(), np.abs(made[:-1] - shown[1:]).max()
    print(f"{rate} Hz: row k from row k {1000 * same:.2f} mm, from row k + 1 {1000 * later:.2f} mm")
    step = np.abs(np.diff(shown, axis=0)).max()
    assert 0.9 < same / step < 1.1 and later < 0.1 * same
rows = {rate: tuple(map(len, imitate(rate, 1, 10))) for rate in (24, 25, 30, 50)}
print("rows of one second, shown and made:", rows)
assert rows == {24: (25, 26), 25: (26, 26), 30: (31, 32), 50: (51, 51)}
PY
