#!/usr/bin/env bash
# pyarrow: pictures that were transposed from CHW to HWC come back from a tensor column as other pictures
#
# Versions: pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1
# Guess: FixedShapeTensorArray.from_numpy_ndarray(x).to_numpy_ndarray() is x, whatever its strides are; a copy in
#   Parquet has the numbers in the order of x for every reader.
# Fact: Of an array that is not C-contiguous the numbers are stored in the order of memory, with a permutation beside
#   them. Of three dimensions turned round, as CHW to HWC, this is the inverse of the right one: to_numpy_ndarray
#   gives shape [64, 3, 64] for [64, 64, 3], or for cubes the right shape and other values, without an error. Where
#   two dimensions are swapped pyarrow is right, and polars and duckdb, which read the storage alone, have the other
#   order. np.ascontiguousarray first helps all.
# Output: shape of four pictures: (4, 64, 64, 3) back as (4, 64, 3, 64); of 3 x 3 x 3: equal False; contiguous first:
#   equal True; matrices transposed: pyarrow True, polars False, duckdb False
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps duckdb==2.0.1 numpy==2.5.5 polars-runtime-32==2.1.0 polars==2.1.0 pyarrow==26.0.1
venv/bin/python - <<'PY'
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

rng = np.random.default_rng(0)
tensors = pa.FixedShapeTensorArray.from_numpy_ndarray
for size in ((3, 64, 64), (3, 3, 3)):
    pictures = rng.random((4, *size), np.float32).transpose(0, 2, 3, 1)  # CHW, as torch has them, to HWC
    back = tensors(pictures).to_numpy_ndarray()
    same = back.shape == pictures.shape and np.array_equal(back, pictures)
    whole = np.array_equal(tensors(np.ascontiguousarray(pictures)).to_numpy_ndarray(), pictures)
    print(pictures.shape, "back as", back.shape, "equal", same, "| contiguous first: equal", whole)
    assert not same and whole
assert back.shape == pictures.shape, "the cubes have the right shape"

matrices = rng.random((4, 5, 7), np.float32).transpose(0, 2, 1)
pq.write_table(pa.table({"matrix": tensors(matrices)}), "matrices.parquet")
found = {
    "pyarrow": pq.read_table("matrices.parquet")["matrix"].combine_chunks().to_numpy_ndarray(),
    "polars": np.array(pl.read_parquet("matrices.parquet")["matrix"].to_list(), np.float32),
    "duckdb": np.array([row[0] for row in duckdb.sql("select matrix from 'matrices.parquet'").fetchall()], np.float32),
}
equal = {name: np.array_equal(numbers.ravel(), matrices.ravel()) for name, numbers in found.items()}
print("matrices transposed:", equal)
assert equal == {"pyarrow": True, "polars": False, "duckdb": False}
PY
