#!/usr/bin/env bash
# grain: a mix of 100 demonstrations and 10 has 20 elements, and row 25 of a dataset of 10 is row 5
#
# Versions: grain 0.2.18, numpy 2.5.5
# Guess: MapDataset.mix of two datasets has all elements of both, or draws the smaller one again as its weight says, as
#   a mixture of robots is trained; an index behind the end is an IndexError, as of any sequence.
# Fact: The mix ends where the first dataset would have to repeat: with equal weights its length, and so an epoch, is 20,
#   with ten of the 100 in it. Repeat the small one first (b.repeat(10)). And an index counts on into further epochs:
#   ds[10] is row 0, so a row number that is off by an episode gives another row and no error. A filtered dataset keeps
#   its length, with None where rows went.
# Output: mix of 100 and 10: 20 elements, 10 of each; after repeat(10): 200 with all 110; ds[25] of 10: 5; filtered: 10
#   elements, five of them None
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps grain==0.2.18 absl-py==2.5.1 array-record==0.8.6 attrs==26.1.0 cloudpickle==3.1.3 dm-tree==0.1.10 \
    etils==1.15.0 fsspec==2026.9.0 numpy==2.5.5 protobuf==7.36.2 typing-extensions==4.16.0 wrapt==2.5.2 \
    portpicker==1.6.0 psutil==7.2.2
venv/bin/python -W ignore - <<'PY'
import grain

large, small = grain.MapDataset.range(100).shuffle(seed=0), grain.MapDataset.range(1000, 1010)
mixed = grain.MapDataset.mix([large, small], weights=[0.5, 0.5])
epoch = {mixed[i] for i in range(len(mixed))}
repeated = grain.MapDataset.mix([large, small.repeat(10)], weights=[0.5, 0.5])
every = {repeated[i] for i in range(len(repeated))}
ten = grain.MapDataset.range(10)
even = ten.filter(lambda row: row % 2 == 0)
print("mix", len(mixed), "of the large one", sum(x < 100 for x in epoch), "| repeated", len(repeated), len(every))
print("row 25 of 10:", ten[25], "| filtered", len(even), [even[i] for i in range(len(even))])
assert len(mixed) == 20 and sum(x < 100 for x in epoch) == 10
assert len(repeated) == 200 and len(every) == 110
assert ten[10] == 0 and ten[25] == 5
assert len(even) == 10 and [even[i] for i in (0, 1)] == [0, None]
PY
