#!/usr/bin/env bash
# pyarrow, polars, duckdb: joining the tasks to the frames puts the frames in another order
#
# Versions: pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1
# Guess: A left join of frames with tasks.parquet adds the column task and leaves the frames where they are, as pandas
#   does.
# Fact: pyarrow puts the frames whose task is not listed behind the others: of six frames at once, of a long table
#   within each thousand. polars 2 keeps the order of a DataFrame; of a LazyFrame, as scan_parquet gives, only with
#   maintain_order="left". duckdb keeps it with one thread. polars' docstring says not to rely on an order, Arrow has
#   an issue (37542); where the file is written again, the frames of episodes are mixed.
# Output: six frames, two without a task: pyarrow 0 2 3 5 1 4; a million frames, in order: polars DataFrame True,
#   LazyFrame False, with maintain_order True; duckdb with one thread True, with four False
# Needs: Python 3.12 or newer (PYTHON=), 300 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps duckdb==2.0.1 numpy==2.5.5 polars-runtime-32==2.1.0 polars==2.1.0 pyarrow==26.0.1
POLARS_MAX_THREADS=4 venv/bin/python - <<'PY'
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

tasks = pa.table({"task_index": [0, 1], "task": ["pick", "place"]})
frames = pa.table({"index": range(6), "task_index": [0, 9, 1, 0, 9, 1]})
order = frames.join(tasks, "task_index")["index"].to_pylist()
print("six frames, two without a task: pyarrow", *order)
assert order == [0, 2, 3, 5, 1, 4]

rng = np.random.default_rng(0)
pq.write_table(
    pa.table({"index": range(10**6), "task_index": rng.integers(0, 2, 10**6)}), "frames.parquet", row_group_size=50_000
)
pq.write_table(tasks, "tasks.parquet")


def in_order(index):
    return bool((np.diff(np.asarray(index)) > 0).all())


listed = pl.read_parquet("tasks.parquet")
eager = in_order(pl.read_parquet("frames.parquet").join(listed, on="task_index", how="left")["index"])
lazy = {
    keep: in_order(
        pl.scan_parquet("frames.parquet")
        .join(listed.lazy(), on="task_index", how="left", maintain_order=keep)
        .collect()["index"]
    )
    for keep in (None, "left")
}
print("polars DataFrame", eager, "LazyFrame", lazy[None], "with maintain_order", lazy["left"])
assert eager and not lazy[None] and lazy["left"]

found = {}
for threads in (1, 4):
    database = duckdb.connect(config={"threads": threads})
    query = "select index from 'frames.parquet' left join 'tasks.parquet' using (task_index)"
    found[threads] = in_order(database.sql(query).fetchnumpy()["index"])
print("duckdb with one thread", found[1], "with four", found[4])
assert found == {1: True, 4: False}
PY
