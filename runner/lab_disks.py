"""The disks of a lab's hosts: which of them have one of their own, and what faults make of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from runner.faults.base import InForce
from runner.lab_servers import Servers
from runner.outfit import WEIGHTS
from testbed.emulation.disks import Condition, Disks
from testbed.serving.events import now_s
from testbed.spec.experiment import Experiment
from testbed.spec.faults import DiskFault, DiskSlowFault
from testbed.spec.faults.targets import Named
from testbed.spec.faults.timeline import timeline


def disk_sizes(declared: Experiment, *, possible: bool) -> dict[str, int | None]:
    """Bytes for files of every host that gets a file system of its own; None for one that declares none.

    Those are the hosts with declared ``storage``, and where faults break disks all workers and whoever is struck. Where
    the machine can't make file systems, hosts have plain folders, and only the partition servers see to it that they
    keep within what is declared.

    Args:
        declared: The experiment.
        possible: Whether this machine can make file systems.
    """
    if not possible:
        return {}
    faults = [fault for fault in timeline(declared) if isinstance(fault, DiskFault)]
    named = {host for fault in faults if isinstance(fault.struck, Named) for host in fault.struck.names}
    broken = {*declared.workers, *named} if faults else set()
    return {
        host: spec.storage_bytes
        for host, spec in declared.hosts.items()
        if spec.storage_bytes is not None or host in broken
    }


def disk_needs(declared: Experiment) -> tuple[str, ...]:
    """Names of the machine's capabilities that faults of disks need."""
    faults = [fault for fault in timeline(declared) if isinstance(fault, DiskFault)]
    slow = any(isinstance(fault, DiskSlowFault) for fault in faults)
    return (*(("disks",) if faults else ()), *(("disk rates",) if slow else ()))


class LabDisks:
    """The part of a lab that acts on disks.

    What several faults do to one disk at once adds up: it is full, read-only or gone as long as one of them makes it
    so, and of several rates the lowest counts.
    """

    servers: Servers
    disks: Disks

    def __init__(self) -> None:
        self._spoilt: defaultdict[str, dict[Hashable, Condition]] = defaultdict(dict)

    def spoil_disk(self, host: str, condition: Condition | None, by: Hashable) -> InForce:
        """Bring a host's disk into a condition, and read it back.

        Args:
            host: Which.
            condition: What is wrong with it; None takes back what `by` had asked for.
            by: Who asks.

        Raises:
            MachineError: If the host has no disk of its own, or the kernel refuses.
        """
        asked = self._spoilt[host]
        if condition is None:
            asked.pop(by, None)
        else:
            asked[by] = condition
        wanted = Condition(
            full=any(one.full for one in asked.values()),
            readonly=any(one.readonly for one in asked.values()),
            rate_bytes_s=min((one.rate_bytes_s for one in asked.values() if one.rate_bytes_s), default=None),
            gone=any(one.gone for one in asked.values()),
        )
        detail = self.disks[host].become(wanted, self.servers.groups[host])
        return InForce(now_s(), detail)

    def corrupt_disk(self, host: str, seed: str) -> InForce:
        """Flip a bit of every chunk of weights on a host's disk, and read them back.

        Raises:
            MachineError: If the host has no disk of its own, or the disk refuses.
        """
        detail = self.disks[host].corrupt(WEIGHTS, seed)
        return InForce(now_s(), detail)
