#!/usr/bin/env bash
# polars: seven steps of seven named joints are taken for seven joints of seven steps if the array is a transposed one
#
# Versions: polars 2.1.0, numpy 2.5.5
# Guess: pl.DataFrame(actions, schema=names) has the rows of the array actions, however it lies in memory.
# Fact: Where the array is square and names are given, polars asks the memory: rows of an array in C order are rows, rows of
#   one in Fortran order (as .T makes it of [joints, steps]) become columns. The two arrays are equal, the tables are not. Eight
#   steps of seven joints are well, as are square arrays without names, and all with orient="row".
# Output: first row of equal arrays of 7 steps: 0 1 2 3 4 5 6 in C order, 0 7 14 21 28 35 42 in Fortran order
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 polars==2.1.0
venv/bin/python - <<'PY'
import numpy as np
import polars as pl

names = [f"joint_{k}" for k in range(7)]
for steps in (7, 8):
    actions = np.arange(7.0 * steps).reshape(steps, 7)
    by_joint = np.ascontiguousarray(actions.T)  # as recorded: [joints, steps]
    turned = by_joint.T
    assert np.array_equal(turned, actions)
    first = [pl.DataFrame(each, schema=names).row(0) for each in (actions, turned)]
    print(steps, "steps:", *first)
    assert first[0] == tuple(actions[0])
    assert first[1] == tuple(actions[:, 0] if steps == 7 else actions[0])
    assert pl.DataFrame(turned).row(0) == tuple(actions[0])
    assert pl.DataFrame(turned, schema=names, orient="row").row(0) == tuple(actions[0])
PY
