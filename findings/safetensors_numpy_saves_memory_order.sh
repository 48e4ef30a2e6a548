#!/usr/bin/env bash
# safetensors.numpy: a transposed or Fortran-ordered array is saved with its numbers in another order
#
# Versions: safetensors 0.8.0, numpy 2.5.5
# Guess: save_file of a transposed numpy array stores its values, or refuses it as safetensors.torch does.
# Fact: The bytes are stored as they lie in memory under the shape of the view: the file is valid, of the right
#   shape, and holds other numbers. Nothing is said. np.ascontiguousarray first.
# Output: [[0, 3], [1, 4], [2, 5]] comes back as [[0, 1], [2, 3], [4, 5]]; Fortran order [[0, 1, 2], [3, 4, 5]] as
#   [[0, 3, 1], [4, 2, 5]]
# Needs: Python 3.12 or newer (PYTHON=), 20 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    numpy==2.5.5 safetensors==0.8.0
venv/bin/python - <<'PY'
import numpy as np
from safetensors.numpy import load_file, save_file

weights = np.arange(6, dtype=np.float32).reshape(2, 3)
given = {"turned": weights.T, "fortran": np.asfortranarray(weights), "right": np.ascontiguousarray(weights.T)}
save_file(given, "x.safetensors")
found = load_file("x.safetensors")
print({name: value.tolist() for name, value in found.items()})
assert found["turned"].tolist() == [[0, 1], [2, 3], [4, 5]], "no longer weights.reshape(3, 2)"
assert found["fortran"].tolist() == [[0, 3, 1], [4, 2, 5]]
assert np.array_equal(found["right"], weights.T)
PY
