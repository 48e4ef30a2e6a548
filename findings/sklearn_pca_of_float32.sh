#!/usr/bin/env bash
# scikit-learn: PCA of float32 actions that are not around 0 loses or invents their small directions
#
# Versions: scikit-learn 1.9.1, numpy 2.5.5
# Guess: PCA takes the mean away first, so that float32 costs the seventh digit.
# Fact: With ten times as many rows as columns, and 1,000 columns at most, the default solver computes the mean of the
#   products less the product of the means, in float32: what is small beside the mean is lost. Joints at 1.5 rad that
#   move by 0.02 have a last deviation of 0 and not 0.001; millimetres around 1,000 that move by 1 have a first one twice
#   as large as true. Convert to float64, or take svd_solver="full".
# Output: around 0 as in float64; around 1.5: last deviation 0.0, true 0.001; around 1000: 2.36, 0.82, 0.72, 0.49, 0.34, 0.0,
#   true 1.0, 0.79, 0.5, 0.3, 0.1, 0.05, which float64 and "full" have
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps cloudpickle==3.1.3 joblib==1.6.0 narwhals==2.29.0 numpy==2.5.5 scikit-learn==1.9.1 scipy==1.18.1 threadpoolctl==3.8.0
venv/bin/python - <<'PY'
import numpy as np
from sklearn.decomposition import PCA


def deviations(rows, **options):
    return np.sqrt(PCA(**options).fit(rows).explained_variance_.astype(float)).round(4)


rng = np.random.default_rng(0)
noise = rng.normal(size=(5000, 6)) * np.array([1, 0.8, 0.5, 0.3, 0.1, 0.05])
for middle, width in ((0, 0.02), (1.5, 0.02), (1000, 1)):
    rows = noise * width + middle
    single = rows.astype(np.float32)
    true, full, found = deviations(rows), deviations(single, svd_solver="full"), deviations(single)
    print("around", middle, "float64", true.tolist(), "full", full.tolist(), "float32", found.tolist())
    assert np.allclose(full, true, atol=1e-4)
    if middle == 0:
        assert np.allclose(found, true, atol=1e-4)
    else:
        assert abs(found / true - 1).max() > 0.3
PY
