"""What the kernel offers for emulated hosts and delays, tried before anything is built."""

from __future__ import annotations

import subprocess

from testbed.errors import MachineError

_MNEXEC_DEADLINE_S = 10.0


def choose_netem(wanted: str, *, needed: bool) -> bool:
    """Whether netem delays and loses packets; otherwise the delay line does.

    Args:
        wanted: ``netem`` or ``delayline`` to force one; ``auto`` takes netem where the kernel has it.
        needed: Whether packets will be delayed or lost at all.

    Raises:
        MachineError: If netem is wanted and needed, and the kernel has none.
    """
    if wanted == "delayline":
        return False
    tried = _in_new_namespace("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    if tried.returncode == 0:
        return True
    if wanted == "netem" and needed:
        raise MachineError(
            f"this kernel has no netem: {tried.stderr.strip()}",
            remedy="load it with: modprobe sch_netem; or let the delay line do it (--delay-backend delayline)",
        )
    return False


def _in_new_namespace(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace that ends with it."""
    try:
        return subprocess.run(
            ["mnexec", "-n", *argv], capture_output=True, text=True, timeout=_MNEXEC_DEADLINE_S, check=False
        )
    except FileNotFoundError as error:
        raise MachineError(
            "the command mnexec is missing", remedy="install Debian's package mininet, which has it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"mnexec hung for {_MNEXEC_DEADLINE_S:.0f} s") from error


def check_mnexec() -> None:
    """Try mnexec: Mininet waits for ever for a shell that it couldn't start.

    Raises:
        MachineError: If it is missing, or can't make a network namespace.
    """
    tried = _in_new_namespace("true")
    if tried.returncode != 0:
        raise MachineError(
            f"mnexec can't make a network namespace: {tried.stderr.strip() or tried.stdout.strip()}",
            remedy="run as root: sudo …",
        )
