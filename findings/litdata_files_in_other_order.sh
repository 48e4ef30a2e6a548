#!/usr/bin/env bash
# litdata: two workers store episodes in another order, also with reorder_files=False
#
# Versions: litdata 0.2.76, torch 2.15.0
# Guess: optimize(inputs=files, num_workers=2, reorder_files=False) stores what it made of the files in their order, as
#   its documentation says of that option.
# Fact: Only keep_data_ordered=True does, which is not the default. Without it workers take files from one queue, and
#   number i of the dataset is another episode, and another one in the next run: labels that are joined by number belong
#   to others.
# Output: reorder_files=False: 1 3 5 7 0 2 4 6, or another order; with keep_data_ordered=True as well: 0 1 2 3 4 5 6 7
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if borrow venv; then
    install venv --no-deps boto3==1.44.8 botocore==1.44.8 certifi==2026.10.19.post1 charset-normalizer==3.5.3 idna==3.20 \
        jmespath==1.1.0 lightning-utilities==0.15.3 litdata==0.2.76 obstore==0.12.1 packaging==26.4 python-dateutil==2.9.0.post0 \
        requests==2.34.2 s3transfer==0.19.3 six==1.17.0 tifffile==2026.11.8 urllib3==2.8.0
else
    install venv litdata==0.2.76 torch==2.15.0
fi
venv/bin/python - <<'PY'
import subprocess
import sys
from pathlib import Path

STORE = """
import sys, time
from pathlib import Path
import litdata

def episode(path):
    time.sleep(1)  # so that both workers get some
    return {"number": int(Path(path).stem[-1])}

if __name__ == "__main__":
    files = [str(path.resolve()) for path in sorted(Path("episodes").iterdir())]
    kept, runs = {"reorder_files": False}, int(sys.argv[2])
    kept |= {"keep_data_ordered": True} if sys.argv[1] == "kept" else {}
    for run in range(runs):
        out = f"{sys.argv[1]}{run}"
        litdata.optimize(episode, files, out, chunk_bytes="64KB", num_workers=2, verbose=False, **kept)
        print("stored", *(int(each["number"]) for each in litdata.StreamingDataset(out)))
"""
RUNS = 2
Path("store.py").write_text(STORE)
Path("episodes").mkdir()
for number in range(8):
    Path(f"episodes/episode_{number}.bin").write_bytes(bytes(1000))
in_order = {}
for how in ("other", "kept"):
    command = [sys.executable, "-W", "ignore", "store.py", how, str(RUNS)]
    said = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()
    orders = [line.split()[1:] for line in said if line.startswith("stored")]
    assert len(orders) == RUNS and all(sorted(order) == [*"01234567"] for order in orders)
    in_order[how] = sum(order == sorted(order) for order in orders)
    print(how, "first", *orders[0], "in order", in_order[how], "of", RUNS)
assert in_order["other"] < in_order["kept"] == RUNS
PY
