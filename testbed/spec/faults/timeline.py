"""The flat timeline: every strike of every fault as an entry of its own, with what is drawn at random drawn. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from testbed.spec.experiment import Experiment
from testbed.spec.faults.base import FaultBase, HostFault
from testbed.spec.faults.campaign import chaos
from testbed.spec.faults.hosts import JoinFault
from testbed.spec.faults.targets import WORKERS, Drawn, Named
from testbed.spec.hosts import HostSpec

MAX_ENTRIES = 10_000


def timeline(experiment: Experiment) -> tuple[FaultBase, ...]:
    """The faults of a checked experiment: the file's in its order, repetitions one by one, then the campaign's.

    What repeats until the workload ends has healed by then. Tags and random draws are hosts by name in it; a stage or
    the bottleneck is known only when the fault strikes.
    """
    listed = (strike for index, fault in enumerate(experiment.faults) for strike in _strikes(experiment, index, fault))
    return (*listed, *chaos(experiment))


def joining(experiment: Experiment) -> frozenset[str]:
    """The hosts of a checked experiment that aren't there at the start, because they join later."""
    return frozenset(
        host
        for fault in timeline(experiment)
        if isinstance(fault, JoinFault) and isinstance(fault.struck, Named)
        for host in fault.struck.names
    )


def tagged(hosts: Mapping[str, HostSpec], tag: str) -> tuple[str, ...]:
    """The hosts that have a tag, in the order of the file."""
    return tuple(name for name, host in hosts.items() if tag in host.tags)


def candidates(experiment: Experiment, among: str) -> tuple[str, ...]:
    """The hosts that a random draw is among: all workers, or those that have a tag."""
    return experiment.workers if among == WORKERS else tagged(experiment.hosts, among)


def _strikes(experiment: Experiment, index: int, fault: FaultBase) -> Iterator[FaultBase]:
    for turn, at_s in enumerate(fault.instants(experiment.workload.duration_s)):
        once: dict[str, object] = {"at_s": at_s, "every_s": None, "times": None}
        if fault.every_s is not None and fault.lasts_s is not None:
            once["for_s"] = min(fault.lasts_s, round(experiment.workload.duration_s - at_s, 9))
        if isinstance(fault, HostFault):
            field = fault.verb.replace("-", "_")
            match fault.struck:
                case Drawn(count, among):
                    chance = random.Random(f"{experiment.seed}/{index}/{turn}")  # noqa: S311 - seeded, not secret
                    once[field] = Named(_drawn(candidates(experiment, among), count, chance))
                case Named((word,)) if word not in experiment.hosts:
                    once[field] = Named(tagged(experiment.hosts, word))
        yield fault.model_copy(update=once)


def _drawn(hosts: Sequence[str], count: int, chance: random.Random) -> tuple[str, ...]:
    """So many of the hosts, in their order."""
    chosen = set(chance.sample(hosts, count))
    return tuple(host for host in hosts if host in chosen)
