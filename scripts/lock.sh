#!/usr/bin/env bash
# Writes requirements.lock anew: installs what pyproject.toml asks for in a fresh environment and freezes it.
# Honours TESTBED_TORCH_INDEX and PYTHON like setup.sh.
set -euo pipefail

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
if [ -n "${TESTBED_TORCH_INDEX:-}" ]; then
    mapfile -t torch < <(sed -nE 's/^ *"(torch(vision)?==[^"]+)",$/\1/p' "$repo/pyproject.toml")
    pip install --quiet --no-cache-dir --no-deps --index-url "$TESTBED_TORCH_INDEX" "${torch[@]}"
fi
# hatchling and editables build the project itself without a network; setuptools stands in for distutils on Python 3.12
# and newer.
pip install --quiet --no-cache-dir --upgrade hatchling editables setuptools "${repo}[dev]"

# "+cpu" and the like are left out, and so is what only a CUDA torch brings along, so that any index serves the file.
{
    echo '# Every Python package, pinned, for Linux and Python 3.11 or newer. Renew it with: make lock'
    pip freeze --all --exclude pip --exclude wheel --exclude edge-inference-testbed |
        sed -E 's/\+[A-Za-z0-9.]+$//' | grep -vE '^(nvidia-|cuda-|triton==)' | LC_ALL=C sort -f
} >"$work/requirements.lock"
cat "$work/requirements.lock" >"$repo/requirements.lock"
