#!/usr/bin/env bash
# pyarrow: a table written in twelve files comes back with the frames of the eleventh after those of the second
#
# Versions: pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1
# Guess: What pyarrow.dataset.write_dataset(max_rows_per_file=...) splits, its own dataset() puts together as it was.
# Fact: The files are called part-0, part-1, ..., part-10, without leading zeros, and all readers sort them as text: part-10 comes
#   before part-2. Up to ten files nothing is wrong. Polars and duckdb read the folder in the same order, so comparing two readers
#   does not help. A basename_template has no width to set; sort by a column, or write with a ParquetWriter.
# Output: first frames of the hundreds that come back: 0, 100, 1000, 1100, 200, ...; with ten files all in order
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps duckdb==2.0.1 numpy==2.5.5 polars==2.1.0 polars-runtime-32==2.1.0 pyarrow==26.0.1
venv/bin/python - <<'PY'
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def read(folder):
    return {
        "dataset": ds.dataset(folder).to_table()["frame"].to_pylist(),
        "parquet": pq.read_table(folder)["frame"].to_pylist(),
        "polars": pl.scan_parquet(folder).collect()["frame"].to_list(),
        "duckdb": [row[0] for row in duckdb.sql(f"from '{folder}/*.parquet'").fetchall()],
    }


for files in (10, 12):
    frames = pa.table({"frame": range(100 * files)})
    folder = f"in_{files}"
    ds.write_dataset(frames, folder, format="parquet", max_rows_per_file=100, max_rows_per_group=100)
    for name, found in read(folder).items():
        print(files, "files,", name, found[::100])
        assert sorted(found) == [*range(100 * files)]
        if files == 10:
            assert found == sorted(found)
        else:
            assert found[::100] == [0, 100, 1000, 1100, *range(200, 1000, 100)]
PY
