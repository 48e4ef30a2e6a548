#!/usr/bin/env bash
# pyarrow: flatten of an action column drops the empty rows, so later actions move up
#
# Versions: pyarrow 26.0.1
# Guess: flatten() of a fixed_size_list<float>[2] column gives 2 numbers a row; an empty row gives NaN or null.
# Fact: An empty row gives nothing at all: all later actions stand one row too early after reshape(-1, 2), with no
#   error. chunk.values keeps the place, but also ignores that the array is a slice.
# Output: flatten [1, 1, 3, 3], values [1, 1, nan, nan, 3, 3], of the slice [1:]: flatten [3, 3], values [1, 1, nan,
#   nan, 3, 3]
# Needs: Python 3.12 or newer (PYTHON=), 60 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    numpy==2.5.5 pyarrow==26.0.1
venv/bin/python - <<'PY'
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

rows = pa.array([[1, 1], None, [3, 3]], pa.list_(pa.float32(), 2))
pq.write_table(pa.table({"action": rows}), "file-000.parquet")
column = pq.read_table("file-000.parquet")["action"].combine_chunks()

flat = column.flatten().to_numpy().reshape(-1, 2)
print("flatten", flat.tolist(), "| list_flatten", len(pc.list_flatten(column)), "| values", column.values.to_pylist())
assert flat.tolist() == [[1, 1], [3, 3]], "three rows became two"
assert len(pc.list_flatten(column)) == 4
assert column.values.to_pylist() == [1, 1, None, None, 3, 3]

part = column[1:]
print("slice [1:]: flatten", part.flatten().to_pylist(), "values", part.values.to_pylist())
assert part.flatten().to_pylist() == [3, 3]
assert part.values.to_pylist() == [1, 1, None, None, 3, 3], "the slice is forgotten"
assert np.array_equal(pc.list_parent_indices(column).to_numpy(), [0, 0, 2, 2])  # which rows they were
PY
