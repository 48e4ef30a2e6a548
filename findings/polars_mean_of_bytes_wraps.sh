#!/usr/bin/env bash
# polars: mean_horizontal of the bytes 200, 100 and 50 is 31.3, and the sum of an Int32 column can be negative
#
# Versions: polars 2.1.0
# Guess: A mean is a float and cannot overflow; sums of bytes are widened, as sum() of a UInt8 column is.
# Fact: mean_horizontal adds in the type of the columns and divides after that: 350 as a byte is 94, and 94 / 3 is told
#   as a float. So with Int16 and Int32. sum_horizontal wraps likewise, and so does sum() of Int32 (only types of 8 and
#   16 bits are widened), in a group_by, too. Cast first.
# Output: mean of 200, 100, 50: 31.333 (mean() of a UInt8 column: 116.667); of Int16 30000 and 20000: -7768.0; sum of
#   Int32 2147483647 and 1: -2147483648
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps polars==2.1.0 polars-runtime-32==2.1.0
venv/bin/python - <<'PY'
import polars as pl

red, green, blue = 200, 100, 50
pixel = pl.DataFrame({"r": [red], "g": [green], "b": [blue]}, schema=dict.fromkeys("rgb", pl.UInt8))
across = pixel.select(mean=pl.mean_horizontal("r", "g", "b"), sum=pl.sum_horizontal("r", "g", "b")).row(0)
down = pl.Series([red, green, blue], dtype=pl.UInt8)
wide = pl.DataFrame({"a": [30_000], "b": [20_000]}, schema=dict.fromkeys("ab", pl.Int16)).mean_horizontal().item()
ticks = pl.DataFrame({"arm": [0, 0], "ticks": pl.Series([2**31 - 1, 1], dtype=pl.Int32)})
sums = ticks["ticks"].sum(), ticks.group_by("arm").agg(pl.col("ticks").sum())["ticks"].item()
print("across", across, "down", down.mean(), down.sum(), "Int16", wide, "sums of Int32", sums)
assert abs(across[0] - 94 / 3) < 1e-9 and across[1] == 94
assert abs(down.mean() - 350 / 3) < 1e-9 and down.sum() == 350
assert wide == (50_000 - 2**16) / 2
assert sums == (-(2**31), -(2**31))
PY
