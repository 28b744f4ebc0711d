"""What is checked on the living emulation: its links before and after the workload, and its own parts at the end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from runner.events import Check
from runner.fidelity_checks import check_breakdown, check_delay_line, check_rate, check_round_trip
from runner.history import History
from runner.lab import Lab
from runner.link_sample import MOST_LINKS, links_to_measure
from testbed.emulation.probe import LinkMeasurement, measure_links
from testbed.errors import MachineError
from testbed.serving.events import Note, now_s
from testbed.spec.network import Network
from testbed.spec.verdict import VerdictSpec

MOST_MEASUREMENTS = 3
"""Of a link that is off, before that is believed."""


def measure(lab: Lab, history: History, when: str, most: int = MOST_LINKS) -> None:
    """All links up to ``most``, a sample of more, into the history; ``when`` is ``before`` or ``after`` the load."""
    experiment, network = lab.prepared.experiment, lab.cluster.network
    stops = (experiment.dispatcher, *(stage.host for stage in lab.prepared.plan.stages), experiment.dispatcher)
    chosen = links_to_measure(network, stops, experiment.seed, most)
    if len(chosen) < len(network.links):
        text = f"{len(chosen)} of {len(network.links)} links are measured {when} the workload"
        history.append(Note(t_s=now_s(), source="runner", text=text))

    take = functools.partial(measure_links, lab.cluster)
    k, bars = experiment.compute.time_scale, experiment.verdict
    for event in settled_checks(take, chosen, network, when, k, bars, lambda: lab.breakdown is not None):
        history.append(event)


def settled_checks(
    take: Callable[[Sequence[str]], Sequence[LinkMeasurement]],
    links: Sequence[str],
    network: Network,
    when: str,
    time_scale: float,
    bars: VerdictSpec,
    is_broken: Callable[[], bool],
) -> Iterator[Check | Note]:
    """Measure links, those again that are off, and judge each by its last measurement.

    What else the machine does for a moment disturbs one measurement; a link that is wrong is wrong each time. A note
    tells what is measured again, and why. What disturbs the workload itself is judged by other checks.

    Args:
        take: Measures the links of these names.
        links: All to be measured.
        network: What was declared.
        when: ``before`` or ``after`` the load.
        time_scale: The experiment's.
        bars: The thresholds.
        is_broken: Whether a part of the emulation has died, of which people are to hear at once: nothing is measured
            again then.
    """
    for left in reversed(range(MOST_MEASUREMENTS)):
        found = take(links)
        judged = {
            name: list(link_checks((one for one in found if one.link == name), network, when, time_scale, bars))
            for name in links
        }
        final = not left or is_broken()
        links = [name for name, checks in judged.items() if not final and not all(check.ok for check in checks)]
        for name, checks in judged.items():
            if name in links:
                reasons = "; ".join(f"{check.subject}: {check.detail}" for check in checks if not check.ok)
                yield Note(t_s=now_s(), source="runner", text=f"{name} is measured again: {reasons}")
            else:
                yield from checks
        if not links:
            return


def link_checks(
    found: Iterable[LinkMeasurement], network: Network, when: str, time_scale: float, bars: VerdictSpec
) -> Iterator[Check]:
    """Links against their requests, in declared units: the rate of each direction, the round trip of each link."""
    first_ends = {link.name: link.between[0] for link in network.links}
    for one in found:
        if one.requested_rate_bps is not None:
            asked_bps, had_bps = one.requested_rate_bps * time_scale, (one.rate_bps or 0.0) * time_scale
            yield check_rate(now_s(), when, f"{one.source}→{one.target}", asked_bps, had_bps, bars)
        if one.source == first_ends[one.link]:
            asked_s, took_s = one.requested_rtt_s, math.inf if one.rtt_s is None else one.rtt_s
            yield check_round_trip(now_s(), when, one.link, asked_s / time_scale, took_s / time_scale, bars)


def check_parts(lab: Lab, history: History) -> None:
    """Whether all parts of the emulation live, and how the delay line did, into the history."""
    experiment, statistics = lab.prepared.experiment, None
    if lab.breakdown is None:
        try:
            statistics = lab.cluster.delayline_lateness()
        except MachineError as error:  # it has died this very moment
            lab.break_down(error.message)
    if lab.breakdown is not None:
        history.append(check_breakdown(now_s(), lab.breakdown))
    elif statistics is not None:
        late_s = statistics.lateness.p99_s / experiment.compute.time_scale
        for check in check_delay_line(now_s(), late_s, statistics.kernel_drops, experiment.verdict):
            history.append(check)
