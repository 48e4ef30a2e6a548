#!/usr/bin/env bash
# Do codes stay with the lowest versions that pyproject.toml allows? An environment with the lower bound of each dependency
# but torch and torchvision. It borrows these from the current one, and what the dependencies need themselves.
#   usage: scripts/check_codes.sh [FOLDER]     keeps the environment in FOLDER. Needs uv; takes three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-$(mktemp -d)}
[[ ${1:-} ]] || trap 'rm -rf "$folder"' EXIT
python=$(python -c 'import sys; print(sys.executable)')
mkdir -p "$folder"
uv venv --quiet --allow-existing --python "$python" "$folder/env"
oldest=$folder/env/bin/python
uv pip compile --quiet --no-header --no-annotate --no-deps --resolution lowest-direct --python "$python" pyproject.toml |
    grep -vE '^(torch|torchvision|typing-extensions)==' >"$folder/oldest.txt"
cat "$folder/oldest.txt"
uv pip install --quiet --no-deps --python "$oldest" -r "$folder/oldest.txt"
site='import sysconfig; print(sysconfig.get_path("purelib"))'
"$python" -c "$site" >"$("$oldest" -c "$site")/borrowed.pth"

export PYTHONPATH=$PWD HF_HUB_OFFLINE=1
"$oldest" -m pytest -q -o filterwarnings= tests/golden tests/hub/test_trials.py # warnings of old packages are no finding
"$python" scripts/same_codes.py "$oldest"
