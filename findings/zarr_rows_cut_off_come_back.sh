#!/usr/bin/env bash
# zarr 3.4: rows that a resize cut off are back once the array grows again; in HDF5 they are zeros
#
# Versions: zarr 3.4.2, numcodecs 0.17.1, h5py 3.16.0
# Guess: resize to 40 rows drops the others, as the discarded end of a demonstration; rows that are added later, or made
#   room for, have the fill value until something is written, as in HDF5.
# Fact: resize deletes whole chunks alone. The last chunk keeps its old rows behind the new end, and so does a whole shard:
#   growing again shows them, as data. A recorder that drops a failed demonstration and makes room for the next has the
#   failed one's actions in all rows that it does not write.
# Output: 100 rows of ones, to 40, to 100: rows from 40 on that are not 0: 24 with chunks of 64, 60 in a shard of 128, 0 in
#   HDF5
# Needs: Python 3.12 or newer (PYTHON=), 50 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    donfig==0.8.1.post1 google-crc32c==1.9.0 h5py==3.16.0 msgspec==0.22.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 \
    pyyaml==6.0.4 typing-extensions==4.16.0 zarr==3.4.2
venv/bin/python - <<'PY'
import h5py
import numpy as np
import zarr


def back(array, resize):
    """How many of the rows that were cut off are there again."""
    array[:] = 1
    resize(40)
    resize(100)
    return int(np.count_nonzero(array[40:].any(1)))


options = {"shape": (100, 7), "chunks": (64, 7), "dtype": "float32", "fill_value": 0}
chunked = zarr.create_array("chunked.zarr", **options)
sharded = zarr.create_array("sharded.zarr", shards=(128, 7), **options)
found = {"chunks": back(chunked, lambda n: chunked.resize((n, 7)))}
found["shard"] = back(sharded, lambda n: sharded.resize((n, 7)))
with h5py.File("rows.h5", "w") as file:
    rows = file.create_dataset("rows", (100, 7), "float32", chunks=(64, 7), maxshape=(None, 7))
    found["HDF5"] = back(rows, lambda n: rows.resize(n, 0))
print(found)
assert found == {"chunks": 24, "shard": 60, "HDF5": 0}
PY
