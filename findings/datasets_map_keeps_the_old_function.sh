#!/usr/bin/env bash
# datasets: map() after a function of your package was corrected gives the rows of before
#
# Versions: datasets 5.2.0
# Guess: map() stores its result under a hash of the function; when scale() of actions.py is corrected, the hash is another
#   one and the rows are made again, as for a function in a script.
# Fact: A function that can be imported is hashed by its name. The correction, or a new release of the package, is not
#   noticed: the next process reads the old actions from the cache, also through a lambda that calls the function.
#   load_from_cache_file=False, or a new name, makes them again.
# Output: raw 1, 2, 3 with scale() times 2: 2 4 6; after scale() became times 10: 2 4 6, by a lambda 2 4 6, without the
#   cache 10 20 30; a function of the script itself: 2 4 6 and then 10 20 30
# Needs: Python 3.12 or newer (PYTHON=), 400 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv datasets==5.2.0 numpy==2.5.5 pyarrow==26.0.1
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
venv/bin/python -W ignore - <<'PY'
import json
import subprocess
import sys

from datasets import Dataset, disable_progress_bars

disable_progress_bars()
PACKAGE = "def scale(row):\n    return {{'action': row['raw'] * {factor}}}\n"
USE = """
import json, sys
sys.path.insert(0, '.')
import datasets
from actions import scale
datasets.disable_progress_bars()
rows = datasets.load_from_disk('demonstrations')
def own(row):
    return {{'action': row['raw'] * {factor}}}
answers = [rows.map(scale), rows.map(lambda row: scale(row)), rows.map(own), rows.map(scale, load_from_cache_file=False)]
print(json.dumps([each['action'][:] for each in answers]))
"""
Dataset.from_dict({"raw": [1, 2, 3]}).save_to_disk("demonstrations")
found = {}
for factor in (2, 10):
    with open("actions.py", "w") as file:
        file.write(PACKAGE.format(factor=factor))
    said = subprocess.run([sys.executable, "-c", USE.format(factor=factor)], capture_output=True, text=True, check=True)
    found[factor] = json.loads(said.stdout)
    print(f"times {factor}: of a package, by a lambda, of the script, without the cache:", *found[factor])
old, new = [2, 4, 6], [10, 20, 30]
assert found[2] == [old] * 4
assert found[10] == [old, old, new, new]
PY
