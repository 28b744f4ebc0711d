"""Faults of hosts' disks."""

from __future__ import annotations

from runner.faults.base import InForce, Lab
from runner.faults.hosts import FaultOfHosts
from testbed.emulation.disk import Condition
from testbed.spec.faults import DiskCorruptFault, DiskFault, DiskSlowFault
from testbed.units import format_rate

CONDITIONS = {
    "disk-full": Condition(full=True),
    "disk-readonly": Condition(readonly=True),
    "disk-gone": Condition(gone=True),
}


class SpoiledDisk(FaultOfHosts):
    """The disks of hosts are full, read-only, slow or gone; healed, they are what other faults make of them."""

    def __init__(self, spec: DiskFault) -> None:
        super().__init__(spec)
        if isinstance(spec, DiskSlowFault):
            self.detail = f"to {format_rate(spec.rate_bps)}"
            self._condition = Condition(rate_bytes_s=max(1, spec.rate_bps // 8))
        else:
            self._condition = CONDITIONS[spec.verb]

    def strike(self, lab: Lab, host: str) -> InForce:
        """Bring the disk into the condition; in force when it was read back."""
        return lab.spoil_disk(host, self._condition, self)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Take the condition back."""
        return lab.spoil_disk(host, None, self)


class CorruptDisk(FaultOfHosts):
    """A bit of every cached chunk of weights is flipped on the disks of hosts."""

    def __init__(self, spec: DiskCorruptFault, seed: int) -> None:
        super().__init__(spec)
        self._seed = f"{seed}/{spec.at_s}"

    def strike(self, lab: Lab, host: str) -> InForce:
        """Flip them; in force when they were read back from the device."""
        return lab.corrupt_disk(host, self._seed)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """What is damaged stays so, until the host fetches it again."""
        return None
