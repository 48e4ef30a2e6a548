#!/usr/bin/env bash
# h5py: a virtual dataset whose source file was moved reads as zeros, without an error
#
# Versions: h5py 3.16.0
# Guess: A virtual dataset that joins episode files raises OSError when one of the files is not where it was.
# Fact: The rows of the missing file are the fill value, 0 by default. Nothing tells them from recorded zeros; a
#   source that grew is cut in silence. Only fillvalue=nan, given when the layout is made, shows it.
# Output: all there: sum 27.0; one file moved: rows 0 0 0 2 2 2, sum 18.0; with fillvalue nan: 9 NaN; source with 9
#   rows: its first 3
# Needs: Python 3.12 or newer (PYTHON=), 20 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    h5py==3.16.0 numpy==2.5.5
venv/bin/python - <<'PY'
import os

import h5py
import numpy as np


def joined(name, **options):
    layout = h5py.VirtualLayout((6, 3), "float32")
    for k in range(2):
        layout[3 * k : 3 * k + 3] = h5py.VirtualSource(f"episode_{k}.h5", "action", (3, 3))
    with h5py.File(name, "w") as file:
        file.create_virtual_dataset("action", layout, **options)


def read(name):
    with h5py.File(name) as file:
        return file["action"][:]


for k in range(2):
    with h5py.File(f"episode_{k}.h5", "w") as file:
        file["action"] = np.full((3, 3), k + 1, np.float32)
joined("all.h5")
joined("nan.h5", fillvalue=np.nan)
print("all there: sum", read("all.h5").sum())
assert read("all.h5").sum() == 27

os.rename("episode_0.h5", "moved.h5")
missing, marked = read("all.h5"), read("nan.h5")
print("one file moved: rows", *missing[:, 0], "sum", missing.sum(), "| fillvalue nan:", np.isnan(marked).sum(), "NaN")
assert missing[:, 0].tolist() == [0, 0, 0, 2, 2, 2]
assert np.isnan(marked).sum() == 9

with h5py.File("episode_0.h5", "w") as file:  # recorded again, three times as long
    file["action"] = np.full((9, 3), 5, np.float32)
print("source with 9 rows:", read("all.h5").shape, *read("all.h5")[:, 0])
assert read("all.h5")[:, 0].tolist() == [5, 5, 5, 2, 2, 2]
PY
