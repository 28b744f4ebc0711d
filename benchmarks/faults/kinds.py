"""Every kind of fault, what it may strike, and the entries of the experiment file that do so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.cluster import DISPATCHER, SWITCH, WORKERS

STRIKE_S = 0.8
LASTS_S = 0.8
WITHIN_S = 0.05
"""So long after a fault comes the one that hits its recovery: a crash has been noticed by then, its plan made."""

SILENT_WITHIN_S = 0.35
"""The same for what is only noticed by three missing heartbeats."""

RECORDING = "dip.csv"
RECORDED = "time_s,rate_mbit_s\n0,2\n0.2,0.3\n0.4,0\n0.5,1\n0.6,4\n"
"""A link that all but vanishes for a moment."""

HOST, TWO, BOTTLENECK, DISPATCHERS = "host", "two", "bottleneck", "dispatcher"
LINK, ONE_WAY, MANY = "link", "one-way", "many"
HOSTS = (HOST, TWO, BOTTLENECK, DISPATCHERS)
LINKS = (LINK, ONE_WAY, TWO, BOTTLENECK, DISPATCHERS)

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Struck:
    """What a cell's fault strikes.

    Attributes:
        target: The column of the matrix.
        hosts: Those that it strikes, or at whose links; for ``many`` all hosts of the plan.
        lasts_s: For how long, if it heals.
    """

    target: str
    hosts: tuple[str, ...]
    lasts_s: float = LASTS_S

    @property
    def named(self) -> Any:
        """The hosts as a fault's target; the bottleneck by its own word, which is looked up when it strikes."""
        return BOTTLENECK if self.target == BOTTLENECK else list(self.hosts)

    @property
    def others(self) -> tuple[str, ...]:
        """Hosts that aren't struck."""
        return tuple(host for host in (DISPATCHER, *WORKERS) if host not in self.hosts)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        targets: What it may strike.
        entries: Of the experiment file, for what it strikes.
        takes: Whether the hosts that it strikes never come back.
        slows: Whether it only makes something slow, or adds a host: what an adaptive policy acts on by itself.
    """

    targets: tuple[str, ...]
    entries: Callable[[Struck], list[Entry]]
    takes: bool = False
    slows: bool = False


def _s(value_s: float) -> str:
    return f"{value_s:g}s"


def _at(verb: str, target: Any, at_s: float = STRIKE_S, for_s: float | None = None, **more: Any) -> Entry:
    return {"at": _s(at_s), verb: target, **({} if for_s is None else {"for": _s(for_s)}), **more}


def _of_hosts(verb: str, *, heals: bool = True, **more: Any) -> Callable[[Struck], list[Entry]]:
    return lambda struck: [_at(verb, struck.named, for_s=struck.lasts_s if heals else None, **more)]


def _of_links(*verbs: tuple[str, Mapping[str, Any]]) -> Callable[[Struck], list[Entry]]:
    def entries(struck: Struck) -> list[Entry]:
        return [
            _at(verb, [host, SWITCH], for_s=struck.lasts_s, **more, **_way(struck, host))
            for host in struck.hosts
            for verb, more in verbs
        ]

    return entries


def _way(struck: Struck, host: str) -> Entry:
    return {"from": host} if struck.target == ONE_WAY else {}


def _of_disks(verb: str, *, heals: bool = True, **more: Any) -> Callable[[Struck], list[Entry]]:
    """The disk breaks, then its host's server crashes and needs what is on it."""

    def entries(struck: Struck) -> list[Entry]:
        broken = _at(verb, struck.named, for_s=struck.lasts_s if heals else None, **more)
        return [broken, _at("restart", list(struck.hosts), STRIKE_S + 0.1, 0.1)]

    return entries


def _partition(struck: Struck) -> list[Entry]:
    hosts = struck.hosts
    match struck.target:
        case "link":  # of two hosts that both reach the dispatcher
            groups = [[hosts[0]], [hosts[1]]]
        case "dispatcher":
            groups = [[DISPATCHER, WORKERS[-1]], list(WORKERS[:-1])]
        case _:
            groups = [list(hosts), list(struck.others)]
    return [_at("partition", groups, for_s=struck.lasts_s)]


def _kill_and_throttle(struck: Struck) -> list[Entry]:
    first, second, *_ = struck.hosts
    return [_at("kill", first), _at("throttle", [second, SWITCH], for_s=struck.lasts_s, rate="1Mbit/s")]


def _kill_then_kill(struck: Struck) -> list[Entry]:
    return [_at("kill", host, STRIKE_S + turn * WITHIN_S) for turn, host in enumerate(struck.hosts[:2])]


def _reboot_then_reboot(struck: Struck) -> list[Entry]:
    return [
        _at("reboot", host, STRIKE_S + turn * SILENT_WITHIN_S, struck.lasts_s)
        for turn, host in enumerate(struck.hosts[:2])
    ]


def _restart_then_dispatcher(struck: Struck) -> list[Entry]:
    return [
        _at("restart", struck.hosts[0], for_s=struck.lasts_s),
        _at("restart", DISPATCHER, STRIKE_S + WITHIN_S, 0.2),
    ]


SLOW_LINK = {"rate": "1Mbit/s"}
KINDS: Mapping[str, Kind] = {
    "kill": Kind(HOSTS, _of_hosts("kill", heals=False), takes=True),
    "poweroff": Kind(HOSTS, _of_hosts("poweroff", heals=False), takes=True),
    "restart": Kind(HOSTS, _of_hosts("restart")),
    "reboot": Kind(HOSTS, _of_hosts("reboot")),
    "pause": Kind(HOSTS, _of_hosts("pause")),
    "leave": Kind(HOSTS[:3], _of_hosts("leave", heals=False)),
    "join": Kind(HOSTS[:2], _of_hosts("join", heals=False), slows=True),
    "cpu": Kind(HOSTS, _of_hosts("cpu", share=0.008), slows=True),
    "memory": Kind(HOSTS, _of_hosts("memory", limit="2MiB")),
    "throttle": Kind(LINKS, _of_links(("throttle", SLOW_LINK)), slows=True),
    "delay": Kind(LINKS, _of_links(("delay", {"add": "150ms"})), slows=True),
    "jitter": Kind(LINKS, _of_links(("delay", {"add": "50ms"}), ("jitter", {"add": "20ms"})), slows=True),
    "loss": Kind(LINKS, _of_links(("loss", {"share": "20%"})), slows=True),
    "down": Kind(LINKS, _of_links(("down", {}))),
    "flap": Kind(LINKS, _of_links(("flap", {"period": "300ms", "duty": "50%"}))),
    "trace": Kind(LINKS, _of_links(("trace", {"recording": {"file": RECORDING, "format": "csv"}})), slows=True),
    "partition": Kind((HOST, TWO, BOTTLENECK, LINK, DISPATCHERS), _partition),
    "isolate": Kind(HOSTS, _of_hosts("isolate")),
    "disk-full": Kind(HOSTS, _of_disks("disk-full")),
    "disk-readonly": Kind(HOSTS, _of_disks("disk-readonly")),
    "disk-slow": Kind(HOSTS, _of_disks("disk-slow", rate="16Mbit/s")),
    # Of the cached weights, so not the dispatcher's.
    "disk-corrupt": Kind(HOSTS[:3], _of_disks("disk-corrupt", heals=False)),
    "disk-gone": Kind(HOSTS, _of_disks("disk-gone")),
    # Several at once, and a failure during a recovery.
    "kill+throttle": Kind((MANY,), _kill_and_throttle, takes=True),
    "kill,kill": Kind((MANY,), _kill_then_kill, takes=True),
    "reboot,reboot": Kind((MANY,), _reboot_then_reboot),
    "restart,dispatcher": Kind((MANY,), _restart_then_dispatcher),
    "all-reboot": Kind((MANY,), lambda struck: [_at("reboot", list(WORKERS), for_s=struck.lasts_s)]),
    "all-kill": Kind((MANY,), lambda _: [_at("kill", list(WORKERS))], takes=True),
}
"""By the word that `--only` takes: a verb of the file, or what happens at once (``+``) and in turn (``,``)."""
