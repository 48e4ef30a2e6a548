#!/usr/bin/env bash
# duckdb: .torch() gives 0 where a row is null, while its masked arrays and polars say that it is missing
#
# Versions: duckdb 2.0.1, torch 2.15.0, polars 2.1.0
# Guess: Null becomes NaN, as with duckdb's df() and polars' to_torch, or is an error.
# Fact: The mask is dropped and the place holds 0, in columns of floats and of whole numbers: an action that was not
#   recorded becomes "stand still", and a camera's missing time stamp 0. Nothing is said.
# Output: 1.5, null, 3.5: duckdb [1.5, 0, 3.5], its masked array [1.5, None, 3.5], polars [1.5, nan, 3.5]
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps duckdb==2.0.1 numpy==2.5.5 polars==2.1.0 polars-runtime-32==2.1.0 pyarrow==26.0.1
venv/bin/python - <<'PY'
import duckdb
import polars as pl
import torch

pl.DataFrame({"action": [1.5, None, 3.5], "stamp": [7, None, 9]}).write_parquet("file-000.parquet")
rows = duckdb.sql("select * from 'file-000.parquet'")
tensors, masked = rows.torch(), rows.fetchnumpy()
other = pl.read_parquet("file-000.parquet").to_torch("dict")
print("duckdb", tensors, "masked", masked["action"].tolist(), "polars", other["action"])
assert tensors["action"].tolist() == [1.5, 0, 3.5] and tensors["stamp"].tolist() == [7, 0, 9]
assert masked["action"].tolist() == [1.5, None, 3.5]
assert other["action"].isnan().tolist() == [False, True, False]
PY
