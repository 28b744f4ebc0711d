"""The emulated cluster: Mininet hosts and switches in namespaces of their own, joined by shaped links.

Nothing of it is in the machine's own network namespace, neither an interface nor a rule: it all ends with the processes
that hold the namespaces. What was set is read back; what the machine can't do is a MachineError, never a link that runs
unshaped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from testbed.emulation import namespace
from testbed.emulation.backends import check_mnexec, choose_netem
from testbed.emulation.connections import forget_connections
from testbed.emulation.cuts import Cuts
from testbed.emulation.delay_service import DelayService, DelayStatistics
from testbed.emulation.directions import LinkCounters
from testbed.emulation.fabric import Fabric
from testbed.emulation.impairment import Bursts
from testbed.emulation.links import NEEDS_NETEM, LinkControl
from testbed.emulation.manifest import RunManifest
from testbed.emulation.openvswitch import OpenVSwitch
from testbed.emulation.overlay import Modification, overlaid
from testbed.emulation.shaping import Shape, offload_segments
from testbed.errors import MachineError
from testbed.spec.experiment import Switching
from testbed.spec.hosts import HostSpec
from testbed.spec.network import Network

if TYPE_CHECKING:
    from testbed.emulation.mininet_nodes import EmulatedNetwork

Backend = Literal["netem", "delayline", "none"]


class _Unchanged:
    """Stands for a setting that stays; None means unshaped."""


UNCHANGED: Final = _Unchanged()


class Cluster:
    """A context manager: started when entered, stopped when left.

    Args:
        network: Hosts, switches and links.
        hosts: Their specs; the cluster only checks that they are the network's. CPU and memory are cgroups' business.
        run_name: Name of the run.
        manifest: Its journal.
        delay_backend: Who delays and loses packets; ``auto`` takes netem where the kernel has it.
        seed: Of the delay line's random losses.
        on_failure: Called from another thread, with a sentence, when the emulation breaks during the run.
        switching: What the switches are.
        foreseen: What faults will do to links; so the machine is asked for it before the run, not during it.
    """

    def __init__(
        self,
        network: Network,
        hosts: Mapping[str, HostSpec],
        run_name: str,
        manifest: RunManifest,
        delay_backend: Literal["auto", "netem", "delayline"] = "auto",
        *,
        seed: int = 0,
        on_failure: Callable[[str], None] | None = None,
        switching: Switching = "bridge",
        foreseen: Iterable[Modification] = (),
    ) -> None:
        if set(hosts) != set(network.hosts):
            raise ValueError("the host specs are not those of the network")
        self.network = network
        self.run_name = run_name
        self._manifest = manifest
        self._wanted_backend = delay_backend
        self._seed = seed
        self._on_failure = on_failure
        self._switching = switching
        # Only what happens to packets on their way: queues are made for the declared rates.
        self._foreseen = tuple(dataclasses.replace(overlaid(Shape(), [one]), rate_bps=None) for one in foreseen)
        self._cuts: Cuts | None = None
        self._switches: list[OpenVSwitch] = []
        self._failure: str | None = None
        self._mininet: EmulatedNetwork | None = None
        self._delay_service: DelayService | None = None
        self._links: LinkControl | None = None
        self._netem = False
        self._is_impaired = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make everything; a failure leaves nothing behind. Does nothing when it is started already.

        Raises:
            MachineError: If the machine can't do it, or does it otherwise than asked; names the link.
        """
        if self._links is not None:
            return
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        # Imported late: specs are validated and plans made on machines without Mininet.
        from testbed.emulation.mininet_nodes import EmulatedNetwork

        self._failure = None
        declared = [Shape.of(link.way(source)) for link in self.network.links for source in link.between]
        shapes = [*declared, *self._foreseen]
        self._is_impaired = any(shape.is_impaired for shape in shapes)
        check_mnexec()
        self._netem = choose_netem(self._wanted_backend, needed=self._is_impaired)
        if not self._netem and any(shape.duplicate for shape in shapes):
            raise MachineError("a link doubles packets, which the delay line can't do", remedy=NEEDS_NETEM)
        if self._is_impaired and not self._netem:
            # It comes up while the namespaces are made.
            self._launch_delay_service()
        segments = offload_segments(shapes, with_netem=self._netem)
        fabric = Fabric(self.network, segments=segments, switching=self._switching)
        self._mininet = EmulatedNetwork(self._manifest)
        for name in fabric.nodes:
            self._mininet.add_node(fabric, name)
        pids = {name: self._pid(name) for name in fabric.nodes}
        for name, pid in pids.items():
            namespace.set_sysctls(pid, fabric.sysctls(name))
        for switch in self.network.switches if self._switching == "bridge" else ():
            namespace.run_batch(pids[switch], "ip", [fabric.bridge_command(switch)])
        for link in self.network.links:
            first, second = (fabric.endpoint(link.name, node) for node in link.between)
            self._mininet.add_link(first, second)
        for switch in self.network.switches if self._switching == "ovs" else ():
            self._start_open_vswitch(fabric, switch, pids[switch])
        for name, pid in pids.items():
            namespace.run_batch(pid, "ip", fabric.commands(name))
        links = LinkControl(
            fabric,
            pids,
            segments=segments,
            delay_service=None if self._netem else self._ready_delay_service,
            seed=self._seed,
        )
        self._links = links
        links.start()

    def stop(self) -> None:
        """End everything; twice is fine, also after a failed start.

        Sockets and processes that others have put into a host's namespace keep that alive until they end too.
        """
        # The delay line first: its sockets hold the namespaces, and it must not mistake their end for a failure.
        if self._delay_service is not None:
            self._delay_service.stop()
            self._delay_service = None
        self._cuts = None
        if self._links is not None:
            self._links.close()
            self._links = None
        for switch in self._switches:
            switch.stop()
        self._switches = []
        if self._mininet is not None:
            self._mininet.stop()
            self._mininet = None

    @property
    def backend(self) -> Backend:
        """Who delays and loses packets; ``none`` as long as no link does."""
        if self._netem:
            return "netem" if self._is_impaired else "none"
        return "none" if self._delay_service is None else "delayline"

    @property
    def failure(self) -> str | None:
        """What has broken since the start, as a sentence; None while all is well."""
        return self._failure

    @property
    def mininet(self) -> EmulatedNetwork:
        """The Mininet object, such as for its command line.

        Raises:
            MachineError: If the cluster isn't running.
        """
        if self._mininet is None:
            raise MachineError("the emulated cluster isn't running")
        return self._mininet

    def host_pid(self, host: str) -> int:
        """A process whose namespaces are the host's.

        Raises:
            KeyError: If there is no such host.
            MachineError: If the cluster isn't running.
        """
        if host not in self.network.hosts:
            raise KeyError(host)
        return self._pid(host)

    def switch_pid(self, switch: str) -> int:
        """A process whose network namespace is the switch's; as :meth:`host_pid`."""
        if switch not in self.network.switches:
            raise KeyError(switch)
        return self._pid(switch)

    def node_pid(self, node: str) -> int:
        """That of a host or a switch."""
        return self.switch_pid(node) if node in self.network.switches else self.host_pid(node)

    def probe_address(self, node: str) -> str:
        """The address by which a host or switch is reached from the other end of any of its links."""
        return self._running().fabric.probe_address(node)

    def set_link(
        self,
        link: str,
        *,
        rate_bps: int | _Unchanged | None = UNCHANGED,
        delay_s: float | _Unchanged = UNCHANGED,
        loss: float | Bursts | _Unchanged = UNCHANGED,
        jitter_s: float | _Unchanged = UNCHANGED,
        up: bool | _Unchanged = UNCHANGED,
        source: str | None = None,
    ) -> None:
        """Change a link in place and read it back; what is left out stays, and so do faults in force on it.

        Args:
            link: Its name.
            rate_bps: None for unshaped.
            delay_s: One way.
            loss: Share of packets, 0..1, or a model of bursts.
            jitter_s: By how much the delay scatters.
            up: Whether anything passes; False loses what is sent from now on, silently.
            source: The end that sends in the direction to change; None for both directions.

        Raises:
            KeyError: If there is no such link, or `source` is at neither end.
            MachineError: If the cluster isn't running, or the kernel does something else.
            ValueError: If the jitter would be more than the delay.
        """
        wanted = {"rate_bps": rate_bps, "delay_s": delay_s, "loss": loss, "jitter_s": jitter_s, "up": up}
        settings: dict[str, Any] = {key: value for key, value in wanted.items() if not isinstance(value, _Unchanged)}

        def changed(shape: Shape) -> Shape:
            after = dataclasses.replace(shape, **settings)
            if after.jitter_s > after.delay_s:
                raise ValueError(f"a jitter of {after.jitter_s} s is more than the delay of {after.delay_s} s")
            return after

        self._running().set(link, changed, source)

    def modify_links(
        self, ways: Iterable[tuple[str, str]], fault: Hashable, modification: Modification | None
    ) -> tuple[Shape, ...]:
        """Lay a fault over directions of links, change it, or take it away; it composes with what else is set.

        Args:
            ways: Name of a link and the end that sends, for each direction.
            fault: What tells this fault from others.
            modification: What it does; None takes it away.

        Returns:
            What is in force then on each direction, as read back.

        Raises:
            KeyError: If there is no such link, or it doesn't end there.
            MachineError: If the cluster isn't running, or the kernel does something else.
        """
        return self._running().modify(ways, fault, modification)

    def cut_hosts(self, fault: Hashable, pairs: Iterable[tuple[str, str]]) -> None:
        """Let no packet of either host of a pair reach the other, or, without pairs, take that fault away.

        Args:
            fault: What tells this fault from others; pairs that several cut stay cut until all are taken away.
            pairs: Of hosts.

        Raises:
            KeyError: If there is no such host.
            MachineError: If the cluster isn't running, or the kernel does something else.
        """
        self._running()
        if self._cuts is None:
            pids = {host: self.host_pid(host) for host in self.network.hosts}
            self._cuts = Cuts({host: (pid, self.network.address(host)) for host, pid in pids.items()})
        self._cuts.set(fault, pairs)

    def restore_link(self, link: str) -> None:
        """Bring both directions of a link back to what the spec declares, faults aside; as :meth:`set_link`."""
        self._running().restore(link)

    def declared_shape(self, link: str, source: str) -> Shape:
        """What the spec declares for the direction of a link that leaves `source`."""
        return self._running().declared(link, source)

    def current_shape(self, link: str, source: str) -> Shape:
        """What is set now on the direction of a link that leaves `source`."""
        return self._running().current(link, source)

    def disconnect_host(self, host: str) -> None:
        """Cut a host off all its links, silently, as a power cut does: nobody is told, what it still sends is lost.

        Raises:
            KeyError: If there is no such host.
            MachineError: If the cluster isn't running, or the kernel refuses.
        """
        self._set_host_up(host, False)

    def reconnect_host(self, host: str) -> None:
        """Undo :meth:`disconnect_host`."""
        self._set_host_up(host, True)

    def forget_connections(self, host: str) -> None:
        """End a disconnected host's TCP connections at its end, so that no peer ever hears of them again.

        Raises:
            KeyError: If there is no such host.
            MachineError: If the cluster isn't running, or the kernel can't.
        """
        forget_connections(self.host_pid(host), self.network.address(host))

    def link_counters(self) -> list[LinkCounters]:
        """Counters of every direction of every link.

        Raises:
            MachineError: If the cluster isn't running.
        """
        return self._running().counters()

    def delayline_lateness(self, clear: bool = False) -> DelayStatistics | None:
        """How late the delay line was; None without one.

        Args:
            clear: Start afresh afterwards, such as when the workload begins.

        Raises:
            MachineError: If it has died.
        """
        return None if self._delay_service is None else self._delay_service.statistics(clear)

    def _set_host_up(self, host: str, up: bool) -> None:
        if host not in self.network.hosts:
            raise KeyError(host)
        self._running().set_host_up(host, up)

    def _running(self) -> LinkControl:
        if self._links is None:
            raise MachineError("the emulated cluster isn't running")
        return self._links

    def _pid(self, node: str) -> int:
        return int(self.mininet[node].pid)

    def _start_open_vswitch(self, fabric: Fabric, switch: str, pid: int) -> None:
        if self._is_impaired and not self._netem:
            raise MachineError(
                "the delay line can't delay what passes an Open vSwitch, which bypasses iptables",
                remedy="use a kernel with netem (modprobe sch_netem), or leave out `switching: ovs`",
            )
        made = OpenVSwitch(switch, pid, self._manifest, self._fail)
        self._switches.append(made)
        ports = [endpoint.interface for endpoint in fabric.endpoints_of(switch)]
        made.start(fabric.bridge(switch), fabric.bridge_mac(switch), ports)

    def _launch_delay_service(self) -> DelayService:
        self._delay_service = DelayService(self._manifest, self._fail)
        self._delay_service.start()
        return self._delay_service

    def _ready_delay_service(self) -> DelayService:
        service = self._delay_service or self._launch_delay_service()
        service.ready()
        return service

    def _fail(self, reason: str) -> None:
        self._failure = reason
        if self._on_failure is not None:
            self._on_failure(reason)
