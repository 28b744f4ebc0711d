"""The iptables rules that hand arriving packets to the delay line.

A packet is queued where it *arrives*: at the sender it would still belong to its socket, and TCP Small Queues would
throttle it (4.5 instead of 95 Mbit/s). At a host's end that is its interface; at a switch's, the port of the bridge,
for which bridged packets must pass iptables (``bridge-nf-call-iptables``, a setting of each namespace).

There is no ``--queue-bypass``: if nobody reads the queue, packets must stop, not run undelayed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from testbed.emulation.namespace import run
from testbed.errors import MachineError

# Rules in the kernel's own format are the quicker ones, and need no nf_tables in the kernel.
_VARIANTS = ("iptables-legacy", "iptables-nft", "iptables")
_LOCK_WAIT_S = "10"

BRIDGE_INTERCEPTION = {"bridge/bridge-nf-call-iptables": "1"}
"""Setting of a switch's namespace under which its packets pass iptables."""


@dataclass(frozen=True, slots=True)
class Interception:
    """Packets that arrive on an interface go to a queue.

    Attributes:
        interface: A host's interface, or a port of a bridge.
        is_port: Whether it is a port of a bridge.
        queue: Number of the NFQUEUE.
    """

    interface: str
    is_port: bool
    queue: int

    def rule(self) -> str:
        """The rule, as iptables-save prints it."""
        arriving = f"-m physdev --physdev-in {self.interface}" if self.is_port else f"-i {self.interface}"
        # The kernel's spelling of the match differs by kind: «-m physdev» is printed with two spaces before it.
        return f"-A PREROUTING {arriving} -j NFQUEUE --queue-num {self.queue}"


def restore_text(add: Iterable[Interception], remove: Iterable[Interception] = ()) -> str:
    """Input of ``iptables-restore --noflush`` that adds and removes rules in one step."""
    deleted = [interception.rule().replace("-A ", "-D ", 1) for interception in remove]
    added = [interception.rule() for interception in add]
    return "\n".join(["*mangle", *deleted, *added, "COMMIT", ""])


def missing(wanted: Iterable[Interception], saved: str) -> list[Interception]:
    """Those whose rule isn't in the output of ``iptables-save``."""
    present = {" ".join(line.split()) for line in saved.splitlines()}
    return [interception for interception in wanted if interception.rule() not in present]


class Interceptor:
    """Sets rules with the variant of iptables that works here; found once, at the first use."""

    def __init__(self) -> None:
        self._variant: str | None = None

    def apply(self, pid: int, add: Iterable[Interception], remove: Iterable[Interception] = ()) -> None:
        """Add and remove rules in the namespace of a process, and read them back.

        Raises:
            MachineError: If no variant of iptables can, or a rule isn't there afterwards.
        """
        added, removed = tuple(add), tuple(remove)
        if not added and not removed:
            return
        variant = self._apply(pid, restore_text(added, removed))
        saved = run(pid, [f"{variant}-save", "-t", "mangle"])
        lost = missing(added, saved)
        if lost:
            raise MachineError(f"{variant} didn't keep the rule «{lost[0].rule()}»")
        if len(missing(removed, saved)) != len(removed):
            raise MachineError(f"{variant} didn't remove the rule of a link without delay")

    def _apply(self, pid: int, text: str) -> str:
        candidates = (self._variant,) if self._variant else tuple(name for name in _VARIANTS if shutil.which(name))
        failures: list[str] = []
        for variant in candidates:
            try:
                run(pid, [f"{variant}-restore", "--noflush", "-w", _LOCK_WAIT_S], stdin=text)
            except MachineError as error:
                failures.append(error.message)
                continue
            self._variant = variant
            return variant
        raise MachineError(
            "no iptables can queue packets for the delay line: " + ("; ".join(failures) or "none is installed"),
            remedy="install the package iptables; the kernel needs nfnetlink_queue, xt_NFQUEUE, xt_physdev and "
            "iptable_mangle",
        )
