#!/usr/bin/env bash
# lattok and its plugin beside the unmodified LeRobot 0.4.4: tests with it, the normal suite and the examples.
#   usage: scripts/interop_lerobot.sh [VENV]      default .venv-lerobot; made when it does not exist (about 8 GB)
#   PYTHON=python3.11 names the interpreter; uv is used for installation when it is on the path.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv-lerobot}
python=${PYTHON:-python3.11}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if [[ ! -x "$venv/bin/python" ]]; then
    echo "== making $venv"
    "$python" -m venv "$venv"
fi
if command -v uv >/dev/null; then
    install=(uv pip install --quiet --python "$venv/bin/python")
else
    install=("$venv/bin/python" -m pip install --quiet)
fi
"${install[@]}" -e '.[dev]' -e integrations/lerobot_policy_lattok 'lerobot==0.4.4'

export PATH="$PWD/$venv/bin:$PATH" HF_HUB_OFFLINE=1 MPLBACKEND=Agg
[[ $venv = /* ]] && export PATH="$venv/bin:$PATH"
python -c 'import importlib.metadata as m; print(*(f"{p} {m.version(p)}" for p in ("lattok", "lerobot", "torch", "av")))'

echo "== tests that need lerobot"
pytest -m lerobot
echo "== the normal tests, beside lerobot"
pytest
echo "== examples, beside lerobot"
for example in examples/*.py; do
    echo "-- $example"
    mkdir -p "$tmp/$(basename "$example" .py)"
    (root=$PWD && cd "$tmp/$(basename "$example" .py)" && python "$root/$example" --steps 4)
done
