from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import fidelity_checks, machine_load, verdict
from runner.events import (
    Check,
    FaultScheduled,
    FaultStarted,
    HostSample,
    MachineSample,
    QuotaFitted,
    RunEnded,
    RunStarted,
    SchedulingSample,
)
from runner.verdict import judge
from testbed.errors import MachineError
from testbed.serving.events import Event, PlanAdopted, RequestSubmitted, StageExecuted
from testbed.spec.verdict import Bar, VerdictSpec


def machine(busy: float, *, steal: float = 0.0, pressure: float | None = 0.0, seconds: int = 10) -> list[MachineSample]:
    """A machine of two cores, of which ``busy`` are."""
    return [
        MachineSample(
            t_s=float(i),
            busy_s=busy * i,
            idle_s=(2 - busy - steal) * i,
            steal_s=steal * i,
            pressure_s=None if pressure is None else pressure * i,
        )
        for i in range(seconds)
    ]


def levels(checks: list[Check]) -> dict[str, str]:
    return {check.check: check.level for check in checks}


def test_the_quickstart_is_valid(quickstart: tuple[Event, ...]) -> None:
    checks = [event for event in quickstart if isinstance(event, Check)]
    assert len(checks) > 10
    assert judge(checks) == verdict.Verdict("valid", ())


def test_nothing_checked_is_not_valid() -> None:
    assert judge([]).level == "invalid"


def test_the_worst_check_decides_and_its_reason_comes_first() -> None:
    good = fidelity_checks.check_rate(0.0, "before", "a→s1", 20e6, 19.9e6)
    off = fidelity_checks.check_rate(0.0, "before", "b→s1", 20e6, 19e6)
    broken = fidelity_checks.check_rate(0.0, "after", "c→s1", 20e6, 200e6)
    found = judge([good, off, broken])
    assert found.level == "invalid"
    assert found.reasons[0].startswith("c→s1: rate after the workload is 200Mbit/s instead of 20Mbit/s")
    assert len(found.reasons) == 2
    assert judge([good, off]).level == "suspect"
    assert judge([good]).level == "valid"


@pytest.mark.parametrize(
    ("requested_s", "measured_s", "level"),
    [
        (0.004, 0.0046, "valid"),  # within 0.7 ms
        (0.004, 0.0050, "suspect"),
        (0.004, 0.0075, "invalid"),
        (0.100, 0.1049, "valid"),  # within 5 %
        (0.100, 0.0900, "suspect"),  # too short is wrong as well
        (0.100, 0.0700, "invalid"),
        (0.0, 0.0001, "valid"),
        (0.010, math.nan, "invalid"),
    ],
)
def test_round_trips(requested_s: float, measured_s: float, level: str) -> None:
    assert fidelity_checks.check_round_trip(0.0, "before", "a-s1", requested_s, measured_s).level == level


def test_an_idle_machine_is_valid_and_an_overloaded_one_is_not() -> None:
    assert levels(fidelity_checks.check_machine(machine(0.8), quotas=True))["cpu_saturated_pct"] == "valid"
    assert levels(fidelity_checks.check_machine(machine(2.0), quotas=True))["cpu_saturated_pct"] == "invalid"
    halftime = [*machine(0.5, seconds=8)]
    last = halftime[-1]
    full = MachineSample(t_s=9.0, busy_s=last.busy_s + 4, idle_s=last.idle_s, steal_s=0.0, pressure_s=0.0)
    assert levels(fidelity_checks.check_machine([*halftime, full], quotas=True))["cpu_saturated_pct"] == "suspect"


def test_stolen_time_counts() -> None:
    assert levels(fidelity_checks.check_machine(machine(0.5, steal=0.1), quotas=True))["cpu_steal_pct"] == "suspect"
    assert levels(fidelity_checks.check_machine(machine(0.5, steal=0.4), quotas=True))["cpu_steal_pct"] == "invalid"


def test_pressure_is_judged_only_without_quotas() -> None:
    assert levels(fidelity_checks.check_machine(machine(0.5, pressure=0.9), quotas=True))["cpu_pressure_pct"] == "valid"
    assert (
        levels(fidelity_checks.check_machine(machine(0.5, pressure=0.9), quotas=False))["cpu_pressure_pct"] == "invalid"
    )
    assert "cpu_pressure_pct" not in levels(fidelity_checks.check_machine(machine(0.5, pressure=None), quotas=False))


def test_a_machine_that_was_not_sampled_is_suspect() -> None:
    assert judge(fidelity_checks.check_machine([], quotas=True)).level == "suspect"


def test_late_and_missing_faults() -> None:
    assert fidelity_checks.check_fault(0.0, "kill a", 8.0, 8.004).level == "valid"
    assert fidelity_checks.check_fault(0.0, "kill a", 8.0, 8.05).level == "suspect"
    assert fidelity_checks.check_fault(0.0, "kill a", 8.0, 7.5).level == "invalid"
    missing = fidelity_checks.check_fault(0.0, "kill a", 8.0, None)
    assert missing.level == "invalid"
    assert "never" in missing.detail


def test_a_late_generator() -> None:
    assert fidelity_checks.check_generator(0.0, [0.001] * 200).ok
    assert not fidelity_checks.check_generator(0.0, [0.001] * 100 + [0.5] * 5).ok
    assert fidelity_checks.check_generator(0.0, []).ok


def test_a_delay_line_that_is_late_or_loses_packets_or_dies() -> None:
    def level(late_s: float, drops: int) -> str:
        return judge(fidelity_checks.check_delay_line(0.0, late_s, drops)).level

    assert level(0.0005, 0) == "valid"
    assert level(0.003, 0) == "suspect"
    assert level(0.0005, 1) == "invalid"
    assert judge([fidelity_checks.check_breakdown(0.0, "the delay line has died")]) == verdict.Verdict(
        "invalid", (("invalid", "emulation: the delay line has died"),)
    )


def test_a_host_beyond_its_share_is_found() -> None:
    assert fidelity_checks.check_share(0.0, "a", 0.1, 0.05).ok
    assert fidelity_checks.check_share(0.0, "a", 0.1, 0.2).level == "invalid"


def test_thresholds_can_be_set() -> None:
    strict = VerdictSpec(rate_error=Bar(0.001, 0.002))
    assert fidelity_checks.check_rate(0.0, "before", "a", 1e6, 0.99e6).ok
    assert not fidelity_checks.check_rate(0.0, "before", "a", 1e6, 0.99e6, strict).ok


def checks_by(bars: VerdictSpec) -> list[Check]:
    """One check at least for each bar, all within the usual ones."""
    samples = machine(1.7, steal=0.01, pressure=0.1, seconds=30)
    last = samples[-1]  # and then a second without a rest
    samples.append(dataclasses.replace(last, t_s=30.0, busy_s=last.busy_s + 2))
    return [
        fidelity_checks.check_rate(0.0, "before", "a→b", 1e6, 0.98e6, bars),
        fidelity_checks.check_round_trip(0.0, "before", "a-b", 0.004, 0.0046, bars),
        fidelity_checks.check_round_trip(0.0, "before", "a-c", 0.100, 0.104, bars),
        fidelity_checks.check_fault(0.0, "kill a", 8.0, 8.01, bars),
        fidelity_checks.check_trace(0.0, [0.01], bars),
        fidelity_checks.check_generator(0.0, [0.01], bars),
        *fidelity_checks.check_delay_line(0.0, 0.001, 0, bars),
        fidelity_checks.check_scheduling([SchedulingSample(t_s=1.0, began_s=0.0, lateness_ms=(4.0,))], bars),
        *fidelity_checks.check_machine(samples, quotas=False, bars=bars),
        fidelity_checks.check_share(0.0, "a", 0.1, 0.105, bars),
        fidelity_checks.check_overshoot(0.0, "a", 1.0, 0.01, real=False, bars=bars),
        fidelity_checks.check_overshoot(0.0, "b", 1.0, 0.01, real=True, bars=bars),
        fidelity_checks.check_service_time(0.0, "a", 1.0, 1.02, bars),
    ]


@pytest.mark.parametrize("name", VerdictSpec.model_fields)
def test_each_threshold_decides_some_check(name: str) -> None:
    assert judge(checks_by(VerdictSpec())).level == "valid"
    strict = 0.2 if name == "saturated_idle" else Bar(0.0, 1.0)
    assert judge(checks_by(VerdictSpec.model_validate({name: strict}))).level != "valid"


def test_checks_of_a_history_fall_with_it() -> None:
    events: list[Event] = [
        RunStarted(t_s=0.0, name="t", seed=1, duration_s=9.0),
        *machine(2.0),
        FaultScheduled(t_s=0.0, fault=0, verb="kill", target="a", due_s=3.0, hosts=("a",)),
        FaultScheduled(t_s=0.0, fault=1, verb="kill", target="b", due_s=4.0, hosts=("b",)),
        FaultStarted(t_s=3.5, fault=0),
        RequestSubmitted(t_s=2.0, id=1, due_s=1.0),
        *(
            HostSample(
                t_s=float(i),
                host="a",
                cpu_usage_s=0.5 * i,
                throttled_s=0.0,
                nr_throttled=0,
                memory_bytes=0,
                oom_kills=0,
                cpu_share=0.1,
            )
            for i in range(9)
        ),
        RunEnded(t_s=9.0),
    ]
    bad = {(check.check, check.subject) for check in verdict.checks_of_events(events) if not check.ok}
    assert bad == {
        ("cpu_saturated_pct", "machine"),
        ("cpu_share", "a"),
        ("fault_lateness_ms", "kill a"),
        ("fault_lateness_ms", "kill b"),
        ("generator_lateness_p99_ms", "workload"),
        ("scheduling_samples", "machine"),
    }


def test_the_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 0 50 1000 10 1 2 30 0 0\ncpu0 1 1 1\n")
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull total=0\n")
    found = machine_load.sample(5.0, tmp_path)
    assert found.pressure_s == 2.5
    assert found.steal_s > 0
    assert found.idle_s / found.steal_s == pytest.approx(1010 / 30)
    assert found.busy_s / found.steal_s == pytest.approx(153 / 30)
    (tmp_path / "pressure" / "cpu").unlink()
    assert machine_load.sample(5.0, tmp_path).pressure_s is None
    assert machine_load.sample(5.0).busy_s > 0
    with pytest.raises(MachineError, match="can't read"):
        machine_load.sample(5.0, tmp_path / "missing")


def _ran(host: str, took_s: float, overshoot_s: float | None, count: int = 6, epoch: int = 1) -> list[StageExecuted]:
    return [
        StageExecuted(
            t_s=1.0,
            id=number,
            stage=0,
            host=host,
            epoch=epoch,
            received_s=0.0,
            started_s=0.0,
            finished_s=took_s,
            sent_s=1.0,
            bytes_in=1,
            bytes_out=1,
            overshoot_s=overshoot_s,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("service_s", "level"), [(0.100, "valid"), (0.163, "valid"), (0.170, "suspect"), (0.200, "invalid")]
)
def test_a_quota_that_gives_less_than_the_declared_speed_is_told(
    plan: Callable[..., PlanAdopted], service_s: float, level: str
) -> None:
    adopted = plan(0.0, 1, ["node1"])  # its stage takes 160 ms
    fits = [
        QuotaFitted(t_s=-1.0, host=host, declared_cpu_share=0.1, quota_cpu_share=quota, service_s=found_s)
        for host, quota, found_s in (
            ("node1", 0.1, 9.0),
            ("spare", 0.15, 9.0),
            ("node1", 0.15, service_s * 0.9),  # all that was measured under the last quota counts
            ("node1", 0.15, service_s * 1.1),
        )
    ]
    (found,) = verdict.checks_of_stages([*fits, adopted])
    assert (found.check, found.subject, found.level) == ("service_time_ms", "node1", level)


@pytest.mark.parametrize(
    ("overshoot_s", "level", "real_level"),
    [(0.001, "valid", "valid"), (0.008, "suspect", "valid"), (0.040, "invalid", "suspect")],
)
def test_results_that_are_released_too_late_are_told(
    plan: Callable[..., PlanAdopted], overshoot_s: float, level: str, real_level: str
) -> None:
    adopted = plan(0.0, 1, ["node1"])
    ran, later = _ran("node1", 0.160 + overshoot_s, overshoot_s), _ran("node1", 9.0, 8.0, epoch=2)
    (found,) = verdict.checks_of_stages([adopted, *ran, *later])
    assert (found.check, found.subject, found.level) == ("overshoot_pct", "node1", level)
    assert verdict.checks_of_stages([adopted, *ran[:4]]) == []
    fit = QuotaFitted(t_s=-1.0, host="node1", declared_cpu_share=0.1, quota_cpu_share=0.2, service_s=0.1)
    (_, real) = verdict.checks_of_stages([fit, adopted, *ran, *later])
    assert (real.check, real.level) == ("overshoot_pct", real_level)


def test_a_short_stage_far_from_the_bottleneck_may_be_late_by_much_of_its_time(
    plan: Callable[..., PlanAdopted],
) -> None:
    (found,) = verdict.checks_of_stages([plan(0.0, 1, ["node1"]), *_ran("node1", 0.0014, 0.0004)])
    assert found.level == "valid"


def test_a_share_that_a_fault_changes_is_judged_by_its_mean() -> None:
    def samples(shares: list[float], used: list[float]) -> list[Event]:
        total, found = 0.0, list[Event]()
        for second, (share, more) in enumerate(zip(shares, used, strict=True)):
            total += more
            found.append(
                HostSample(
                    t_s=float(second),
                    host="a",
                    cpu_usage_s=total,
                    throttled_s=0.0,
                    nr_throttled=0,
                    memory_bytes=0,
                    oom_kills=0,
                    cpu_share=share,
                )
            )
        return found

    def share_check(events: list[Event]) -> Check:
        (found,) = [check for check in verdict.checks_of_events(events) if check.check == "cpu_share"]
        return found

    lowered = [0.5] * 5 + [0.1] * 5
    as_it_may = [0.0, *[0.5] * 4, 0.5, *[0.1] * 4]
    assert share_check(samples(lowered, as_it_may)).ok
    assert not share_check(samples(lowered, [0.0, *[0.5] * 9])).ok
