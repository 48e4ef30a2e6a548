#!/usr/bin/env bash
# rliable, scipy: the interquartile mean of three runs is their mean, lucky run and all
#
# Versions: rliable 1.2.0, scipy 1.18.1
# Guess: aggregate_iqm is the mean of the middle half of the scores, so one lucky run of three does not move it as it moves the mean.
# Fact: It is scipy's trim_mean(0.25), which cuts a whole number of scores from each end, rounded down: none of three, one of
#   five to seven. Three seeds of one task, the usual number in papers on robots, are averaged all. Scores of several tasks are put into one
#   list, so that with ten tasks a half is cut, of tasks and not of seeds.
# Output: 0.0 0.5 1.9: iqm 0.80, as the mean; the middle half by weights 0.65. 0 0.1 0.2 0.3 10: 0.20, mean 2.12
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps absl-py==2.5.1 arch==7.2.0 contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 formulaic==1.2.2 interface-meta==2.0.1 \
    kiwisolver==1.5.1 matplotlib==3.11.2 narwhals==2.29.0 numpy==2.5.5 packaging==26.4 pandas==3.1.1 patsy==1.0.3 pillow==13.0.0 \
    pyparsing==3.3.3 python-dateutil==4.0.0 rliable==1.2.0 scipy==1.18.1 seaborn==0.13.2 six==1.17.0 statsmodels==0.15.0 \
    typing-extensions==4.16.0 wrapt==2.5.2
venv/bin/python -W ignore - <<'PY'
import numpy as np
from rliable.metrics import aggregate_iqm
from scipy.stats import trim_mean


def middle_half(scores):
    """Each score weighs as much as lies between the quartiles, of a line on which all scores have one length."""
    edges = np.linspace(0, 1, len(scores) + 1).clip(0.25, 0.75)
    return float(np.average(np.sort(scores), weights=np.diff(edges)))


found = {}
for scores in ([0, 0.5, 1.9], [0, 0.1, 0.2, 0.3, 10], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 10]):
    runs = np.array(scores)[:, None]  # one task
    found[len(scores)] = iqm, half = aggregate_iqm(runs), middle_half(scores)
    print(len(scores), "runs: iqm", round(float(iqm), 3), "middle half", round(half, 3), "mean", round(float(runs.mean()), 3))
    assert np.isclose(iqm, trim_mean(scores, 0.25))
assert np.isclose(found[3][0], 0.8) and np.isclose(found[3][1], 0.65)
assert np.isclose(found[5][0], 0.2) and np.isclose(found[7][0], np.mean([0.1, 0.2, 0.3, 0.4, 0.5]))
PY
