#!/usr/bin/env bash
# Are wheel and sdist what users get? Builds both, and those of the LeRobot plugin, checks them, and tries the wheels in a fresh
# environment outside the clone: the README's first lines, the sample, its models, the demo; and tests out of the unpacked sdist.
#   usage: scripts/check_package.sh [FOLDER]     keeps wheel and sdist in FOLDER
# REUSE=1 takes the packages that lattok needs from the current environment instead of installing them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$(mktemp -d)}")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python=${PYTHON:-python3}
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
unset PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m venv "$tmp/tools"
export PIP_CONSTRAINT="$root/scripts/requirements.txt" # also for what `build` installs
"$tmp/tools/bin/pip" install --quiet -r "$PIP_CONSTRAINT"
rm -f "$out"/lattok-*
build() { "$tmp/tools/bin/python" -m build --outdir "$1" "$2" >"$tmp/build.log" 2>&1 || { cat "$tmp/build.log"; exit 1; }; }
build "$out" "$root" # the wheel out of the sdist
build "$tmp/plugin" "$root/integrations/lerobot_policy_lattok"
"$tmp/tools/bin/twine" check --strict "$out"/lattok-* "$tmp/plugin"/*
unset PIP_CONSTRAINT
ls -l "$out"

"$python" -m venv "$tmp/env"
if [[ ${REUSE:-} ]]; then
    echo "$site" >"$("$tmp/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/reused.pth"
    "$tmp/env/bin/pip" install --quiet --no-deps "$out"/lattok-*.whl
else
    "$tmp/env/bin/pip" install --quiet "$out"/lattok-*.whl pytest hypothesis
fi
"$tmp/env/bin/pip" install --quiet --no-deps "$root"/integrations/{larybench,p2t_policy,vla_eval} "$tmp"/plugin/*.whl
mkdir "$tmp/user"
cd "$tmp/user"
PATH="$tmp/env/bin:$PATH"
lattok --version
python -c 'import lattok; assert "p2t-released-vla" in lattok.list_families(), "what a package registers is not found"'
python -m lattok_larybench sample/dataset --models sample/lam --out tokens | tail -1
python - "$root" <<'PY'
import pathlib, sys, lattok
home = pathlib.Path(lattok.__file__)
assert not home.is_relative_to(sys.argv[1]), f"{home} is the clone"
code = (pathlib.Path(sys.argv[1]) / "README.md").read_text().split("<!-- first -->")[1].split("```python\n")[1].split("```")[0]
exec(code)
print("README's first lines run")
PY
lattok inspect sample/dataset | head -3
lattok doctor sample/tokenizer sample/lam sample/policy | head -40 || true
lattok evaluate sample/tokenizer sample/dataset --out report | head -3
lattok annotate sample/dataset --model sample/tokenizer --out annotated
lattok verify annotated --model sample/tokenizer --sample 2
lattok demo --fast --out demo | tail -3

mkdir "$tmp/sdist"
tar -xzf "$out"/lattok-*.tar.gz -C "$tmp/sdist" --strip-components 1
cd "$tmp/sdist"
rm -rf lattok # the installed one
python -m pytest -q tests/golden tests/test_samples_packaged.py tests/test_loading.py
echo "wheel and sdist are fine"
