#!/usr/bin/env bash
# datasets: with_format("numpy") gives a float64 column as float32, but a single row as float64
#
# Versions: datasets 5.2.0
# Guess: with_format("numpy") gives each column as it is stored: a clock in float64, bytes in uint8.
# Fact: Numbers of columns, and lists in rows, become float32 or int64 whatever the features say. A Unix time is
#   rounded to 128 seconds, so that frames of a second have one time; ds[0]["clock"] of the same format is float64 and
#   right, which is what one looks at. The page "Use with NumPy" shows whole numbers only. with_format("numpy",
#   dtype=np.float64), "pandas" and "arrow" keep the times, and so does no format.
# Output: clock 1732795200.123 and .156: column float32, difference 0.0; row float64; list of float64 in a row:
#   float32; uint8: int64; pandas: difference 0.033
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv datasets==5.2.0 numpy==2.5.5 pyarrow==26.0.1
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1
venv/bin/python -W ignore - <<'PY'
import numpy as np
from datasets import Dataset, Features, List, Value

features = Features({"clock": Value("float64"), "pose": List(Value("float64")), "pixel": List(Value("uint8"))})
stored = Dataset.from_dict(
    {"clock": [1732795200.123, 1732795200.156], "pose": [[0.1], [0.2]], "pixel": [[1, 2], [3, 4]]}, features=features
)
arrays = stored.with_format("numpy")
column, row = arrays["clock"][:], arrays[0]
print(
    "column",
    column.dtype,
    "difference",
    np.diff(column)[0],
    "| row",
    row["clock"].dtype,
    "pose",
    row["pose"].dtype,
    "pixel",
    row["pixel"].dtype,
)
assert column.dtype == arrays[:]["clock"].dtype == row["pose"].dtype == np.float32 and np.diff(column)[0] == 0
assert row["clock"].dtype == np.float64 and row["clock"] == 1732795200.123
assert row["pixel"].dtype == np.int64
kept = [stored.with_format("numpy", dtype=np.float64)[:]["clock"], stored.with_format("pandas")[:]["clock"].to_numpy()]
print("dtype=float64, pandas:", *(round(float(np.diff(clock)[0]), 3) for clock in kept))
assert all(abs(np.diff(clock)[0] - 0.033) < 1e-6 for clock in kept)
PY
