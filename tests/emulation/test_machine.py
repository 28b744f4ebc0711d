from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from testbed.emulation import machine
from testbed.emulation.cgroup_tree import CgroupMounts
from testbed.emulation.machine import Capabilities, Check, capabilities, doctors_name, require
from testbed.emulation.machine_probe import FEATURES
from testbed.errors import MachineError

WORKS = {"namespace": "", **dict.fromkeys(FEATURES, "")}


def _found(*checks: Check) -> Capabilities:
    return Capabilities("6.1", 2, 2**31, 2, checks)


def _check(name: str, ok: bool, *, detail: str = "why", required: bool = True) -> Check:
    return Check(name, ok, detail, "" if ok else f"get {name}", "something", required)


def test_everything_that_is_missing_is_told_at_once_with_its_remedy() -> None:
    found = _found(_check("root", True), _check("tc", False), _check("htb", False), _check("psi", False))
    require(found, ["root"])
    with pytest.raises(MachineError) as caught:
        require(found, ["root", "tc", "htb"])
    assert "tc: why" in caught.value.message
    assert "htb: why" in caught.value.message
    assert "psi" not in str(caught.value)
    assert caught.value.remedy == "what to do:\n  tc: get tc\n  htb: get htb"
    assert caught.value.exit_code == 3


def test_without_root_only_root_and_what_was_tried_is_missing() -> None:
    untried = Check("htb", False, machine._NOT_TRIED, "sudo", "", True)
    found = _found(_check("root", False), _check("mnexec", False), untried)
    with pytest.raises(MachineError) as caught:
        require(found, ["htb", "mnexec", "root"])
    assert "htb" not in str(caught.value)
    assert "mnexec" in str(caught.value)
    assert "root" in str(caught.value)


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        require(_found(_check("root", True)), ["teleport"])


@pytest.mark.parametrize(
    ("broken", "delay_detail"),
    [
        ((), "by netem"),
        (("netem",), "by delay line"),
        (("queue_rules",), "by netem"),
        (("netem", "queue_socket"), "neither netem nor the delay line works"),
    ],
)
def test_delay_needs_one_of_two_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: tuple[str, ...], delay_detail: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "_probe", lambda: {**WORKS, **dict.fromkeys(broken, "no such thing")})
    found = capabilities(tmp_path)
    delay = found["delay"]
    assert delay.detail == delay_detail
    assert delay.ok is not delay_detail.startswith("neither")
    assert (delay in found.missing) is not delay.ok
    assert found["nfqueue"] not in found.missing
    if not delay.ok:
        assert "sch_netem" in delay.remedy
        assert "iptables" in delay.remedy


def test_without_root_nothing_is_tried_and_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(machine, "_probe", lambda: pytest.fail("only root may probe"))
    found = capabilities(tmp_path / "run")
    assert not found["root"].ok
    assert not found["htb"].ok
    assert "root" in found["htb"].detail
    assert "sudo" in found["htb"].remedy
    assert not found["cgroups"].ok
    assert not (tmp_path / "run").exists()
    assert found["torch"].ok


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "_probe", lambda: WORKS)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = capabilities(tmp_path / "run")
    assert found["mnexec"].remedy == "apt-get install mininet"
    assert {"ip", "tc", "mnexec"} <= {check.name for check in found.missing}
    assert "iperf3" not in {check.name for check in found.missing}


@pytest.mark.root
def test_a_real_probe_finds_what_a_run_needs_and_leaves_nothing(tmp_path: Path) -> None:
    interfaces = set(Path("/sys/class/net").iterdir())
    found = capabilities(tmp_path)
    assert found.missing == ()
    assert found.cgroup_version in (1, 2)
    assert found.cores >= 1
    assert json.loads(json.dumps(found.to_dict()))["checks"][0]["name"] == "root"
    assert all(check.remedy for check in found.checks if not check.ok)
    assert set(Path("/sys/class/net").iterdir()) == interfaces
    assert list(tmp_path.iterdir()) == []
    mounts = CgroupMounts.read()
    points = {*mounts.v1.values(), *filter(None, [mounts.v2])}
    assert not [path for point in points for path in point.glob(f"testbed-{doctors_name()}")]
