#!/usr/bin/env bash
# datasets: of a folder of demonstrations only the file with "test" or "eval" in its name is loaded
#
# Versions: datasets 5.2.0
# Guess: load_dataset("parquet", data_dir=folder) gives the rows of all files of the folder as "train".
# Fact: A word in a file's name that means a split (train, training, test, testing, eval, dev, val, valid, ...) makes
#   the file this split, and files without such a word are then not read at all, in silence: pick_test_tube.parquet
#   hides reach.parquet, and eval_episode_0.parquet all episodes. load_dataset(folder) does the same. The page on file
#   names lists the words and says nothing of the other files (issue 5021). data_files="folder/*.parquet" reads all.
# Output: reach, push, pick_test_tube: {'test': 1}; episode_0, episode_1, eval_episode_0: {'test': 1};
#   training_wheels, push: {'train': 1}; the first three by data_files: {'train': 3}; file-000, file-001: {'train': 2}
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv datasets==5.2.0 numpy==2.5.5 pyarrow==26.0.1
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import disable_progress_bars, load_dataset

disable_progress_bars()


def rows(*names):
    folder = Path("-".join(names))
    folder.mkdir()
    for name in names:
        pq.write_table(pa.table({"task": [name]}), folder / f"{name}.parquet")
    ways = {"data_dir": load_dataset("parquet", data_dir=str(folder)), "folder": load_dataset(str(folder))}
    ways["data_files"] = load_dataset("parquet", data_files=f"{folder}/*.parquet")
    found = {way: {split: len(part) for split, part in splits.items()} for way, splits in ways.items()}
    print(*names, found)
    assert found["data_files"] == {"train": len(names)}
    assert found["folder"] == found["data_dir"]
    return found["data_dir"]


assert rows("reach", "push", "pick_test_tube") == {"test": 1}
assert rows("episode_0", "episode_1", "eval_episode_0") == {"test": 1}
assert rows("training_wheels", "push") == {"train": 1}
assert rows("file-000", "file-001") == {"train": 2}
PY
