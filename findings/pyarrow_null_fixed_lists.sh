#!/usr/bin/env bash
# pyarrow below 26 writes a null in a column of fixed-size lists to Parquet, and cannot read the file
#
# Versions: pyarrow 23.0.1 and 26.0.1
# Guess: A table that Parquet was given without an error is read back, nulls included; LeRobot's actions are such lists.
# Fact: pyarrow 23 writes the nulls and reads none of the column any more, in whatever row group they stand: "Expected
#   all lists to be of size". The same list with nulls inside is read by both. pyarrow 26 reads either file.
# Output: null list: 23.0.1 ArrowInvalid, 26.0.1 [..., None]; list of nulls: both [..., [None, None, None]]
# Needs: Python 3.11 to 3.13 (PYTHON=), 400 MB
# Date: 2026-11-29
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment new
install new --no-deps pyarrow==26.0.1
environment old
install old --no-deps pyarrow==23.0.1
old/bin/python - <<'PY'
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq

kind = pa.list_(pa.float32(), 3)
known = pa.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], kind)
inside = pa.FixedSizeListArray.from_arrays(pa.nulls(3, pa.float32()), type=kind)
READ = "import pyarrow.parquet as pq; print(pq.read_table('t.parquet')['action'].to_pylist())"
found = {}
for name, more in {"null list": pa.nulls(1, kind), "list of nulls": inside}.items():
    pq.write_table(pa.table({"action": pa.chunked_array([known, more])}), "t.parquet")
    try:
        own = str(pq.read_table("t.parquet")["action"].to_pylist())
    except pa.ArrowInvalid as error:
        assert "Expected all lists to be of size=3" in str(error), error
        own = "ArrowInvalid"
    newer = subprocess.run(["new/bin/python", "-c", READ], capture_output=True, text=True, check=True).stdout.strip()
    found[name] = own, newer
    print(f"{name}: {pa.__version__} {own}, 26.0.1 {newer}")
rows = str(known.to_pylist())[:-1]
assert found["null list"] == ("ArrowInvalid", f"{rows}, None]")
assert found["list of nulls"] == (f"{rows}, [None, None, None]]",) * 2
PY
