#!/usr/bin/env bash
# polars, pandas, duckdb: the state nearest to a camera's frame is the one before in pandas, the one after in polars
#
# Versions: polars 2.1.0, pandas 3.1.1, duckdb 2.0.1
# Guess: An asof join gives each frame the same state in all three. Halfway between two states, as with a camera of 10
#   Hz that starts half a period after states of 10 Hz, nearest is the earlier one, which was known by then.
# Fact: pandas takes the earlier one, polars the later one: a whole dataset is shifted by one row. Of two states of
#   one time duckdb takes the first, pandas and polars take the last. polars' page has half a sentence on it ("the
#   last row"), pandas' has none.
# Output: frames at 50, 150, 250 between states 0 1 2 3 at 0, 100, 200, 300: pandas 0 1 2, polars 1 2 3; two states at
#   100: pandas 2, polars 2, duckdb 1
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps duckdb==2.0.1 numpy==2.5.5 pandas==3.1.1 polars-runtime-32==2.1.0 polars==2.1.0 pyarrow==26.0.1 \
    python-dateutil==4.0.0
venv/bin/python - <<'PY'
import duckdb
import pandas as pd
import polars as pl

camera = {"time": [50, 150, 250]}
states = {"time": [0, 100, 200, 300], "state": [0, 1, 2, 3]}
by_pandas = pd.merge_asof(pd.DataFrame(camera), pd.DataFrame(states), on="time", direction="nearest")["state"].tolist()
by_polars = pl.DataFrame(camera).join_asof(pl.DataFrame(states), on="time", strategy="nearest")["state"].to_list()
print("nearest: pandas", *by_pandas, "polars", *by_polars)
assert by_pandas == [0, 1, 2] and by_polars == [1, 2, 3]

late = {"time": [100]}
twice = {"time": [0, 100, 100, 200], "state": [0, 1, 2, 3]}
frame, rows = pl.DataFrame(late), pl.DataFrame(twice)
found = {
    "pandas": int(pd.merge_asof(pd.DataFrame(late), pd.DataFrame(twice), on="time")["state"][0]),
    "polars": frame.join_asof(rows, on="time")["state"][0],
    "duckdb": duckdb.sql("select state from frame asof join rows on frame.time >= rows.time").fetchall()[0][0],
}
print("two states of one time:", found)
assert found == {"pandas": 2, "polars": 2, "duckdb": 1}
PY
