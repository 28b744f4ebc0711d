#!/usr/bin/env bash
# Sets up this machine: the Debian or Ubuntu packages that are missing, and the Python environment in .venv.
#
#   scripts/setup.sh [--lint] [--kernel]
#
#   --lint    also what `make lint` needs beside Python: ruby
#   --kernel  also what `make test-kernel` needs: User-Mode Linux, module tools, Open vSwitch
#
# Runs as root, or as a user who may call sudo; only the package manager then runs as root, and .venv belongs to the
# user. A second run checks a stamp and ends at once.
#
# Environment:
#   TESTBED_TORCH_INDEX  address of the wheel index that serves torch and torchvision. On x86-64 the default index of
#                        pip serves the CUDA build (several GB); PyTorch's own index of CPU wheels saves all of that.
#   PYTHON               the interpreter to make .venv with (3.11 or newer); otherwise the first fit one on PATH.
set -euo pipefail

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv
lock=$repo/requirements.lock
packages=(mininet bridge-utils e2fsprogs iproute2 iptables ethtool iperf3 iputils-ping ca-certificates)

for argument in "$@"; do
    case $argument in
        --lint) packages+=(ruby) ;;
        --kernel) packages+=(user-mode-linux kmod openvswitch-switch) ;;
        *)
            echo "error: unknown argument $argument (known: --lint, --kernel)" >&2
            exit 2
            ;;
    esac
done

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '%s\n' "$@" >&2
    exit 3
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        fail "installing packages needs root, and there is no sudo" "run this as root: $*"
    fi
}

# Under sudo the environment must belong to the caller, or they could neither renew nor remove it. A caller who may not
# write here (a tree owned by root) leaves it to root.
owner=()
if [ "$(id -u)" -eq 0 ] && [ "${SUDO_USER:-root}" != root ] && runuser -u "$SUDO_USER" -- test -w "$repo"; then
    owner=(runuser -u "$SUDO_USER" -- env "HOME=$(getent passwd "$SUDO_USER" | cut -d: -f6)")
fi
as_owner() { "${owner[@]}" "$@"; }

missing_packages() {
    local installed package
    # dpkg-query fails when one of them is unknown, and still lists the others.
    installed=$(dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qx "ii  $package" <<<"$installed" || printf '%s\n' "$package"
    done
}

install_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "these packages are missing: ${missing[*]}" \
        "only Debian and Ubuntu are set up by this script; install them by hand"
    say "installing ${missing[*]}"
    local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0
        -qq -y --no-install-recommends install "${missing[@]}")
    # Lists that are empty or out of date are the usual reason to fail: renew them, then try once more.
    if ! as_root "${install[@]}"; then
        say "renewing the package lists"
        { as_root apt-get -o DPkg::Lock::Timeout=300 -qq update && as_root "${install[@]}"; } ||
            fail "could not install ${missing[*]}" "see the messages of sudo and apt-get above"
    fi
}

is_fit() { as_owner "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.13 python3.12 python3.11}; do
        if is_fit "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

choose_python() {
    python=$(find_python) && return
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python of 3.11 or newer with venv and ensurepip"
    # Debian 12 and Ubuntu 24.04 have a fit python3 whose ensurepip is a package of its own; Ubuntu 22.04 has 3.10.
    if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        install_packages python3-venv
    else
        install_packages python3.11 python3.11-venv
    fi
    python=$(find_python) || fail "no Python of 3.11 or newer with venv and ensurepip" \
        "install one and name it: PYTHON=/path/to/python3 make setup"
}

pip() { as_owner "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

hint_at_torch_index() {
    local version
    version=$(sed -n 's/^torch==//p' "$lock")
    [ "$(uname -m)" = x86_64 ] || return 0
    if ! pip index versions torch 2>/dev/null | grep -qF "$version+cpu"; then
        say "note: pip knows no CPU-only wheel of torch $version and will take the CUDA build, several GB"
        say "to save that, stop now and set TESTBED_TORCH_INDEX to PyTorch's index of CPU wheels"
    fi
}

install_environment() {
    say "making .venv with $(as_owner "$python" --version)"
    as_owner "$python" -m venv --clear "$venv"
    # No cache: it would stay behind in the user's home. Bytecode is compiled here, once, for all users of .venv.
    local -a install=(install --quiet --no-cache-dir)
    if [ -n "${TESTBED_TORCH_INDEX:-}" ]; then
        local -a torch
        mapfile -t torch < <(grep -E '^(torch|torchvision)==' "$lock")
        say "installing ${torch[*]} from TESTBED_TORCH_INDEX"
        pip "${install[@]}" --no-deps --index-url "$TESTBED_TORCH_INDEX" "${torch[@]}"
    else
        hint_at_torch_index
    fi
    say "installing the Python packages of requirements.lock (a minute or two)"
    pip "${install[@]}" --requirement "$lock"
    pip "${install[@]}" --no-deps --no-build-isolation --editable "$repo"
    # The tree stays free of __pycache__, above all of one that sudo would leave to root.
    as_owner "$venv/bin/python" -c 'import pathlib, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "testbed_no_bytecode.pth").write_text("import sys; sys.dont_write_bytecode = True\n")'
    as_owner mkdir -p "$venv/cache"
    state | as_owner tee "$venv/stamp" >/dev/null
}

# What .venv was made from; it is made anew when any of this changes. Its place counts: a moved one has broken paths.
# Its own interpreter is asked, so that callers with different PATHs (sudo sets one) don't undo each other's work.
state() {
    printf '%s\n' "$repo"
    as_owner "$venv/bin/python" -c 'import sys; print(sys.version)'
    (cd "$repo" && sha256sum requirements.lock pyproject.toml)
}

install_packages "${packages[@]}"
if [ -e "$venv" ] && ! as_owner test -w "$venv"; then
    fail ".venv belongs to $(stat -c %U "$venv")" "remove it, or give it back: sudo chown -R $(id -un) $venv"
fi
if [ -f "$venv/stamp" ] && [ "$(state 2>/dev/null)" = "$(cat "$venv/stamp")" ]; then
    exit 0
fi
choose_python
install_environment
say "ready"
