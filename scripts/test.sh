#!/usr/bin/env bash
# Passes all tests: in one go as root, otherwise those marked `root` through sudo and the others as the user.
#
#   scripts/test.sh [--kernel] [ARGUMENT...]      --kernel: only those on the kernel of User-Mode Linux
#
# The other arguments go to pytest. Where User-Mode Linux can't be installed its tests are skipped, which CI counts as
# failures.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

run_pytest() { # an optional "sudo", the marker expression, pytest's own arguments
    local -a prefix=() cache=()
    local scratch status=0
    # One folder for all temporary files and matplotlib's font cache, so that nothing stays behind.
    scratch=$(mktemp -d)
    if [ "$1" = sudo ]; then
        shift
        prefix=(sudo --)
        # Root may not leave files of its own in .venv/cache.
        cache=(-o "cache_dir=$scratch/cache")
    fi
    local markers=$1
    shift
    "${prefix[@]}" env "TMPDIR=$scratch" "MPLCONFIGDIR=$scratch" "CI=${CI:-}" .venv/bin/python -m pytest \
        "${cache[@]}" -m "$markers" "$@" || status=$?
    "${prefix[@]}" rm -rf "$scratch"
    return "$status"
}

if [ "${1:-}" = --kernel ]; then
    shift
    scripts/setup.sh --kernel
    run_pytest "kernel" "$@"
    exit
fi
scripts/setup.sh --kernel || echo "note: without User-Mode Linux the tests on its kernel are skipped" >&2
if [ "$(id -u)" -eq 0 ]; then
    run_pytest "" "$@"
else
    run_pytest "kernel or not root" "$@"
    run_pytest sudo "root and not kernel" "$@"
fi
