#!/usr/bin/env bash
# zarr 3.4: the groups of a store come in any order, and in another one when they are asked for again
#
# Versions: zarr 3.4.2, h5py 3.16.0
# Guess: for name, episode in store.groups() goes through episode_000, episode_001, ... by name, as h5py does and zarr
#   2 did, or at least twice in the same way.
# Fact: Members are read at once and come as they are done. keys(), groups(), arrays(), members() and iteration have
#   any order, which differs from call to call in one program: an index of episodes, a split by place, or two lists
#   made by two calls do not fit each other. The docstring of members() says so, those of the others do not. sorted()
#   helps.
# Output: 40 episodes, sixty calls of groups(): 15 orders (the number varies), none by name; one begins with episode_000,
#   episode_039, episode_015; h5py: by name
# Needs: Python 3.12 or newer (PYTHON=), 50 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    donfig==0.8.1.post1 google-crc32c==1.9.0 h5py==3.16.0 msgspec==0.23.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 \
    pyyaml==6.0.4 typing-extensions==4.16.0 zarr==3.4.2
venv/bin/python - <<'PY'
import h5py
import numpy as np
import zarr

names = [f"episode_{k:03d}" for k in range(40)]
store = zarr.open_group("store.zarr", mode="w")
with h5py.File("store.h5", "w") as file:
    for name in names:
        store.create_group(name).create_array("action", data=np.zeros((3, 2), np.float32))
        file.create_group(name)
    other = [*file.keys()]

store = zarr.open_group("store.zarr", mode="r")
orders = [[name for name, _ in store.groups()] for _ in range(60)]
different = len({tuple(order) for order in orders})
by_name = sum(order == names for order in orders)
print(f"sixty calls: {different} orders, by name {by_name} times, one begins", *orders[0][:4], "| h5py", *other[:4])
assert all(sorted(order) == names for order in orders) and other == names
assert different > 1
PY
