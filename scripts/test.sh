#!/usr/bin/env bash
# Passes all tests: as root, otherwise those marked `root` through sudo and the others as the user.
#
#   scripts/test.sh [--kernel] [ARGUMENT...]      --kernel: only those on the kernel of User-Mode Linux
#
# First those that judge times, one after the other; before them User-Mode Linux, beside those that are `pure`. Then
# all others, as many at a time as there are CPUs: more than the emulation promises to bear, so one that fails in this
# company is told of, and judged by how it does alone. The other arguments go to pytest. Where User-Mode Linux can't be
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

readonly SERIAL="pure or kernel or alone" SIDE_BY_SIDE=(-n "$(nproc)" --dist worksteal) TESTS_FAILED=1 NO_TESTS=5
passes=0 failed=0
count() { # a pass and its status; that an argument selects tests of other passes only is no failure
    if [ "$1" -ne "$NO_TESTS" ]; then
        passes=$((passes + 1))
        [ "$1" -eq 0 ] || failed=1
    fi
}
serial() { # as run_pytest
    local status=0
    run_pytest "$@" || status=$?
    count "$status"
}
side_by_side() { # as run_pytest
    local cache status=0
    local -a prefix=()
    [ "$1" != sudo ] || prefix=(sudo --)
    cache=$(mktemp -d)
    run_pytest "$@" -o "cache_dir=$cache" "${SIDE_BY_SIDE[@]}" || status=$?
    if [ "$status" -eq "$TESTS_FAILED" ]; then
        echo "note: those that failed in company are run again, alone" >&2
        status=0
        run_pytest "$@" -o "cache_dir=$cache" --last-failed --last-failed-no-failures none || status=$?
    fi
    "${prefix[@]}" rm -rf "$cache"
    count "$status"
}

if [ "$(id -u)" -eq 0 ]; then
    serial "$SERIAL" "$@"
    side_by_side "not ($SERIAL)" "$@"
else
    serial "(kernel or not root) and ($SERIAL)" "$@"
    side_by_side "not root and not ($SERIAL)" "$@"
    serial sudo "root and not kernel and ($SERIAL)" "$@"
    side_by_side sudo "root and not ($SERIAL)" "$@"
fi
if [ "$passes" -eq 0 ]; then
    exit "$NO_TESTS"
fi
exit "$failed"
