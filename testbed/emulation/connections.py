"""TCP connections of a namespace, and their end without a word: what a machine that loses its power does to them.

The kernel outlives the processes of an emulated host. It goes on sending what a dead process had sent, and its FIN,
until it gives up after a minute or two: a host that is switched on again would tell its peers of connections that it
can't remember. So they are destroyed while its links are down (``SOCK_DESTROY``, which is what ``ss -K`` asks for).
"""

from __future__ import annotations

from testbed.emulation import namespace
from testbed.errors import MachineError

_SS = ("ss", "--tcp", "--numeric", "--no-header")


def connections(pid: int, own_address: str) -> tuple[str, ...]:
    """The connections with other hosts in the network namespace of a process, those in their last stages too.

    Args:
        pid: The process.
        own_address: Of the host; what it has with itself isn't told.

    Returns:
        A line for each, as ``ss`` prints it.

    Raises:
        MachineError: If the kernel doesn't tell.
    """
    return _asked(pid, own_address)


def forget_connections(pid: int, own_address: str) -> None:
    """End the connections with other hosts at this end; their links must be down, or they are told of it.

    Args:
        pid: A process in the host's network namespace.
        own_address: Of the host; what it has with itself stays.

    Raises:
        MachineError: If some are left, because the kernel can't.
    """
    _asked(pid, own_address, "--kill")
    if left := _asked(pid, own_address):
        raise MachineError(
            f"{len(left)} connections of {own_address} outlived its power: {left[0]}",
            remedy="the kernel needs CONFIG_INET_DIAG_DESTROY for a host to come back from a power cut",
        )


def _asked(pid: int, own_address: str, *options: str) -> tuple[str, ...]:
    text = namespace.run(pid, [*_SS, *options, "state", "connected", "not", "dst", own_address])
    return tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())
