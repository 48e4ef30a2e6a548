#!/usr/bin/env bash
# zarr 3.4: rows appended after consolidate_metadata are there, and no reader of the group sees them
#
# Versions: zarr 3.4.2, numcodecs 0.17.1
# Guess: An array in a group that was consolidated grows by append; whoever opens the group afterwards sees all
#   rows.
# Fact: append writes the array's own metadata and leaves the consolidated copy as it was. open_group takes the
#   copy: the old shape, and no array made since, without a warning. open_array of the same path sees all rows. A
#   replay buffer that goes on being recorded ends, for its readers, where it was consolidated.
# Output: group (10, 3) ['action'], array (15, 3), use_consolidated=False (15, 3) ['action', 'reward']
# Needs: Python 3.12 or newer (PYTHON=), 30 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    donfig==0.8.1.post1 google-crc32c==1.9.0 msgspec==0.22.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 \
    pyyaml==6.0.4 typing-extensions==4.16.0 zarr==3.4.2
venv/bin/python - <<'PY'
import warnings

import numpy as np
import zarr

warnings.filterwarnings("ignore", message="Consolidated metadata")
group = zarr.open_group("buffer.zarr", mode="w")
group.create_array("action", shape=(10, 3), chunks=(5, 3), dtype="float32")[:] = 1
zarr.consolidate_metadata("buffer.zarr")

later = zarr.open_group("buffer.zarr", mode="r+")
later["action"].append(np.full((5, 3), 2, np.float32))
later.create_array("reward", data=np.zeros(15, np.float32))

seen = zarr.open_group("buffer.zarr", mode="r")
alone = zarr.open_array("buffer.zarr/action", mode="r")
true = zarr.open_group("buffer.zarr", mode="r", use_consolidated=False)
print("group", seen["action"].shape, sorted(seen), "array", alone.shape)
print("use_consolidated=False", true["action"].shape, sorted(true))
assert seen["action"].shape == (10, 3) and sorted(seen) == ["action"]
assert alone.shape == true["action"].shape == (15, 3) and sorted(true) == ["action", "reward"]
assert float(true["action"][-1, 0]) == 2
PY
