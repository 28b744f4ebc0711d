"""What fits a machine, and how quotas are chosen and corrected; nothing is emulated."""

from __future__ import annotations

import pytest
import torch

from runner import metronome, quota_fit
from runner.admission import MEMORY_RESERVE_BYTES, RUNNER_SHARE, admit, demand, left_for_hosts
from runner.limits import cpu_limits, duties, period_s
from runner.preparation import Prepared, answer, planned
from testbed.emulation.cgroups import CpuLimit
from testbed.errors import MachineError
from testbed.model.graph import ModelGraph
from testbed.spec import Experiment
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.workload import ClosedWorkload
from tests.serving.system import SmallNet

GIB = 1 << 30
MIB = 1 << 20


def prepared(hosts: int = 3, share: float = 0.2, delay_s: float = 0.0, **compute: object) -> Prepared:
    names = [f"node{n}" for n in range(1, hosts + 1)]
    experiment = Experiment(
        name="fits",
        hosts={
            "dispatcher": HostSpec(cpu=0.3),
            **{name: HostSpec(cpu=share, memory_bytes=100 * MIB) for name in names},
        },
        switches=("s1",),
        links=tuple(
            LinkSpec(between=(name, "s1"), rate_bps=100_000_000, delay_s=delay_s) for name in ("dispatcher", *names)
        ),
        model=ModelSpec(module="tests.serving.system:small_net", input=(1, 3, 64, 64)),
        compute=ComputeSpec(**compute),  # type: ignore[arg-type]
        workload=ClosedWorkload(in_flight=4, duration_s=10),
    )
    module = SmallNet().eval()
    inputs = [torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(n)) for n in range(2)]
    graph = ModelGraph.trace(module, (1, 3, 64, 64))
    return planned(experiment, experiment, graph, answer(module, inputs), [0.04 / len(graph.ops)] * len(graph.ops))


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metronome, "cpus", lambda: [0, 1])


def shares(found: Prepared) -> dict[str, float | None]:
    return {host: None if limit is None else limit.share for host, limit in cpu_limits(found).items()}


def test_real_shares_and_reserves_are_summed() -> None:
    found = prepared(hosts=3, share=0.2)
    needs = demand(found, shares(found), delay_line=False)
    assert needs.cores == pytest.approx(0.3 + 3 * 0.2 + RUNNER_SHARE + 2 * metronome.SHARE)
    assert needs.memory_bytes == 3 * 100 * MIB + MEMORY_RESERVE_BYTES
    assert left_for_hosts(needs, 2) == pytest.approx(2 - RUNNER_SHARE - 2 * metronome.SHARE)
    admit(needs, 1.04, GIB)
    with pytest.raises(
        MachineError, match=r"needs 1\.04 cores \(the hosts 0\.90 \+ the metronomes 0\.04 \+ .* has 0\.9"
    ):
        admit(needs, 0.9, GIB)


def test_the_ways_out_are_named_and_lead_out() -> None:
    found = prepared(hosts=12, share=0.3)
    with pytest.raises(MachineError) as caught:
        admit(demand(found, shares(found), delay_line=False), 2, 16 * GIB)
    remedy = caught.value.remedy or ""
    assert "fewer or slower hosts" in remedy
    assert "calibrated" in remedy
    assert "time_scale: 3}" in remedy
    for way_out in ({"mode": "calibrated"}, {"time_scale": 3.0}):
        other = prepared(hosts=12, share=0.3, **way_out)
        admit(demand(other, shares(other), delay_line=False), 2, 16 * GIB)


def test_memory_is_summed_too() -> None:
    found = prepared(hosts=3)
    needs = demand(found, shares(found), delay_line=False)
    with pytest.raises(MachineError, match=r"812MiB of memory \(the hosts 300MiB, the runner 512MiB\), 800MiB are"):
        admit(needs, 2, 800 * MIB)


def test_a_delay_line_needs_more_the_more_is_delayed() -> None:
    fast, slow = prepared(delay_s=0.01), prepared(delay_s=0.01, time_scale=8.0)
    costs = [demand(each, shares(each), delay_line=True).cpu["the delay line"] for each in (fast, slow)]
    assert costs[0] > costs[1] > 0
    assert "the delay line" not in demand(fast, shares(fast), delay_line=False).cpu


def test_a_calibrated_worker_has_no_quota_but_the_dispatcher_has() -> None:
    limits = cpu_limits(prepared(mode="calibrated"))
    assert {host for host, limit in limits.items() if limit is None} == {"node1", "node2", "node3"}
    assert limits["dispatcher"] is not None
    assert limits["dispatcher"].share == 0.3


def test_a_given_period_is_taken_and_stretched_with_time() -> None:
    assert {limit.period_s for limit in cpu_limits(prepared(period_s=0.025)).values() if limit} == {0.025}
    assert {limit.period_s for limit in cpu_limits(prepared(period_s=0.025, time_scale=4.0)).values() if limit} == {0.1}


@pytest.mark.parametrize(
    ("share", "service_s", "expected_s"),
    [
        (0.5, 0.02, 0.011),  # a short service: the shortest period
        (0.1, 0.05, 0.019),  # its slices would be 1 ms: nearly twice as long
        (0.1, 0.8, 0.05),  # a sixteenth of the service
        (0.1, 9.0, 0.1),  # the longest
        (0.05, 0.1, 0.02002),  # the kernel's least slice
        (0.002, 0.1, 0.5005),
        (0.0005, 0.1, 1.0),  # beyond what the kernel takes: refused where it is set
    ],
)
def test_periods(share: float, service_s: float, expected_s: float) -> None:
    assert period_s(share, service_s) == pytest.approx(expected_s)


def test_every_worker_has_a_duty_and_spares_have_the_longest() -> None:
    found = prepared(hosts=3)
    by_host = duties(found)
    assert by_host.keys() == {"node1", "node2", "node3"}
    staged = {stage.host for stage in found.plan.stages}
    longest = max(by_host[host].core_s for host in staged)
    assert {by_host[host].core_s for host in by_host.keys() - staged} <= {longest}
    assert sum(by_host[host].core_s for host in staged) == pytest.approx(0.04)


def test_a_quota_is_corrected_by_what_was_measured() -> None:
    def trial(share: float, service_s: float, period_s: float = 0.02) -> quota_fit.Trial:
        return quota_fit.Trial(CpuLimit(share, period_s), quota_fit.Pace(10, 10 * service_s))

    first = trial(0.1, 0.26)
    assert quota_fit.corrected(0.1, 0.2, [first]).share == pytest.approx(0.13)
    second = trial(0.13, 0.19)
    assert quota_fit.corrected(0.1, 0.2, [first, second]).share == pytest.approx(0.13 * (1 + 0.95) / 2)
    disturbed = trial(0.13, 2.0)
    assert quota_fit.corrected(0.1, 0.2, [first, second, disturbed]).share == pytest.approx(0.13)
    assert quota_fit.corrected(0.1, 0.2, [disturbed]).share == pytest.approx(0.1 * quota_fit.HIGHEST_FACTOR)
    assert quota_fit.corrected(0.05, 0.2, [trial(0.05, 0.1, 0.02002)]).quota_us >= 1000


@pytest.mark.parametrize(("took_s", "close"), [(2.0, True), (2.15, True), (1.85, True), (2.3, False), (1.7, False)])
def test_a_quota_is_left_alone_once_the_speed_is_right(took_s: float, close: bool) -> None:
    assert quota_fit.is_close(0.2, quota_fit.Pace(10, took_s)) is close


def test_corrections_are_cut_to_what_the_machine_has_and_shares_never() -> None:
    limits = {"a": CpuLimit(0.8, 0.02), "b": CpuLimit(0.6, 0.02), "c": CpuLimit(0.3, 0.02)}
    declared = {"a": 0.6, "b": 0.4, "c": 0.4}
    assert quota_fit.within(limits, declared, 1.8) == limits
    cut = quota_fit.within(limits, declared, 1.5)
    assert sum(limit.share for limit in cut.values()) == pytest.approx(1.5)
    assert [cut[host].share for host in "abc"] == pytest.approx([0.7, 0.5, 0.3])
    assert [limit.share for limit in quota_fit.within(limits, declared, 1.0).values()] == pytest.approx([0.6, 0.4, 0.3])


def test_a_pace_is_measured_for_long_enough_and_not_for_ever() -> None:
    now_s = 0.0

    def run_for(service_s: float) -> quota_fit.Pace:
        def run() -> None:
            nonlocal now_s
            now_s += service_s

        return quota_fit.pace_of(run, service_s, lambda: now_s)

    for service_s, runs in ((0.001, 200), (0.1, 15), (1.0, 4), (30.0, 4)):
        pace = run_for(service_s)
        assert pace.runs == pytest.approx(runs, abs=1)
        assert pace.service_s == pytest.approx(service_s)


def test_a_stage_is_measured_on_numbers_of_its_inputs_shapes() -> None:
    found = prepared()
    program = found.graph.stage(0, 3)
    (example,) = quota_fit.example(program.inputs)
    assert example.shape == (1, 3, 64, 64)
    assert float(example.std()) == pytest.approx(1, abs=0.1)
