"""One TCP flow between two network namespaces, in a process of its own: ``python -m benchmarks.tcp_flow '{…}'``.

The argument is a JSON object: ``pids`` of a process at each end, ``addresses``, ``cgroups`` (files to write the own pid
into), ``warm_up_s`` and ``duration_s``. The answer, on standard output, is the goodput in bit/s: what the receiving
program has read per second after the warm-up.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from testbed.emulation.namespace import entered

_PIECE_BYTES = 1 << 18
_DEADLINE_S = 30.0


def main() -> None:
    """Run the flow that the first argument asks for."""
    request = json.loads(sys.argv[1])
    for path in request["cgroups"]:
        Path(path).write_text(str(os.getpid()))
    with entered(request["pids"][1]):
        listener = socket.create_server((request["addresses"][1], 0))
    with entered(request["pids"][0]):
        sender = socket.create_connection(listener.getsockname(), timeout=_DEADLINE_S)
    receiver, _ = listener.accept()
    receiver.settimeout(_DEADLINE_S)
    done = threading.Event()

    def send() -> None:
        piece = bytes(_PIECE_BYTES)
        try:
            while not done.is_set():
                sender.send(piece)
        except OSError:
            if not done.is_set():
                raise

    thread = threading.Thread(target=send)
    thread.start()
    sink = bytearray(_PIECE_BYTES)
    begin_s = time.monotonic() + request["warm_up_s"]
    while time.monotonic() < begin_s:
        receiver.recv_into(sink)
    first_s = last_s = time.monotonic()
    received = 0
    while last_s < first_s + request["duration_s"]:
        received += receiver.recv_into(sink)
        last_s = time.monotonic()
    done.set()
    receiver.close()
    sender.close()
    thread.join()
    listener.close()
    print(json.dumps(received * 8 / (last_s - first_s)))


if __name__ == "__main__":
    main()
