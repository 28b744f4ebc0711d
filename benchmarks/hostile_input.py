"""Does the system keep serving while strangers and mad peers send it rubbish?

A whole model on one node and a dispatcher, on loopback, in processes of their own; a client asks all the time. To both
ports come broken frames (random bytes, flipped bits, truncated, oversized, of unknown kinds, with metas of wrong types
…), one connection each: from strangers without the run's token, and from peers that hold it. Then more connections than
a listener greets at a time, which are opened and held, slow ones that send a byte now and then, and rubbish to the port
of the heartbeats.

    python -m benchmarks.hostile_input [--frames 100000] [--quick] [--csv FILE]

A row is an attack: frames, connections that were not dropped, then of the attacked process its memory, threads and
descriptors before and after; lines that it wrote; and of the service, answers that were right and all others meanwhile.
Exits with 1 if a bar is broken: every connection dropped, nothing but right answers, no host lost, memory within
16 MiB, no thread or descriptor more than before, at most five lines a second, no traceback in any log.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ending import ended
from benchmarks.footprints import Footprint
from benchmarks.hostile_frames import (
    Mutator,
    attack_as_insider,
    attack_as_stranger,
    attack_with_datagrams,
)
from benchmarks.loopback import Service, serving
from testbed.serving.events import HostLost, Note, RequestCompleted
from testbed.serving.patience import PATIENCE

MODEL = "squeezenet1_1"
MEMORY_BAR_BYTES = 16 << 20
LINES_BAR_PER_S = 5
SETTLE_S = 20.0
HELD = 400
"""Connections that are opened and held, six times the places in a listener's lobby."""


@dataclass(frozen=True, slots=True)
class Row:
    """An attack and what it did."""

    attack: str
    target: str
    frames: int
    undropped: int
    seconds: float
    memory_before_mib: float
    memory_after_mib: float
    threads_before: int
    threads_after: int
    descriptors_before: int
    descriptors_after: int
    lines: int
    answers_right: int
    answers_other: int
    hosts_lost: int

    @property
    def ok(self) -> bool:
        """Whether it is within the bars."""
        return (
            self.undropped == 0
            and self.memory_after_mib - self.memory_before_mib <= MEMORY_BAR_BYTES / (1 << 20)
            and self.threads_after <= self.threads_before
            and self.descriptors_after <= self.descriptors_before
            and self.lines <= LINES_BAR_PER_S * (self.seconds + 5)
            and self.answers_right > 0
            and self.answers_other == 0
            and self.hosts_lost == 0
        )


def settled(pid: int, before: Footprint) -> Footprint:
    """The footprint once threads and descriptors are what they were, or after the time for that."""
    deadline_s = time.monotonic() + SETTLE_S
    waiting = threading.Event()
    while True:
        now = Footprint.of(pid)
        if now.threads <= before.threads and now.descriptors <= before.descriptors:
            return now
        if time.monotonic() > deadline_s:
            return now
        waiting.wait(0.05)


def measured(service: Service, attack: str, target: str, frames: int, work: Callable[[], int]) -> Row:
    """Do it and look at what it did; ``work`` returns how many connections were not dropped."""
    pid = service.processes[target].pid
    before, start, start_s = Footprint.of(pid), len(service.history.events), time.monotonic()
    undropped = work()
    after, seconds = settled(pid, before), time.monotonic() - start_s
    # At least one answer must come after it all.
    answered = len([event for event in service.history.events if isinstance(event, RequestCompleted)])
    service.watch.wait(lambda event: isinstance(event, RequestCompleted), answered + 1, SETTLE_S, "another answer")
    events = service.history.events[start:]
    answers = [event.outcome for event in events if isinstance(event, RequestCompleted)]
    return Row(
        attack=attack,
        target=target,
        frames=frames,
        undropped=undropped,
        seconds=seconds,
        memory_before_mib=before.memory_bytes / (1 << 20),
        memory_after_mib=after.memory_bytes / (1 << 20),
        threads_before=before.threads,
        threads_after=after.threads,
        descriptors_before=before.descriptors,
        descriptors_after=after.descriptors,
        lines=sum(isinstance(event, Note) for event in events),
        answers_right=answers.count("ok"),
        answers_other=len(answers) - answers.count("ok"),
        hosts_lost=sum(isinstance(event, HostLost) for event in events),
    )


def many(count: int, attack: Callable[[bytes], bool], mutator: Mutator) -> int:
    """Attack with so many broken frames, a few at a time; returns how many connections weren't dropped."""
    with ThreadPoolExecutor(4) as pool:
        return sum(not dropped for dropped in pool.map(attack, (mutator.broken().data for _ in range(count))))


def hold(address: tuple[str, int]) -> int:
    """Open more connections than can be greeted at a time, send a byte now and then; returns those never dropped."""
    held = [socket.create_connection(address, timeout=SETTLE_S) for _ in range(HELD)]
    deadline_s = time.monotonic() + PATIENCE.greeting_s + SETTLE_S
    waiting = threading.Event()
    while held and time.monotonic() < deadline_s:
        for connection in list(held):
            try:
                connection.setblocking(False)
                connection.send(b"E")
                while connection.recv(4096):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            connection.close()
            held.remove(connection)
        waiting.wait(0.2)
    for connection in held:
        connection.close()
    return len(held)


def attacks(service: Service, frames: int, seed: int) -> Iterator[Row]:
    """Each attack on each port, so that there are so many broken frames in all."""
    mutator = Mutator(seed)
    share = frames // 6
    node, dispatcher = service.addresses["node"], service.addresses["dispatcher"]
    for target, address in (("node", node), ("dispatcher", dispatcher)):
        yield measured(
            service,
            "strangers",
            target,
            2 * share,
            lambda: many(2 * share, lambda data: attack_as_stranger(address, data), mutator),  # noqa: B023
        )
    for target, address, roles in (("node", node, ("data",)), ("dispatcher", dispatcher, ("data", "client"))):
        for role in roles:
            count = share // len(roles)

            def attack(data: bytes) -> bool:
                return attack_as_insider(address, service.token, role, data)  # noqa: B023

            yield measured(service, f"mad {role} peers", target, count, lambda: many(count, attack, mutator))  # noqa: B023
    for target, address in (("node", node), ("dispatcher", dispatcher)):
        yield measured(service, "held and slow", target, HELD, lambda: hold(address))  # noqa: B023
    count = 2 * share

    def datagrams() -> int:
        attack_with_datagrams(dispatcher, count, mutator)
        return 0

    yield measured(service, "datagrams", "dispatcher", count, datagrams)


def main() -> int:
    """Attack, print a table; 1 if a bar is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="broken frames over TCP (default: 100000)")
    parser.add_argument("--quick", action="store_true", help="3000 frames")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("hostile_input.csv"))
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'attack':<17}{'target':<12}{'frames':>8}{'undropped':>10}{'s':>7}{'MiB before':>11}{'after':>7}"
        f"{'threads':>8}{'after':>6}{'fds':>5}{'after':>6}{'lines':>6}{'right':>7}{'other':>6}{'lost':>5}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(MODEL, folder) as service:
            service.start_client(24 * 3600.0)
            service.watch.wait(lambda event: isinstance(event, RequestCompleted), 20, 60, "the first answers")
            for row in attacks(service, 3_000 if arguments.quick else arguments.frames, arguments.seed):
                rows.append(row)
                print(
                    f"{row.attack:<17}{row.target:<12}{row.frames:>8}{row.undropped:>10}{row.seconds:>7.1f}"
                    f"{row.memory_before_mib:>11.1f}{row.memory_after_mib:>7.1f}{row.threads_before:>8}"
                    f"{row.threads_after:>6}{row.descriptors_before:>5}{row.descriptors_after:>6}{row.lines:>6}"
                    f"{row.answers_right:>7}{row.answers_other:>6}{row.hosts_lost:>5}{'' if row.ok else '  OVER'}",
                    flush=True,
                )
        tracebacks = [path.name for path in folder.glob("*.log") if "Traceback" in path.read_text(errors="replace")]
    for log in tracebacks:
        print(f"{log} has a traceback")
    with arguments.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(field.name for field in dataclasses.fields(Row)), "ok"])
        writer.writerows([*dataclasses.astuple(row), row.ok] for row in rows)
    return int(bool(tracebacks) or not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(ended(main))
