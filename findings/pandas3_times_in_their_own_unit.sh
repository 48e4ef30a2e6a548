#!/usr/bin/env bash
# pandas 3: astype("int64") / 1e9 gives seconds for times made of numbers, and thousandths of them for times made of text
#
# Versions: pandas 3.1.1, pyarrow 26.0.1
# Guess: The usual way from time stamps to seconds gives seconds, as in pandas 2, where all times are nanoseconds.
# Fact: Since pandas 3 times have the unit that they came in: microseconds if parsed from text, as in a CSV of joints, or from datetime,
#   nanoseconds if made of float seconds, milliseconds if a Parquet file says so. A clock of the states and one of the camera in two files
#   are then a thousand times apart, in numbers that both look like clocks. (times - times[0]).dt.total_seconds() is right for all.
# Output: 2026-12-01 10:00:00.5 divided by 1e9: 1,796,119 from text, 1,796,119,200 from seconds, 1,796 from Parquet in milliseconds
# Needs: Python 3.12 or newer (PYTHON=), 250 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps numpy==2.5.5 pandas==3.1.1 pyarrow==26.0.1 python-dateutil==4.0.0
venv/bin/python -W ignore - <<'PY'
from datetime import datetime
from io import StringIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

TRUE, TEXT = 1_796_119_200.5, "2026-12-01 10:00:00.5"
assert (datetime.fromisoformat(TEXT) - datetime(1970, 1, 1)).total_seconds() == TRUE
pq.write_table(pa.table({"time": pa.array([int(TRUE * 1000)], pa.timestamp("ms"))}), "camera.parquet")
times = {
    "text": pd.read_csv(StringIO(f"time\n{TEXT}\n"), parse_dates=["time"])["time"],
    "seconds": pd.to_datetime(pd.Series([TRUE]), unit="s"),
    "parquet": pd.read_parquet("camera.parquet")["time"],
}
found = {name: float((each.astype("int64") / 1e9)[0]) for name, each in times.items()}
elapsed = {name: float((each - pd.Timestamp(0)).dt.total_seconds()[0]) for name, each in times.items()}
print({name: (str(times[name].dtype), round(value, 3)) for name, value in found.items()}, "total_seconds", elapsed)
assert np.isclose(found["text"], TRUE / 1e3) and np.isclose(found["seconds"], TRUE) and np.isclose(found["parquet"], TRUE / 1e6)
assert all(abs(value - TRUE) < 1e-6 for value in elapsed.values())
PY
