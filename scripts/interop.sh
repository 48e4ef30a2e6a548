#!/usr/bin/env bash
# lattok beside the packages that users have: a column for each set of versions, in an environment of its own.
#   usage: scripts/interop.sh [COLUMN ...] [--folder FOLDER] [--out FILE.json] [--only STEP ...]
#     oldest          every direct dependency at its lower bound, Python 3.10
#     lerobot         LeRobot 0.6.1 with its pins and the plugin by its documented installation, Python 3.12
#     newest          the newest of everything, Python 3.13
#     lerobot-0.4.4   LeRobot 0.4.4 and the plugin, Python 3.11
#     all             the first three; the default
#   FOLDER, default .venv-interop, has an environment for each column (about 8 GB). One that exists is used as it is,
#   with lattok and the plugin of this clone. The table goes into FILE, default benchmarks/results/interop.json, and
#   beside it.
#   STEP: suite, lerobot, demo, rollout, train, annotate, policy, plugin, examples; what does not apply is skipped.
# Needs uv and the interpreters, which uv or pyenv may bring. A step that fails does not stop those after it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

columns=() folder=.venv-interop out=benchmarks/results/interop.json only=()
while (($#)); do
    case $1 in
        --folder) folder=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --only) shift; while (($#)) && [[ $1 != --* ]]; do only+=("$1"); shift; done ;;
        all) columns+=(oldest lerobot newest); shift ;;
        oldest | lerobot | newest | lerobot-0.4.4) columns+=("$1"); shift ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done
((${#columns[@]})) || columns=(oldest lerobot newest)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset VIRTUAL_ENV PYTHONHOME CDPATH
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg PYTHONUNBUFFERED=1
failed=()

find_python() { # VERSION: print an interpreter of it, of the system, uv or pyenv
    uv python find --system --no-python-downloads "$1" 2>/dev/null && return
    local found=("${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python)
    if [[ -x ${found[-1]} ]]; then echo "${found[-1]}" && return; fi
    uv python install --quiet "$1" 2>/dev/null && uv python find --system "$1" && return
    echo "There is no Python $1. Install it: uv python install $1, or pyenv install $1." >&2
    return 1
}

install() { # COLUMN: what its environment has, linked to no clone
    local tests=('pytest>=8.3' 'pytest-xdist>=3.6' 'hypothesis>=6.112' 'scipy>=1.14' 'tfrecord>=1.14.6' 'protobuf>=5'
        'vector-quantize-pytorch>=1.22.16' 'ruff~=0.17.5')
    local plugin=./integrations/lerobot_policy_lattok
    case $1 in
        oldest) pip --resolution lowest-direct '.[hdf5,sim,notebooks]' "${tests[@]}" ;;
        lerobot) # as docs/howto/lerobot.md says, with what its other policies need
            pip '.[hdf5,sim,notebooks]' "$plugin" 'lerobot[diffusion,smolvla]==0.6.1' "${tests[@]}" ;;
        newest) pip --upgrade '.[dev]' ;;
        lerobot-0.4.4) pip '.[dev]' "$plugin" lerobot==0.4.4 ;;
    esac
}

pip() {
    uv pip install --quiet --python "$env/bin/python" "$@"
}

make() { # COLUMN: its environment
    local -A version=([oldest]=3.10 [lerobot]=3.12 [newest]=3.13 [lerobot-0.4.4]=3.11)
    local python
    python=$(find_python "${version[$1]}") && uv venv --quiet --python "$python" "$env" && install "$1" && return
    rm -rf "$env" # half an environment would be used as it is next time
    return 1
}

has() { # MODULE: whether the environment has it
    python -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"
}

step() { # NAME COMMAND...: run it in the environment, and write name, status, seconds and the last line of its output
    local name=$1 started=$SECONDS status=0 log
    shift
    if ((${#only[@]})) && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
    log=$tmp/$column.$name.log
    printf '\n==== %s: %s ====\n' "$column" "$name"
    set +e
    (set -euo pipefail; "$@") 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" $((SECONDS - started)) "$(tail -n 1 "$log" | tr '\t' ' ')" >>"$steps"
    printf -- '---- %s: %s, %d s\n' "$name" "$([[ $status = 0 ]] && echo ok || echo "FAILED ($status)")" $((SECONDS - started))
    if ((status)); then failed+=("$column: $name"); fi
}

tests() { # ARGUMENTS...: pytest in two processes; it is no failure where no test applies
    local status=0
    python -m pytest -q -p no:cacheprovider -n 2 "$@" || status=$?
    return $((status == 5 ? 0 : status))
}

lattok() {
    python -m lattok "$@"
}

policy() { # trained on labels, as README says
    lattok train vla "$work/annotated" --out "$work/policy" --preset scratch --strategy la_direct --steps 4 --device cpu
}

plugin() { # what docs/howto/lerobot.md says to type: trained, resumed, and a policy of LeRobot's own
    cd "$work"
    local data=(--policy.push_to_hub=false --policy.device=cpu --dataset.repo_id=me/annotated --dataset.root="$work/annotated"
        --dataset.video_backend=pyav --batch_size=4 --num_workers=0)
    lerobot-train --policy.type=lattok --policy.strategy=la_cond --policy.backbone=scratch "${data[@]}" \
        --output_dir=runs/lerobot --steps=2
    lerobot-train --config_path=runs/lerobot/checkpoints/last/pretrained_model/train_config.json --resume=true --steps=3
    lerobot-train --policy.type=lattok_supervised --policy.inner=act --policy.strategy=la_align "${data[@]}" \
        --policy.inner_options='{chunk_size: 8, n_action_steps: 8, dim_model: 64, pretrained_backbone_weights: null}' \
        --output_dir=runs/act-align --steps=2
}

examples() {
    local example
    for example in examples/*.py; do
        printf -- '-- %s\n' "$example"
        mkdir -p "$work/$(basename "$example" .py)"
        (root=$PWD && cd "$work/$(basename "$example" .py)" && python "$root/$example" --steps 4)
    done
}

for column in "${columns[@]}"; do
    env=$folder/$column steps=$tmp/$column.tsv work=$tmp/$column
    mkdir "$work"
    printf '\n==== %s: environment in %s ====\n' "$column" "$env"
    : >"$steps"
    if [[ ! -x $env/bin/python ]]; then
        started=$SECONDS
        if ! make "$column"; then
            failed+=("$column: environment")
            continue
        fi
        printf 'environment\t0\t%s\t\n' $((SECONDS - started)) >>"$steps"
    fi
    path=$PATH
    export PATH=$env/bin:$PATH PYTHONPATH=$PWD
    if has lerobot; then PYTHONPATH+=:$PWD/integrations/lerobot_policy_lattok/src; fi
    step suite tests
    if has lerobot; then step lerobot tests -m lerobot tests/lerobot; fi
    step demo lattok demo --out "$work/demo" --fast
    if has metaworld; then step rollout lattok rollout sample/policy --episodes 2 --out "$work/rollout"; fi
    step train lattok train image-lam sample/dataset --out "$work/lam" --preset tiny+robust --features pixels --steps 4
    step annotate lattok annotate sample/dataset --model sample/lam --out "$work/annotated"
    step policy policy
    if has lerobot_policy_lattok; then step plugin plugin; fi
    step examples examples
    python -m benchmarks.speed.interop "$column" "$steps" --out "$out"
    PATH=$path
done

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
