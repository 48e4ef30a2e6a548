# Read by the scripts beside it: an empty working folder that is deleted at the end, and how to fill environments.
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if command -v uv >uv; then # quicker
    environment() { uv venv -q -p "${PYTHON:-python3}" "$1"; }
    install() { uv pip install -q -p "$1/bin/python" "${@:2}"; }
else
    environment() { "${PYTHON:-python3}" -m venv "$1"; }
    install() { "$1/bin/pip" install -q "${@:2}"; }
fi
# Fails where there is nothing to borrow; else an environment finds the packages of BORROW_SITE, as PyTorch, behind its own.
borrow() {
    [[ -n "${BORROW_SITE:-}" ]] || return 1
    echo "$BORROW_SITE" >"$("$1/bin/python" -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
}
