"""Has every worker of a lab measure its own pace, and corrects its CPU quota; see :mod:`runner.quota_fit`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from runner import quota_fit
from runner.events import QuotaFitted, QuotaProbed
from runner.history import History
from runner.lab_servers import KILL_TIMEOUT_S, LISTEN_TIMEOUT_S, Servers
from runner.limits import Duty, duties
from runner.preparation import Prepared, speed
from testbed.emulation.cgroups import CpuLimit
from testbed.serving.events import now_s
from testbed.spec.experiment import Experiment


def fit_quotas(servers: Servers, prepared: Prepared, package: Path, history: History, cores: float) -> None:
    """Measure how fast each worker computes under its quota, and correct that.

    A host that can't compute its stage (for want of memory, say) keeps its quota; the system under test will meet
    the same trouble.

    Args:
        servers: The hosts.
        prepared: Their stages.
        package: Folder of the model.
        history: Where each measurement goes.
        cores: What all hosts may use together.

    Raises:
        MachineError: If a quota can't be set.
        ExperimentError: If the measuring doesn't end in time.
    """
    experiment = prepared.emulated.experiment
    limited = {host for host in experiment.workers if servers.limits[host] is not None}
    duties_of = {host: duty for host, duty in duties(prepared).items() if host in limited and duty.core_s > 0}
    if not duties_of:
        return
    declared = {host: spec.share for host, spec in experiment.hosts.items()}
    ahead = {
        host: CpuLimit(limit.share * quota_fit.MARGIN, limit.period_s) if host in duties_of else limit
        for host, limit in servers.limits.items()
        if limit is not None
    }
    _adopt(servers, quota_fit.within(ahead, declared, cores))
    trials: dict[str, list[quota_fit.Trial]] = defaultdict(list)
    for number in range(1, quota_fit.ROUNDS + 1):
        limits = {host: limit for host, limit in servers.limits.items() if limit is not None}
        found = _measure_paces(servers, experiment, package, history, duties_of, number)
        for host, (_, pace) in found.items():
            trials[host].append(quota_fit.Trial(limits[host], pace))
            history.append(
                QuotaFitted(
                    t_s=now_s(),
                    host=host,
                    declared_cpu_share=declared[host],
                    quota_cpu_share=limits[host].share,
                    service_s=pace.service_s,
                )
            )
        off = {host: one for host, one in found.items() if not quota_fit.is_close(*one)}
        if not off:
            return
        if number > quota_fit.CORRECTIONS:
            continue
        for host, (wanted_s, _) in off.items():
            limits[host] = quota_fit.corrected(speed(experiment, declared[host]), wanted_s, trials[host])
        _adopt(servers, quota_fit.within(limits, declared, cores))


def _adopt(servers: Servers, limits: Mapping[str, CpuLimit]) -> None:
    for host, limit in limits.items():
        if limit != servers.limits[host]:
            servers.set_cpu(host, limit)


def _measure_paces(
    servers: Servers,
    experiment: Experiment,
    package: Path,
    history: History,
    duties_of: Mapping[str, Duty],
    number: int,
) -> dict[str, tuple[float, quota_fit.Pace]]:
    """What each host's stage should take and what it takes, all hosts computing at once under their quotas."""
    wanted_s = {
        host: duty.core_s / speed(experiment, experiment.hosts[host].share) / quota_fit.MARGIN
        for host, duty in duties_of.items()
    }
    for host, duty in duties_of.items():
        config = {
            "host": host,
            "package": str(package),
            "first_op": duty.first_op,
            "last_op": duty.last_op,
            "service_s": wanted_s[host],
        }

        def failed(status: int, t_s: float, host: str = host) -> None:
            if status:
                history.append(QuotaProbed(t_s=t_s, host=host, runs=0, took_s=0.0))

        servers.spawn(f"{host}.probe{number}", host, "runner.quota_fit:main", config, on_end=failed)
    limit_s = LISTEN_TIMEOUT_S + 10 * max([quota_fit.MOST_S, *wanted_s.values()])
    count = len(duties_of)
    probed = servers.watch.wait(
        lambda event: isinstance(event, QuotaProbed), number * count, limit_s, "the fit of the hosts' quotas"
    )[-count:]
    for host in duties_of:
        servers[f"{host}.probe{number}"].wait(KILL_TIMEOUT_S)
    return {
        probe.host: (wanted_s[probe.host], quota_fit.Pace(probe.runs, probe.took_s))
        for probe in probed
        if isinstance(probe, QuotaProbed) and probe.runs
    }
