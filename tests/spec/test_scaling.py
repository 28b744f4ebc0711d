"""Time dilation is a pure change of units, and devices become shares."""

from __future__ import annotations

import pytest

from testbed.errors import MachineError, SpecError
from testbed.spec.devices import DEVICES, as_shares, share_of, spread_of
from testbed.spec.faults import KillFault, ThrottleFault
from testbed.spec.hosts import ComputeSpec
from testbed.spec.network import Network
from testbed.spec.scaling import slowed
from tests.spec.conftest import Load

PI = DEVICES["raspberry-pi-4"]


def test_every_time_grows_and_every_rate_falls(load: Load) -> None:
    declared = load(overrides=("compute={time_scale: 8, period: 10ms}", "workload.deadline=2s"))
    physical = slowed(declared)
    assert physical.compute == ComputeSpec(period_s=0.08)
    assert physical.workload.duration_s == 8 * declared.workload.duration_s
    assert physical.workload.deadline_s == 16
    assert physical.recovery.heartbeat_s == pytest.approx(8 * declared.recovery.heartbeat_s)
    assert physical.recovery.misses == declared.recovery.misses
    for name, host in declared.hosts.items():
        slow = physical.hosts[name]
        assert slow.share == pytest.approx(host.share / 8)
        assert (slow.memory_bytes, slow.storage_bytes) == (host.memory_bytes, host.storage_bytes)
    for slow_link, link in zip(physical.links, declared.links, strict=True):
        assert slow_link.delay_s == pytest.approx(8 * link.delay_s)
        assert slow_link.rate_bps == (None if link.rate_bps is None else round(link.rate_bps / 8))
        assert slow_link.loss == link.loss
    for slow_fault, fault in zip(physical.faults, declared.faults, strict=True):
        assert slow_fault.at_s == 8 * fault.at_s
        if isinstance(fault, ThrottleFault) and isinstance(slow_fault, ThrottleFault):
            assert slow_fault.rate_bps == round(fault.rate_bps / 8)
            assert slow_fault.for_s == (None if fault.for_s is None else 8 * fault.for_s)
        else:
            assert isinstance(slow_fault, KillFault)
    assert Network.of(physical).hosts == Network.of(declared).hosts


def test_an_open_workload_asks_more_slowly(load: Load) -> None:
    declared = load(overrides=("workload={kind: open, rate: 4/s, duration: 30s}", "compute.time_scale=4"))
    physical = slowed(declared)
    assert (physical.workload.duration_s, physical.workload.rate_rps) == (120, 1)  # type: ignore[union-attr]


def test_without_dilation_nothing_changes(load: Load) -> None:
    declared = load()
    assert slowed(declared) is declared


def test_a_rate_that_no_link_can_be_shaped_to_is_refused(load: Load) -> None:
    with pytest.raises(SpecError, match=r"would be emulated as 5kbit/s, because compute.time_scale is 10") as caught:
        load(("rate: 20Mbit/s", "rate: 50kbit/s"), overrides=("compute.time_scale=10",))
    assert "at most 6.25" in str(caught.value)


def test_a_devices_share_is_the_mean_of_its_models_ratios() -> None:
    here_s = {"resnet18": PI.model_s["resnet18"] * 0.2, "resnet50": PI.model_s["resnet50"] * 0.45}
    assert share_of(PI, here_s) == pytest.approx(0.3)
    assert spread_of(PI, here_s) == pytest.approx(1.5)


def test_a_device_brings_its_speed_and_its_memory(load: Load) -> None:
    declared = load(
        overrides=("hosts.node1={device: raspberry-pi-4}", "hosts.node2={device: raspberry-pi-4, memory: 1GiB}")
    )
    with pytest.raises(ValueError, match="isn't known yet"):
        _ = declared.hosts["node1"].share
    known = as_shares(declared, {model: 0.5 * there_s for model, there_s in PI.model_s.items()})
    assert known.hosts["node1"].share == pytest.approx(0.5)
    assert known.hosts["node1"].memory_bytes == 4 * 2**30
    assert known.hosts["node2"].memory_bytes == 2**30
    assert known.hosts["dispatcher"] == declared.hosts["dispatcher"]
    assert known.resolved()["hosts"]["node1"]["device"] == "raspberry-pi-4"


def test_a_device_faster_than_a_core_is_refused_in_real_mode_only(load: Load) -> None:
    here_s = {model: 2.5 * there_s for model, there_s in PI.model_s.items()}
    device = "hosts.node1={device: raspberry-pi-4}"
    with pytest.raises(MachineError, match=r"2\.50 times as fast") as caught:
        as_shares(load(overrides=(device,)), here_s)
    assert "calibrated" in str(caught.value)
    assert "at least 3" in str(caught.value)
    for way_out in ("compute.mode=calibrated", "compute.time_scale=3"):
        assert as_shares(load(overrides=(device, way_out)), here_s).hosts["node1"].share == pytest.approx(2.5)


def test_every_figure_has_a_source() -> None:
    for device in DEVICES.values():
        assert device.model_s
        assert "https://" in device.source
