"""A switch of Open vSwitch, with the kernel's datapath, alone in a network namespace.

The machine's own service keeps one database and all its bridges in the machine's namespace, where names and routes of
different runs would meet. A switch here has a database and a daemon of its own, both in the switch's namespace, their
files in the run's directory. So the machine's service is neither needed nor touched, and when the two processes and the
namespace end, nothing is left.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from testbed.emulation import namespace
from testbed.emulation.manifest import RunManifest
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import MachineError

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_ANSWER_DEADLINE_S = 15
_EXIT_DEADLINE_S = 5.0
# Seconds; longer than any run: a switch that forgot a silent host would flood all links for it.
_AGEING = 1_000_000
_REMEDY = "apt-get install openvswitch-switch, on a kernel with CONFIG_OPENVSWITCH; or leave out `switching: ovs`"


class OpenVSwitch:
    """The two daemons of one switch. Start it in a thread that lives as long as the run: they end with that.

    Args:
        name: Name of the switch.
        pid: A process whose network namespace is the switch's.
        manifest: Journal of the run; the switch's files lie beside it.
        on_death: Called from another thread, with a sentence, if a daemon ends unasked.
    """

    def __init__(self, name: str, pid: int, manifest: RunManifest, on_death: Callable[[str], None]) -> None:
        self.name = name
        self._pid = pid
        self._manifest = manifest
        self._on_death = on_death
        self._directory = manifest.directory / f"openvswitch-{name}"
        self._stopping = threading.Event()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []

    def start(self, bridge: str, mac: str, ports: Sequence[str]) -> None:
        """Start the daemons and make the bridge; it learns addresses like any switch.

        Args:
            bridge: Name of the bridge, and of its own interface in the namespace.
            mac: Hardware address of that interface.
            ports: Interfaces of the namespace that it joins.

        Raises:
            MachineError: If Open vSwitch isn't installed, or the kernel hasn't its datapath.
        """
        self._directory.mkdir(mode=0o700)
        database = self._directory / "conf.db"
        namespace.run(self._pid, ["ovsdb-tool", "create", str(database), str(SCHEMA)])
        self._launch("ovsdb-server", str(database), f"--remote=p{self._remote}")
        self._ask("--no-wait", "init")
        self._launch("ovs-vswitchd", self._remote)
        make = ["add-br", bridge, "--", "set", "bridge", bridge, "fail_mode=standalone"]
        make += [f"other-config:hwaddr={mac}", f"other-config:mac-aging-time={_AGEING}"]
        for port in ports:
            make += ["--", "add-port", bridge, port]
        self._ask(*make)
        self._read_back([bridge, *ports])

    def stop(self) -> None:
        """End the daemons; twice is fine."""
        self._stopping.set()
        for daemon in reversed(self._daemons):
            daemon.kill()
        for watcher in self._watchers:
            watcher.join(_EXIT_DEADLINE_S)
        self._daemons, self._watchers = [], []

    @property
    def _remote(self) -> str:
        return f"unix:{self._directory / 'db.sock'}"

    @property
    def _environment(self) -> Mapping[str, str]:
        places = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        return {**os.environ, **dict.fromkeys(places, str(self._directory))}

    def _launch(self, program: str, *arguments: str) -> None:
        # The kernel ends it with us; a line in the journal is for the time in which it may outlive us nevertheless.
        argv = ["setpriv", "--pdeathsig", "KILL", program, *arguments, "-vconsole:warn", "-vsyslog:off", "-vfile:off"]
        argv.append(f"--unixctl={self._directory / program}.ctl")
        try:
            with namespace.entered(self._pid), self._log(program).open("wb") as log:
                daemon = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=self._environment,
                )
        except FileNotFoundError as error:
            raise MachineError(f"the command {argv[0]} is missing", remedy="apt-get install util-linux") from error
        self._daemons.append(daemon)
        watcher = threading.Thread(target=self._watch, args=(program, daemon), name=f"{program} of {self.name}")
        watcher.daemon = True
        watcher.start()
        self._watchers.append(watcher)
        identity = ProcessIdentity.of(daemon.pid)
        self._manifest.will_create(
            "process",
            pid=identity.pid,
            start_time_ticks=identity.start_time_ticks,
            role=f"{program} of {self.name}",
        )

    def _log(self, program: str) -> Path:
        return self._directory / f"{program}.log"

    def _watch(self, program: str, daemon: subprocess.Popen[bytes]) -> None:
        status = daemon.wait()
        if not self._stopping.is_set():
            self._on_death(f"{program} of the switch {self.name} ended with status {status}")

    def _ask(self, *command: str) -> str:
        """Run one command of ``ovs-vsctl``; it waits for the daemon to do what it says."""
        argv = ["ovs-vsctl", f"--db={self._remote}", "--retry", f"--timeout={_ANSWER_DEADLINE_S}", *command]
        try:
            return namespace.run(self._pid, argv)
        except MachineError as error:
            raise MachineError(f"switch {self.name}: {error.message}{self._complaint()}", remedy=_REMEDY) from error

    def _read_back(self, interfaces: Sequence[str]) -> None:
        """Every interface needs a number in the datapath; ovs-vsctl succeeds also where the kernel has none."""
        questions: list[str] = []
        for interface in interfaces:
            questions += ["--", "get", "Interface", interface, "ofport"]
        numbers = self._ask(*questions[1:]).split()
        absent = [name for name, number in zip(interfaces, numbers, strict=True) if not number.isdecimal()]
        if absent:
            raise MachineError(
                f"switch {self.name}: Open vSwitch hasn't taken {', '.join(absent)}{self._complaint()}", remedy=_REMEDY
            )

    def _complaint(self) -> str:
        lines = [
            line
            for program in ("ovsdb-server", "ovs-vswitchd")
            if self._log(program).exists()
            for line in self._log(program).read_text(errors="replace").splitlines()
        ]
        return f" ({lines[-1]})" if lines else ""
