#!/usr/bin/env bash
# Lance: an updated frame leaves its place; row 0 is then another frame
#
# Versions: pylance 14.0.2, pyarrow 26.0.1
# Guess: update and merge_insert change values and leave the order of rows: take([0]) is frame 0 as before.
# Fact: Changed rows are written anew behind all others, so positions shift: after a new reward for episode 0, row 0
#   is the first frame of episode 1, head(3) and offset/limit show other frames, and reading by position gives
#   another frame's action. Only a column (index) tells which row is which.
# Output: written 0..7; after update of episode 0: 3 4 5 6 7 0 1 2, take([0]) -> 3; after merge_insert of rows 0 and
#   1: 2 3 4 5 6 7 0 1
# Needs: Python 3.12 or newer (PYTHON=), 120 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    annotated-types==0.8.0 lance-namespace==0.13.0 lance-namespace-urllib3-client==0.13.0 numpy==2.5.5 \
    pyarrow==26.0.1 pydantic==2.14.4 pydantic-core==2.50.5 pylance==14.0.2 python-dateutil==4.0.0 \
    typing-extensions==4.16.0 typing-inspection==0.4.5 tzdata==2026.6 urllib3==2.8.0
venv/bin/python - <<'PY'
import lance
import pyarrow as pa

frames = pa.table({"index": list(range(8)), "episode_index": [0, 0, 0, 1, 1, 1, 2, 2], "reward": [0.0] * 8})


def order(path):
    return lance.dataset(path).to_table()["index"].to_pylist()


lance.write_dataset(frames, "a.lance").update({"reward": "1.0"}, where="episode_index = 0")
found = lance.dataset("a.lance")
print("update", order("a.lance"), "take([0])", found.take([0])["index"].to_pylist())
assert order("a.lance") == [3, 4, 5, 6, 7, 0, 1, 2]
assert found.take([0])["index"].to_pylist() == [3] and found.head(3)["index"].to_pylist() == [3, 4, 5]
assert found.to_table(offset=5, limit=3)["reward"].to_pylist() == [1.0] * 3

lance.write_dataset(frames, "b.lance").merge_insert("index").when_matched_update_all().execute(frames.slice(0, 2))
print("merge_insert", order("b.lance"))
assert order("b.lance") == [2, 3, 4, 5, 6, 7, 0, 1]
PY
