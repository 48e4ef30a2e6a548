#!/usr/bin/env bash
# wandb with protobuf 7: a program that ends in sys.exit(False) leaves a run without its end, often an empty one
#
# Versions: wandb 0.31.0, protobuf 7.36.2 (and 6.33.6, with which it is well)
# Guess: Values that were logged are in the file of an offline run when the program ends, with run.finish() or without, and
#   whether it ends in sys.exit(0) or in sys.exit(failed), which Python takes for 0 and 1.
# Fact: wandb hands what sys.exit was given to its service as it is. protobuf 7 refuses a bool for a whole number, so the
#   service is never told that the run has ended, and what it has not written by then is lost: of short runs often
#   all, of long ones the last values. A traceback that is "ignored" is all one sees; the exit status is 0. Call
#   run.finish() before.
# Output: sys.exit(False), eight runs of 50 values: protobuf 7.36.2 no run has an end, and 0, 0, 0, 0, 36, 50, ... values
#   (they vary); protobuf 6.33.6, sys.exit(0), or run.finish() before: 50, and an end
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment newer
environment older
install newer wandb==0.31.0 protobuf==7.36.2
install older wandb==0.31.0 protobuf==6.33.6
cat >logs.py <<'PROGRAM'
import sys

import wandb

run = wandb.init(project="p", mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True))
for step in range(50):
    run.log({"loss": step})
if sys.argv[2] == "finished":
    run.finish()
sys.exit(0 if sys.argv[2] == "int" else False)
PROGRAM
newer/bin/python - <<'PY'
import pathlib
import struct
import subprocess
import time

from wandb.proto import wandb_internal_pb2


def records(path):
    """LevelDB's log format, behind seven bytes."""
    data, place, block, record = path.read_bytes(), 7, 1 << 15, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
        size, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed.WhichOneof("record_type")
            record = b""


def logged(venv, end, number=0):
    """How many values the file has, and whether it says that the run has ended."""
    folder = pathlib.Path(f"{venv}-{end}-{number}")
    folder.mkdir()
    subprocess.run([f"{venv}/bin/python", "logs.py", folder, end], capture_output=True, timeout=300, check=True)
    time.sleep(1)
    (file,) = (path for path in folder.rglob("*.wandb") if "latest" not in str(path))
    kinds = [*records(file)]
    return kinds.count("history"), "exit" in kinds


whole = {f"{venv}, {end}": logged(venv, end) for venv in ("newer", "older") for end in ("int", "finished")}
whole["older, bool"] = logged("older", "bool")
lost = [logged("newer", "bool", number) for number in range(8)]
print("values and whether it has an end:", whole)
print("protobuf 7.36.2 and sys.exit(False):", lost)
assert {*whole.values()} == {(50, True)}
assert not any(ended for _, ended in lost) and min(count for count, _ in lost) < 50
PY
