#!/usr/bin/env bash
# Passes all tests: as root, otherwise those marked `root` through sudo and the others as the user.
#
#   scripts/test.sh [--kernel] [ARGUMENT...]      --kernel: only those on the kernel of User-Mode Linux
#
# First those that judge times, one after the other; before them User-Mode Linux, beside those that are `pure`. Then
# all others, as many at a time as there are CPUs. The other arguments go to pytest. Where User-Mode Linux can't be
# installed its tests are skipped, which CI counts as failures.
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

readonly SERIAL="pure or kernel or alone" SIDE_BY_SIDE=(-n "$(nproc)" --dist worksteal) NO_TESTS=5
passes=0 failed=0
pass() { # as run_pytest; that an argument selects tests of other passes only is no failure
    local status=0
    run_pytest "$@" || status=$?
    if [ "$status" -ne "$NO_TESTS" ]; then
        passes=$((passes + 1))
        [ "$status" -eq 0 ] || failed=1
    fi
}

if [ "$(id -u)" -eq 0 ]; then
    pass "$SERIAL" "$@"
    pass "not ($SERIAL)" "${SIDE_BY_SIDE[@]}" "$@"
else
    pass "(kernel or not root) and ($SERIAL)" "$@"
    pass "not root and not ($SERIAL)" "${SIDE_BY_SIDE[@]}" "$@"
    pass sudo "root and not kernel and ($SERIAL)" "$@"
    pass sudo "root and not ($SERIAL)" "${SIDE_BY_SIDE[@]}" "$@"
fi
if [ "$passes" -eq 0 ]; then
    exit "$NO_TESTS"
fi
exit "$failed"
