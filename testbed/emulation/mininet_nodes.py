"""Mininet's own classes, kept from touching the machine.

What is changed, and why (Mininet 2.3.0):

- ``Mininet.init`` raises sysctls of the whole machine and ``setup`` ends the *process* when a tool is missing: off.
- A node's shell is the process that holds its namespace; ours is written to the run's journal as soon as it exists.
- Interfaces, addresses and bridges are set by :mod:`testbed.emulation.fabric` in batches, not by ``ifconfig`` and
  ``brctl`` one by one.
- ``stop`` deletes interfaces one by one (13 ms each) and waits for shells without a deadline: the end of the shells is
  the end of the namespaces, and with them of all that is inside.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

from mininet.link import Intf, Link
from mininet.net import Mininet
from mininet.node import Host, Node, Switch

from testbed.emulation.fabric import Endpoint, Fabric
from testbed.emulation.manifest import RunManifest
from testbed.emulation.namespace import network_identity
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import MachineError

_EXIT_DEADLINE_S = 5.0


class _OwnNode(Node):  # type: ignore[misc]
    """A shell in a namespace of its own.

    Args:
        name: Name of the node.
        manifest: Journal of the run.
        params: As for Mininet's nodes.
    """

    shell: Any
    stdin: Any
    master: Any
    slave: Any

    def __init__(self, name: str, manifest: RunManifest, **params: Any) -> None:
        self._manifest = manifest
        try:
            super().__init__(name, **{**params, "inNamespace": True})
        except BaseException:
            self._close()
            raise

    @classmethod
    def checkSetup(cls) -> None:  # noqa: N802 - Mininet's name
        """Do nothing: `doctor` and the cluster check the tools, and say how to get them."""

    def _popen(self, cmd: list[str], **params: Any) -> subprocess.Popen[bytes]:
        try:
            process: subprocess.Popen[bytes] = super()._popen(cmd, **params)
        except FileNotFoundError as error:
            raise MachineError(
                f"can't start the emulated host {self.name}: the command {cmd[0]} is missing",
                remedy="install Debian's package mininet, which has mnexec",
            ) from error
        if self.shell is None:
            # Only the node's own shell: if we die before this line is written, it ends with its terminal.
            identity = ProcessIdentity.of(process.pid)
            self._manifest.will_create(
                "process", pid=identity.pid, start_time_ticks=identity.start_time_ticks, role=f"shell of {self.name}"
            )
        return process

    def terminate(self) -> None:
        """Kill the shell, and with it the namespace; twice is fine."""
        if self.shell is not None:
            self._close()

    def _close(self) -> None:
        """Undo as much of ``startShell`` as it has done."""
        shell: subprocess.Popen[bytes] | None = getattr(self, "shell", None)
        if shell is not None:
            if shell.poll() is None:
                # mnexec -d made it the leader of a session and group of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
                # A shell that is killed before mnexec has made the group.
                shell.kill()
            shell.wait(_EXIT_DEADLINE_S)
        terminal = getattr(self, "stdin", None)
        if terminal is not None:
            for mapping in (Node.inToNode, Node.outToNode):
                mapping.pop(terminal.fileno(), None)
            terminal.close()
        elif getattr(self, "master", None) is not None:
            os.close(self.master)
        if getattr(self, "slave", None) is not None:
            os.close(self.slave)
        self.shell = self.stdin = self.stdout = self.master = self.slave = None


class EmulatedHost(_OwnNode, Host):  # type: ignore[misc]
    """A host of the emulated cluster."""


class NamespacedBridge(_OwnNode, Switch):  # type: ignore[misc]
    """A switch: a Linux bridge alone in a namespace."""

    controlIntf = None  # noqa: N815 - Mininet reads it, but sets it for switches in the root namespace only

    def start(self, controllers: list[Any]) -> None:
        """Nothing is left to start: the fabric's commands have made the bridge."""


class QuietInterface(Intf):  # type: ignore[misc]
    """An interface that is configured by the fabric."""

    def config(self, **params: Any) -> dict[str, Any]:
        """Do nothing."""
        return {}


class EmulatedNetwork(Mininet):  # type: ignore[misc]
    """Mininet with nodes and links of a fabric; made empty, filled by :meth:`add`.

    Args:
        manifest: Journal of the run.
    """

    hosts: list[Node]
    switches: list[Node]
    links: list[Link]
    nameToNode: dict[str, Node]  # noqa: N815 - Mininet's name

    def __init__(self, manifest: RunManifest) -> None:
        Mininet.inited = True
        super().__init__(topo=None, build=False, controller=None, host=EmulatedHost, switch=NamespacedBridge, link=Link)
        self._manifest = manifest

    def add_node(self, fabric: Fabric, name: str) -> Node:
        """Start the shell of a host or switch in a new namespace.

        Raises:
            MachineError: If it shares ours, which would set up the run on the machine itself.
        """
        if fabric.is_switch(name):
            number = fabric.network.switches.index(name) + 1
            node = self.addSwitch(name, manifest=self._manifest, inNamespace=True, dpid=f"{number:x}")
        else:
            node = self.addHost(name, manifest=self._manifest, ip=f"{fabric.network.address(name)}/32")
        try:
            own = network_identity(node.pid) != network_identity("self")
        except ProcessLookupError:
            own = False
        if not own:
            raise MachineError(f"{name} has no network namespace of its own", remedy="run as root, with mnexec set up")
        return node

    def add_link(self, first: Endpoint, second: Endpoint) -> None:
        """Make a pair of interfaces, each at once in its node's namespace.

        Raises:
            MachineError: If the kernel refuses.
        """
        try:
            made = self.addLink(
                first.node,
                second.node,
                port1=first.port,
                port2=second.port,
                intfName1=first.interface,
                intfName2=second.interface,
                addr1=first.mac,
                addr2=second.mac,
                intf=QuietInterface,
            )
        except Exception as error:
            # Mininet raises bare exceptions with ip's output as their text.
            raise MachineError(f"can't make the link {first.link}: {error}") from error
        for interface in (made.intf1, made.intf2):
            # The fabric sets it on the interface; Mininet's own commands (ping, CLI) look here.
            interface.ip, _, interface.prefixLen = interface.node.params.get("ip", "").partition("/")

    def stop(self) -> None:
        """End all nodes; twice is fine, also after a failed start."""
        nodes = [*self.switches, *self.hosts]
        for node in nodes:
            node.terminate()
        self.hosts, self.switches, self.links = [], [], []
        self.nameToNode = {}
