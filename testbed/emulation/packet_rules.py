"""Rules of iptables in the namespaces of emulated hosts and switches: set in one step, read back, taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from testbed.emulation.namespace import run
from testbed.errors import MachineError

# Rules in the kernel's own format are the quicker ones, and need no nf_tables in the kernel.
_VARIANTS = ("iptables-legacy", "iptables-nft", "iptables")
_LOCK_WAIT_S = "10"


def restore_text(add: Iterable[str], remove: Iterable[str] = ()) -> str:
    """Input of ``iptables-restore --noflush`` that adds and removes rules of the mangle table in one step.

    Args:
        add: Rules as iptables-save prints them, such as ``-A INPUT -s 10.0.0.2/32 -j DROP``.
        remove: The same, of rules that are there.
    """
    deleted = [rule.replace("-A ", "-D ", 1) for rule in remove]
    return "\n".join(["*mangle", *deleted, *add, "COMMIT", ""])


def missing(wanted: Iterable[str], saved: str) -> list[str]:
    """Those that aren't in the output of ``iptables-save``."""
    # The kernel's spelling of a match differs by kind: «-m physdev» is printed with two spaces after it.
    present = {" ".join(line.split()) for line in saved.splitlines()}
    return [rule for rule in wanted if rule not in present]


class PacketRules:
    """Sets rules with the variant of iptables that works here; found once, at the first use."""

    def __init__(self) -> None:
        self._variant: str | None = None

    def apply(self, pid: int, add: Iterable[str], remove: Iterable[str] = ()) -> None:
        """Add and remove rules of the mangle table in the namespace of a process, and read them back.

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
            raise MachineError(f"{variant} didn't keep the rule «{lost[0]}»")
        if len(missing(removed, saved)) != len(removed):
            raise MachineError(f"{variant} didn't remove a rule")

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
            "no iptables can set the rules: " + ("; ".join(failures) or "none is installed"),
            remedy="install the package iptables; the kernel needs iptable_mangle, and for the delay line "
            "nfnetlink_queue, xt_NFQUEUE and xt_physdev",
        )
