#!/usr/bin/env bash
# tfrecord: with an index the records begin anywhere, and without one two workers read each of them twice
#
# Versions: tfrecord 1.14.6, torch 2.15.0
# Guess: TFRecordDataset without shuffling gives the records of a file in order, each once, with and without an index.
# Fact: Where there is an index and no more than one worker it begins at a random record and goes round, elsewhere each time: the
#   rows do not belong to labels that are kept by number, and frames of the last episode are followed by those of the
#   first. Without an index every worker reads the whole file. An index with two workers gives each its half, in order.
# Output: index, one process: 6 7 8 9 0 1 2 3 4 5 (another start each time); no index, two workers: 0 0 1 1 2 2 ...; index, two workers: 0 5 1 6
#   2 7 3 8 4 9
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps crc32c==2.9.post0 numpy==2.5.5 protobuf==7.36.2 tfrecord==1.14.6
venv/bin/python -W ignore - <<'PY'
import tfrecord
from tfrecord.tools.tfrecord2idx import create_index
from tfrecord.torch.dataset import TFRecordDataset
from torch.utils.data import DataLoader

writer = tfrecord.TFRecordWriter("frames.tfrecord")
for number in range(10):
    writer.write({"frame": (number, "int")})
writer.close()
create_index("frames.tfrecord", "frames.index")


def read(index, workers=0):
    dataset = TFRecordDataset("frames.tfrecord", index, {"frame": "int"})
    return [int(row["frame"]) for row in DataLoader(dataset, batch_size=None, num_workers=workers)]


orders = [read("frames.index") for _ in range(40)]
plain, doubled, halves = read(None), read(None, 2), read("frames.index", 2)
print("index", *orders[:3], "no index", plain, "two workers", doubled, "two workers, index", halves)
assert plain == [*range(10)]
starts = {order[0] for order in orders}
assert all(order == [(order[0] + k) % 10 for k in range(10)] for order in orders) and len(starts) > 3
assert sorted(doubled) == sorted([*range(10)] * 2)
assert sorted(halves) == [*range(10)]
PY
