#!/usr/bin/env bash
# webdataset: with_epoch(12) in a DataLoader with four workers is 48 samples
#
# Versions: webdataset 1.0.2, torch 2.15.0
# Guess: with_epoch(n) sets how many samples an epoch has, as its name says, whatever reads them.
# Fact: It counts in each worker, so that the number of workers decides how long training and its learning-rate schedule are.
#   wds.WebLoader(...).with_epoch(n), behind the workers, counts all.
# Output: samples of with_epoch(12) with 0, 1, 2, 4 workers: 12 12 24 48, counted behind the workers 12 12 12 12
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps braceexpand==0.1.7 numpy==2.5.5 pyyaml==6.0.4 webdataset==1.0.2
venv/bin/python -W ignore - <<'PY'
import webdataset as wds
from torch.utils.data import DataLoader

shards = [f"shard{number}.tar" for number in range(4)]
for number, shard in enumerate(shards):
    with wds.TarWriter(shard) as file:
        for row in range(10):
            file.write({"__key__": f"{number}{row}", "row.txt": str(row)})


def repeated():
    return wds.WebDataset(shards, shardshuffle=False, resampled=True)


workers = (0, 1, 2, 4)
inside = [sum(1 for _ in DataLoader(repeated().with_epoch(12), batch_size=None, num_workers=count)) for count in workers]
behind = [sum(1 for _ in wds.WebLoader(repeated(), batch_size=None, num_workers=count).with_epoch(12)) for count in workers]
print("with_epoch(12) with 0, 1, 2, 4 workers", inside, "behind the workers", behind)
assert inside == [12, 12, 24, 48] and behind == [12] * 4
PY
