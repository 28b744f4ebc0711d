"""What this machine can do: tried, not guessed, and for all that is missing how to get it.

Nothing stays behind: links, queues and rules are tried in a network namespace that vanishes with its process, the
cgroup is journalled and removed at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.emulation import ext4, loop
from testbed.emulation.cgroup import DISK_REMEDY
from testbed.emulation.cgroups import CgroupManager, CpuLimit
from testbed.emulation.manifest import RUN_ROOT, RunManifest
from testbed.errors import MachineError
from testbed.units import format_size

PROBE_TIMEOUT_S = 60.0
NEEDED_MEMORY_BYTES = 1 * 2**30  # one torch (0.3 GiB), the model, and the quickstart's four hosts
NEEDED_DISK_BYTES = 256 * 2**20  # logs and tables of a run, with room for the hosts' own storage
_NOT_TRIED = "not tried: only root can"
_AS_ROOT = "run it with sudo"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a machine can do or not.

    Attributes:
        name: What :func:`require` knows it by.
        ok: Whether it works.
        detail: What was found, or why it doesn't work.
        remedy: How to get it; empty if it works.
        needed_for: What it is good for.
        required: Whether every shaped experiment, such as the quickstart, needs it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str
    needed_for: str
    required: bool


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found.

    Attributes:
        kernel: Release of the kernel.
        cores: CPUs that this process may use.
        memory_bytes: Memory that can be had without swapping.
        cgroup_version: 1 or 2; None without usable cgroups.
        checks: All checks, in the order in which a user should mend them.
    """

    kernel: str
    cores: int
    memory_bytes: int
    cgroup_version: int | None
    checks: tuple[Check, ...]

    def __getitem__(self, name: str) -> Check:
        """The check of a name.

        Raises:
            KeyError: If there is none.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    @property
    def missing(self) -> tuple[Check, ...]:
        """Checks that failed though every experiment needs them."""
        return tuple(check for check in self.checks if check.required and not check.ok)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``run.json``."""
        return dataclasses.asdict(self)


def require(found: Capabilities, names: Iterable[str]) -> None:
    """Refuse if something is missing.

    Raises:
        MachineError: Lists all of it with its remedies; without root only that, since the rest couldn't be tried.
        KeyError: If there is no check of such a name.
    """
    failed = [check for check in map(found.__getitem__, names) if not check.ok]
    if not found["root"].ok:
        failed = [check for check in failed if check.name == "root" or check.detail != _NOT_TRIED]
    if failed:
        lines = "\n".join(f"  {check.name}: {check.detail}" for check in failed)
        remedies = "\n".join(dict.fromkeys(f"  {check.name}: {check.remedy}" for check in failed))
        raise MachineError(f"this machine can't run the experiment:\n{lines}", remedy=f"what to do:\n{remedies}")


def require_root() -> None:
    """Refuse without root, before anything is begun that takes time.

    Raises:
        MachineError: If this isn't root.
    """
    check = _root(os.geteuid() == 0)
    if not check.ok:
        raise MachineError(f"only root can emulate a cluster: {check.detail}", remedy=check.remedy)


def capabilities(run_root: Path = RUN_ROOT) -> Capabilities:
    """Find out; takes some tenths of a second.

    Args:
        run_root: Where the short-lived cgroup is journalled.
    """
    is_root = os.geteuid() == 0
    probed = _probe() if is_root else None
    version, (cgroups, disk_rates) = _cgroups(run_root, is_root)
    memory_bytes = _available_memory_bytes()
    checks = (
        _root(is_root),
        *_programs(is_root),
        *_packages(),
        cgroups,
        *_network(probed),
        _memory(memory_bytes),
        _disk(Path.cwd()),
        _host_disks(probed),
        disk_rates,
        _pressure(),
        _open_vswitch(),
    )
    return Capabilities(platform.release(), len(os.sched_getaffinity(0)), memory_bytes, version, checks)


def _check(name: str, fault: str, detail: str, remedy: str, needed_for: str, *, required: bool) -> Check:
    return Check(name, not fault, fault or detail, remedy if fault else "", needed_for, required)


def _root(is_root: bool) -> Check:
    fault = "" if is_root else f"user {os.geteuid()} isn't root"
    return _check("root", fault, "yes", _AS_ROOT, "namespaces, links, limits", required=True)


_PROGRAMS: tuple[tuple[str, str, str, bool], ...] = (
    ("ip", "iproute2", "links and routes", True),
    ("tc", "iproute2", "rates of links", True),
    ("mnexec", "mininet", "emulated hosts", True),
    ("ethtool", "ethtool", "offloads, by hand", False),
    ("brctl", "bridge-utils", "Mininet's own LinuxBridge, by hand", False),
    ("iptables", "iptables", "delay without netem", False),
    ("iperf3", "iperf3", "measuring links by hand", False),
)


def _programs(is_root: bool) -> list[Check]:
    # A user's own path lacks the folders of root's programs, which sudo will search.
    path = os.environ.get("PATH", os.defpath) + ("" if is_root else ":/usr/local/sbin:/usr/sbin:/sbin")
    found = []
    for name, package, needed_for, required in _PROGRAMS:
        place = shutil.which(name, path=path)
        fault = "" if place else "not found in PATH"
        found.append(_check(name, fault, place or "", f"apt-get install {package}", needed_for, required=required))
    return found


def _packages() -> list[Check]:
    found = []
    for name, needed_for in (("mininet", "emulated hosts"), ("torch", "models"), ("torchvision", "models")):
        fault = "" if importlib.util.find_spec(name) else "no such Python package"
        remedy = f"{sys.executable} -m pip install {name}"
        if name == "mininet" and not fault and importlib.util.find_spec("distutils") is None:
            fault, remedy = "it imports distutils, which is missing", f"{sys.executable} -m pip install setuptools"
        found.append(_check(name, fault, "importable", remedy, needed_for, required=True))
    return found


def _cgroups(run_root: Path, is_root: bool) -> tuple[int | None, tuple[Check, Check]]:
    """Make a cgroup with both limits, see whether it could limit disks, and remove it."""
    limits, disks = "CPU and memory of hosts", "slow disks"
    version: int | None = None
    try:
        manager = CgroupManager.detect()
        version = manager.version
        if not is_root:
            untried = Check("cgroups", False, _NOT_TRIED, _AS_ROOT, limits, True)
            return version, (untried, dataclasses.replace(untried, name="disk rates", needed_for=disks, required=False))
        manifest = RunManifest.create(doctors_name(), run_root)
        try:
            cgroup = manager.create(manifest, "host", CpuLimit(share=0.1, period_s=0.02), 64 * 2**20)
            fault = "" if cgroup.limits_disks else "control groups can't limit the rates of disks"
        finally:
            manager.remove_run(manifest.run_name)
            with contextlib.suppress(FileNotFoundError):  # `clean` may have come by
                shutil.rmtree(manifest.directory)
    except MachineError as error:
        refused = Check("cgroups", False, error.message, error.remedy or "", limits, True)
        return version, (refused, dataclasses.replace(refused, name="disk rates", needed_for=disks, required=False))
    return version, (
        Check("cgroups", True, f"version {version}, CPU quota and memory limit", "", limits, True),
        _check("disk rates", fault, "works", DISK_REMEDY, disks, required=False),
    )


def doctors_name() -> str:
    """What the cgroups that are tried bear; containers have process numbers of their own, but one tree of cgroups."""
    return f"doctor-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getpid()}"


def _probe() -> Mapping[str, str]:
    """What :mod:`testbed.emulation.machine_probe` found, in a process of its own."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "testbed.emulation.machine_probe"],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.CalledProcessError as error:
        raise MachineError(f"the probe of this machine failed:\n{error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"the probe of this machine takes more than {PROBE_TIMEOUT_S} s") from error
    found: Mapping[str, str] = json.loads(done.stdout)
    return found


def _module(name: str, option: str) -> str:
    return f"modprobe {name} ({option}; on Ubuntu: apt-get install linux-modules-extra-$(uname -r))"


_FEATURES: tuple[tuple[str, str, str, bool], ...] = (
    ("namespace", "the kernel needs CONFIG_NET_NS; a container needs --privileged", "emulated hosts", True),
    ("veth", _module("veth", "CONFIG_VETH"), "links", True),
    ("bridge", _module("bridge", "CONFIG_BRIDGE"), "switches", True),
    ("htb", _module("sch_htb", "CONFIG_NET_SCH_HTB"), "rates of links", True),
    ("netem", _module("sch_netem", "CONFIG_NET_SCH_NETEM"), "delay and loss by the kernel", False),
)


def _network(probed: Mapping[str, str] | None) -> list[Check]:
    """From the probe's findings; None stands for no root."""
    found = []
    for name, remedy, needed_for, required in _FEATURES:
        fault = _NOT_TRIED if probed is None else probed[name]
        found.append(
            _check(name, fault, "works", remedy if probed is not None else _AS_ROOT, needed_for, required=required)
        )
    fault = _NOT_TRIED if probed is None else "; ".join(filter(None, (probed["queue_rules"], probed["queue_socket"])))
    remedy = (
        "apt-get install iptables; the kernel needs nfnetlink_queue, xt_NFQUEUE, xt_physdev, iptable_mangle"
        if probed is not None
        else _AS_ROOT
    )
    nfqueue = _check("nfqueue", fault, "works", remedy, "delay and loss by the delay line", required=False)
    netem = found[-1]
    either = [backend for backend, check in (("netem", netem), ("delay line", nfqueue)) if check.ok]
    fault = "" if either else _NOT_TRIED if probed is None else "neither netem nor the delay line works"
    remedy = _AS_ROOT if probed is None else f"one of: {netem.remedy}; {nfqueue.remedy}"
    delay = _check("delay", fault, f"by {either[0]}" if either else "", remedy, "delay of links", required=True)
    fault = _NOT_TRIED if probed is None else probed["drop_rules"]
    remedy = _AS_ROOT if probed is None else "apt-get install iptables; the kernel needs iptable_mangle"
    rules = _check("packet_rules", fault, "work", remedy, "partitions of hosts", required=False)
    return [*found, nfqueue, delay, rules]


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise MachineError("/proc/meminfo doesn't tell MemAvailable", remedy="the kernel must be 3.14 or newer")


def _memory(available_bytes: int) -> Check:
    fault = "" if available_bytes >= NEEDED_MEMORY_BYTES else f"only {format_size(available_bytes)} available"
    remedy = f"the quickstart needs {format_size(NEEDED_MEMORY_BYTES)}; end other programs"
    detail = f"{format_size(available_bytes)} available"
    return _check("memory", fault, detail, remedy, "servers", required=True)


def _disk(place: Path) -> Check:
    free_bytes = shutil.disk_usage(place).free
    fault = "" if free_bytes >= NEEDED_DISK_BYTES else f"only {format_size(free_bytes)} free in {place}"
    remedy = f"free {format_size(NEEDED_DISK_BYTES)}, or name another folder with --results"
    return _check("disk", fault, f"{format_size(free_bytes)} free", remedy, "results", required=True)


def _host_disks(probed: Mapping[str, str] | None) -> Check:
    fault = _NOT_TRIED if probed is None else probed["disks"]
    remedy = _AS_ROOT if probed is None else f"{loop.REMEDY}; {ext4.REMEDY}"
    detail = "loop devices and ext4"
    return _check("disks", fault, detail, remedy, "disks of hosts, and their faults", required=False)


def _pressure() -> Check:
    try:
        Path("/proc/pressure/cpu").read_text()
    except OSError as error:
        fault = f"/proc/pressure/cpu: {error.strerror}"
    else:
        fault = ""
    remedy = "boot with psi=1 (CONFIG_PSI)"
    return _check("psi", fault, "readable", remedy, "telling that the machine was overloaded", required=False)


def _open_vswitch() -> Check:
    faults = []
    if not Path("/sys/module/openvswitch").exists() and not _loadable("openvswitch"):
        faults.append("the kernel has no openvswitch module")
    absent = [
        name for name in ("ovs-vsctl", "ovsdb-tool", "ovsdb-server", "ovs-vswitchd") if shutil.which(name) is None
    ]
    if absent:
        faults.append(f"{', '.join(absent)} not found in PATH")
    remedy = "apt-get install openvswitch-switch, on a kernel with CONFIG_OPENVSWITCH"
    return _check("openvswitch", "; ".join(faults), "module and tools", remedy, "OVS switches", required=False)


def _loadable(module: str) -> bool:
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if modprobe is None:
        return False
    done = subprocess.run([modprobe, "--dry-run", "--quiet", module], timeout=PROBE_TIMEOUT_S, check=False)
    return done.returncode == 0
