#!/usr/bin/env bash
# zarr, tensorstore: a chunk whose file was lost, as in a copy that was stopped, is read as zeros, without an error
#
# Versions: zarr 3.4.2, tensorstore 0.1.86
# Guess: Reading rows whose file is missing is an error, as it is if a file is cut short.
# Fact: A chunk that is not there stands for the fill value, since both leave out chunks that hold nothing else. So actions that were not copied
#   are zeros, and pictures black, and zarr's own count of stored chunks is the only hint. zarr 3.4 raises with the setting
#   array.read_missing_chunks=False, which then also refuses chunks that were left out because they are all zero, unless they
#   were written with write_empty_chunks.
# Output: rows 28 to 32 with the fourth chunk removed: 1 1 0 0 0 in zarr and tensorstore; nchunks_initialized 9 of 10; with
#   read_missing_chunks=False: ChunkNotFoundError
# Needs: Python 3.12 or newer (PYTHON=), 100 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps donfig==0.8.1.post1 google-crc32c==1.9.0 ml-dtypes==0.7.0 msgspec==0.23.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 \
    pyyaml==6.0.4 tensorstore==0.1.86 typing-extensions==4.16.0 zarr==3.4.2
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import numpy as np
import tensorstore
import zarr

actions = zarr.create_array("actions.zarr", shape=(100, 7), chunks=(10, 7), dtype="float32")
actions[:] = 1
Path("actions.zarr/c/3/0").unlink()

by_zarr = zarr.open_array("actions.zarr", mode="r")
store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(Path("actions.zarr").resolve())}}
by_tensorstore = tensorstore.open(store).result()
rows = {"zarr": by_zarr[28:33, 0], "tensorstore": by_tensorstore[28:33, 0].read().result()}
print(rows, by_zarr.nchunks_initialized, "of", by_zarr.nchunks)
assert all(np.array_equal(found, [1, 1, 0, 0, 0]) for found in rows.values())
assert (by_zarr.nchunks_initialized, by_zarr.nchunks) == (9, 10)


def read(name):
    with zarr.config.set({"array.read_missing_chunks": False}):
        try:
            return zarr.open_array(name, mode="r")[:].max()
        except Exception as error:
            return type(error).__name__


still = zarr.create_array("still.zarr", shape=(100, 7), chunks=(10, 7), dtype="float32")
still[:] = 0
refused = {name: read(name) for name in ("actions.zarr", "still.zarr")}
print("read_missing_chunks=False", refused)
assert refused == dict.fromkeys(refused, "ChunkNotFoundError")
PY
