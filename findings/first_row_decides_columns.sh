#!/usr/bin/env bash
# pyarrow, datasets, duckdb: what the first row or the first file lacks is dropped, in silence
#
# Versions: pyarrow 26.0.1, datasets 5.2.0, pandas 3.1.1, duckdb 2.0.1, polars 2.1.0
# Guess: Frames as dicts, of which later ones have a key more (a reward, a mark): the table has all keys, null where
#   one is missing. A folder of Parquet files, of which later ones have a column more: likewise, or an error.
# Fact: pa.Table.from_pylist, Dataset.from_list and Dataset.from_generator take the keys of the first row and drop
#   the rest; pq.read_table, pandas and duckdb take the columns of the first file. Nothing is said. pandas.DataFrame
#   and polars keep the key; polars refuses the folder.
# Output: rows: pyarrow/from_list/from_generator [action], pandas/polars [action, reward]; folder:
#   pyarrow/pandas/duckdb [action], polars SchemaError
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    anyio==4.16.0 click==8.5.1 datasets==5.2.0 dill==0.4.1 duckdb==2.0.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 \
    multiprocess==0.70.19 numpy==2.5.5 packaging==26.4 pandas==3.1.1 polars==2.1.0 polars-runtime-32==2.1.0 \
    pyarrow==26.0.1 python-dateutil==4.0.0 pyyaml==6.0.4 tqdm==4.70.1 truststore==0.10.5 \
    typing-extensions==4.16.0 tzdata==2026.6 xxhash==4.1.0
HF_HUB_OFFLINE=1 HF_HOME=home venv/bin/python - <<'PY'
import os

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
frames = [{"action": 0.5}, {"action": 0.25, "reward": 1.0}]
rows = {
    "pyarrow": pa.Table.from_pylist(frames).column_names,
    "from_list": datasets.Dataset.from_list(frames).column_names,
    "from_generator": datasets.Dataset.from_generator(lambda: iter(frames), cache_dir="cache").column_names,
    "pandas": list(pd.DataFrame(frames)),
    "polars": pl.DataFrame(frames).columns,
}
print("rows", rows)
assert {name for name, found in rows.items() if found == ["action"]} == {"pyarrow", "from_list", "from_generator"}
assert rows["pandas"] == rows["polars"] == ["action", "reward"]

os.mkdir("data")
for number, columns in enumerate(({"action": [0.5]}, {"action": [0.25], "reward": [1.0]})):
    pq.write_table(pa.table(columns), f"data/file-{number:03}.parquet")
folder = {
    "pyarrow": pq.read_table("data").column_names,
    "pandas": list(pd.read_parquet("data")),
    "duckdb": duckdb.sql("select * from 'data/*.parquet'").columns,
}
print("folder", folder)
assert all(list(found) == ["action"] for found in folder.values())
try:
    print("polars", pl.read_parquet("data/*.parquet").columns)
except pl.exceptions.SchemaError as error:
    print("polars", type(error).__name__)
else:
    raise AssertionError("polars reads it now")
PY
