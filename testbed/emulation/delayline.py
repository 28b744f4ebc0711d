"""The delay line: one process that holds the packets of all links for their delay, and loses some at random.

``python -m testbed.emulation.delayline FD`` serves a control socket (``AF_UNIX``, ``SOCK_SEQPACKET``, one JSON object
a message, each answered in order) and ends when the other end of it closes or its parent dies:

=================================================================== ================================================
request                                                             effect
=================================================================== ================================================
``{"do": "bind", "place", "pid", "queues": [QUEUE …]}``              open a socket in the namespace of a process and
                                                                    take queues there
``{"do": "change", "place", "queues": [QUEUE …]}``                   take further queues, or set those it has anew
``{"do": "statistics", "clear": bool}``                              lateness of all releases; counts of each queue
=================================================================== ================================================

A QUEUE is ``{"number", "impairment", "seed"}``, see :class:`testbed.emulation.impairment.Impairment`. The answer is
``{"ok": true, …}`` with the queues as they are now, or ``{"ok": false, "error"}``.

A sleeping process is woken some 50 µs after the event, at a packet's arrival as at its release. The delay line measures
the second, takes the first to be as long, and aims that much earlier: its errors are about zero and not all late.
"""

from __future__ import annotations

import gc
import heapq
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testbed.emulation import nfqueue
from testbed.emulation.held_queue import HeldQueue
from testbed.emulation.impairment import Impairment
from testbed.emulation.lateness import LatenessHistogram
from testbed.emulation.namespace import entered
from testbed.emulation.netlink import error_number, messages
from testbed.emulation.syscalls import signal_on_parent_death
from testbed.emulation.timer import Timer, allow_no_timer_slack

_MAX_PACKETS = 1 << 20
_RECEIVE_BUFFER_BYTES = 64 << 20
_DATAGRAM_BYTES = 1 << 16
_READS_PER_TURN = 64
_ANSWER_DEADLINE_S = 5.0
_PRIORITY = 10
_LONGEST_USUAL_LAG_S = 200e-6
_FIRST_LAG_S = 60e-6
_LAG_WEIGHT = 1 / 16

_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5


class Channel:
    """The socket of one namespace, with the queues bound to it.

    Args:
        pid: A process in the namespace.
    """

    def __init__(self, pid: int) -> None:
        self.queues: dict[int, HeldQueue] = {}
        self._sequence = 1
        self._pid = pid
        with entered(pid):
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nfqueue.NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self.socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        self.socket.setblocking(False)
        self._arrived: list[tuple[float, int, int]] = []

    def set(self, settings: Mapping[str, Any]) -> HeldQueue:
        """Bind a queue, or change one that is bound.

        Raises:
            OSError: If the kernel refuses.
        """
        number, impairment = int(settings["number"]), Impairment.from_json(settings["impairment"])
        queue = self.queues.get(number)
        if queue is None:
            queue = HeldQueue(self.socket, number, impairment, int(settings["seed"]))
            for request in nfqueue.configuration(
                number, max_packets=_MAX_PACKETS, whole_segments=not impairment.is_drawn, sequence=self._sequence
            ):
                self._ask(request)
            self.queues[number] = queue
        else:
            self._ask(nfqueue.segmentation(number, not impairment.is_drawn, self._sequence))
            queue.set(impairment)
        return queue

    def _ask(self, request: bytes) -> None:
        """Send a request and wait for its acknowledgement; packets that come meanwhile are kept for :meth:`read`."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        self.socket.send(request)
        deadline_s = time.monotonic() + _ANSWER_DEADLINE_S
        while time.monotonic() < deadline_s:
            if not select.select([self.socket], [], [], _ANSWER_DEADLINE_S)[0]:
                break
            datagram = self.socket.recv(_DATAGRAM_BYTES)
            now_s = time.monotonic()
            self._arrived += [(now_s, *packet) for packet in nfqueue.packets(datagram, len(datagram))]
            for kind, number, body in messages(datagram):
                if kind == nfqueue.ERROR and number == sequence:
                    refused = error_number(body)
                    if refused:
                        raise OSError(refused, os.strerror(refused))
                    return
        raise TimeoutError("the kernel didn't answer on the queue's socket")

    def read(self, buffer: bytearray, lag_s: float, woken: Callable[[HeldQueue], None]) -> None:
        """Take the packets that have come; ``woken`` is told of queues whose first packet is due earlier than before.

        Args:
            buffer: Room for a datagram.
            lag_s: How long ago a packet came that is seen now.
            woken: Called with a queue.
        """
        for _ in range(_READS_PER_TURN):
            if self._arrived:
                arrived, self._arrived = self._arrived, []
            else:
                try:
                    length = self.socket.recv_into(buffer)
                except BlockingIOError:
                    return
                now_s = time.monotonic()
                arrived = [(now_s, *packet) for packet in nfqueue.packets(buffer, length)]
            for came_s, number, packet in arrived:
                queue = self.queues[number]
                was_due_s = queue.next_due_s if queue else math.inf
                queue.take(came_s - lag_s, packet)
                if queue and queue.next_due_s < was_due_s:
                    woken(queue)

    def kernel_drops(self) -> int:
        """Packets that the kernel dropped because a queue or the socket was full (both should never be)."""
        with entered(self._pid):
            lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
        # Columns: queue, port, waiting, copy mode, copy range, dropped by the queue, dropped by the socket, …
        return sum(int(field) for line in lines for field in line.split()[5:7])


class DelayLine:
    """The event loop.

    Args:
        control: The control socket.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._channels: dict[str, Channel] = {}
        self._by_descriptor: dict[int, Channel] = {}
        self._lateness = LatenessHistogram()
        # The first packet of each queue that holds any: (due, tie-break, queue); and some that are first no more.
        self._due: list[tuple[float, int, HeldQueue]] = []
        self._ties = 0
        self._armed_s = 0.0
        self._lag_s = _FIRST_LAG_S
        self._timer = Timer()
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)
        self._epoll.register(self._timer, select.EPOLLIN)

    def _expect(self, queue: HeldQueue) -> None:
        self._ties += 1
        heapq.heappush(self._due, (queue.next_due_s, self._ties, queue))

    def _release(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] - self._lag_s <= now_s:
            due_s, _, queue = heapq.heappop(self._due)
            if not queue or queue.next_due_s != due_s:
                continue  # another packet has come before it, or all went with one that did
            queue.release(now_s, self._lag_s, self._lateness)
            if queue:
                self._expect(queue)

    def _arm(self) -> None:
        next_s = self._due[0][0] - self._lag_s if self._due else 0.0
        if next_s == self._armed_s:
            return
        self._armed_s = next_s
        self._timer.arm(next_s)

    def _learn(self, lag_s: float) -> None:
        """Take another wake-up into the usual lag; rare long ones are the machine's fault and can't be foreseen."""
        self._lag_s += (min(lag_s, _LONGEST_USUAL_LAG_S) - self._lag_s) * _LAG_WEIGHT

    def serve(self) -> None:
        """Hold and release until the control socket closes."""
        buffer = bytearray(_DATAGRAM_BYTES)
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._timer.fileno():
                    self._learn(time.monotonic() - self._armed_s)
                    self._timer.acknowledge()
                    self._armed_s = 0.0
                elif descriptor == self._control.fileno():
                    if not self._answer():
                        return
                    # Packets that came while a queue was set were put aside; their socket may stay quiet now.
                    for channel in self._channels.values():
                        channel.read(buffer, self._lag_s, self._expect)
                else:
                    self._by_descriptor[descriptor].read(buffer, self._lag_s, self._expect)
                self._release()
            self._arm()

    def _answer(self) -> bool:
        request = self._control.recv(1 << 20)
        if not request:
            return False
        try:
            answer = {"ok": True, **self._do(json.loads(request))}
        except Exception as error:
            # The caller is told, and raises; the packets of the other links go on meanwhile.
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        try:
            self._control.send(json.dumps(answer).encode())
        except BrokenPipeError:
            return False
        return True

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "bind":
                channel = Channel(int(request["pid"]))
                self._channels[request["place"]] = channel
                self._by_descriptor[channel.socket.fileno()] = channel
                self._epoll.register(channel.socket, select.EPOLLIN)
                return {"queues": [channel.set(settings).state() for settings in request["queues"]]}
            case "change":
                channel = self._channels[request["place"]]
                return {"queues": [channel.set(settings).state() for settings in request["queues"]]}
            case "statistics":
                answer = {
                    "lateness": self._lateness.summary().to_json(),
                    "cpu_s": time.process_time(),
                    "kernel_drops": sum(channel.kernel_drops() for channel in self._channels.values()),
                    "places": {
                        place: [queue.state() for queue in channel.queues.values()]
                        for place, channel in self._channels.items()
                    },
                }
                if request["clear"]:
                    self._lateness.clear()
                return answer
            case other:
                raise ValueError(f"unknown request {other!r}")


def _take_priority() -> str:
    """Run before other processes: a late release is an error of the link. Says which way was allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return "nice"
    return "fifo"


def main() -> None:
    """Serve the control socket whose descriptor is the first argument; says hello with how it is scheduled."""
    signal_on_parent_death(signal.SIGKILL)
    allow_no_timer_slack()
    # Ctrl-C is for the runner, which needs the links while it winds down; it closes the control socket at the end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        line = DelayLine(control)
        scheduling = _take_priority()
        gc.freeze()
        gc.disable()
        # The other end may be closed already, when the start has failed for another reason.
        try:
            control.send(json.dumps({"ok": True, "scheduling": scheduling}).encode())
        except BrokenPipeError:
            return
        line.serve()


if __name__ == "__main__":
    main()
