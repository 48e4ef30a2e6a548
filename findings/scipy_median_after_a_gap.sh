#!/usr/bin/env bash
# scipy: after a missing joint position median_filter is wrong in windows without it, and uniform_filter1d missing to the end
#
# Versions: scipy 1.18.1
# Guess: A NaN in a signal matters in the windows that it is in, as in gaussian_filter1d.
# Fact: median_filter of one dimension keeps its window sorted from step to step, and a NaN breaks the order: values that are not medians follow
#   for up to ten further steps, which are plausible numbers, and the windows with the NaN give no NaN. The same signal
#   as one column of two dimensions goes another way and is right. uniform_filter1d adds and subtracts, so everything
#   behind is NaN. percentile_filter is as median_filter.
# Output: of 400 random walks of 300 steps with one NaN, 159 have a wrong median where no NaN is, by up to 4.5 (a step is 1); as a column
#   none. uniform_filter1d with a NaN at 50: 252 of 300 are NaN
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 scipy==1.18.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

WIDE = 9


def wrong(filtered, signal):
    """Where windows have no NaN, how far the result is from their median."""
    windows = sliding_window_view(np.pad(signal, WIDE // 2, mode="symmetric"), WIDE)
    whole = np.isfinite(windows).all(1)
    return np.abs(filtered - np.median(windows, 1))[whole].max()


line, column, percentile = [], [], []
for seed in range(400):
    draws = np.random.default_rng(seed)
    signal = draws.normal(size=300).cumsum()
    signal[draws.integers(0, 40)] = np.nan
    line.append(wrong(ndimage.median_filter(signal, WIDE), signal))
    column.append(wrong(ndimage.median_filter(signal[:, None], (WIDE, 1))[:, 0], signal))
    percentile.append(wrong(ndimage.percentile_filter(signal, 50, WIDE), signal))
count = [int(np.sum(np.array(errors) > 1e-9)) for errors in (line, column, percentile)]
print("signals with a wrong median:", dict(zip(("line", "column", "percentile_filter"), count)), "by up to", round(max(line), 2))

gap = np.linspace(0, 1, 300)
gap[50] = np.nan
missing = [int(np.isnan(each).sum()) for each in (ndimage.uniform_filter1d(gap, 5), ndimage.gaussian_filter1d(gap, 1))]
print("NaN after uniform_filter1d and gaussian_filter1d:", missing)
assert count[0] >= 100 and count[2] >= 100 and count[1] == 0 and max(line) > 1
assert missing == [252, 9]
PY
