#!/usr/bin/env bash
# Do the dependency bounds in pyproject.toml still hold? Resolves only, installs nothing. Needs uv.
#   usage: scripts/check_resolution.sh [FOLDER]     keeps the resolved lists in FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-$(mktemp -d)}
mkdir -p "$out"
failed=0

resolve() { # NAME ARGS...: resolve pyproject.toml (and more requirements from stdin) into $out/NAME.txt
    local name=$1
    shift
    if uv pip compile --quiet --no-header "$@" pyproject.toml - --output-file "$out/$name.txt" 2>"$out/$name.log"; then
        local chosen
        chosen=$(grep -oE '^(torch|numpy|huggingface-hub|av|transformers|lerobot)==[^ ;]+' "$out/$name.txt" | tr '\n' ' ')
        printf '%-22s ok      %s\n' "$name" "$chosen"
    else
        printf '%-22s FAILED\n' "$name"
        sed 's/^/    /' "$out/$name.log"
        failed=1
    fi
}

# from wheels alone, so that no installation ends in a build log; docopt, which num2words needs, and tfrecord are
# a few files of Python
wheels=(--only-binary :all: --no-binary docopt --no-binary tfrecord)
for version in 3.10 3.11 3.12 3.13 3.14; do
    resolve "newest-$version" --python-version "$version" "${wheels[@]}" </dev/null
    resolve "all-extras-$version" --python-version "$version" "${wheels[@]}" --all-extras </dev/null
done
for version in 3.10 3.11 3.12; do # oldest releases have no wheels for Pythons that came later
    resolve "lowest-$version" --python-version "$version" --resolution lowest-direct </dev/null
done
resolve "lerobot-0.4.4-3.11" --python-version 3.11 <<<"lerobot==0.4.4"
resolve "vla-lerobot-0.6-3.12" --python-version 3.12 --extra vla <<<"lerobot>=0.6"
plugin=integrations/lerobot_policy_lattok/pyproject.toml
here="lattok @ file://$PWD"
resolve "plugin-3.11" --python-version 3.11 "$plugin" <<<"$here"
resolve "plugin-0.4.4-3.11" --python-version 3.11 "$plugin" <<<"$here
lerobot==0.4.4"
for version in 3.12 3.13; do # what docs/howto/lerobot.md says
    resolve "plugin-$version" --python-version "$version" "${wheels[@]}" "$plugin" <<<"$here"
    resolve "plugin-more-$version" --python-version "$version" "${wheels[@]}" --extra vla "$plugin" <<<"$here
lerobot[diffusion,smolvla,pi]"
done
resolve "plugin-served-3.12" --python-version 3.12 --extra vla "$plugin" integrations/vla_eval/pyproject.toml <<<"$here"

if ((failed)); then
    echo "some bounds do not hold; the resolver's words are above" >&2
fi
exit "$failed"
