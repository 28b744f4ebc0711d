"""A pipeline on torch.distributed with the gloo backend: a rank a stage, ``send`` and ``recv`` between them.

Rank 0 asks and gets the answers; the others compute their stages, whose weights they read from their own disks. The
time-out of the process group is PyTorch's default (30 minutes). An exception ends its process, as it ends any script.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.peers.asking import Asker, stage_weights, tell_error, warmed_up
from testbed.model.executor import StageExecutor
from testbed.model.program import StageProgram, TensorSpec
from testbed.serving.package import Package
from testbed.serving.process import reporter

PORT = 29500
SIOCGIFADDR = 0x8915  # linux/sockios.h


def interface_of(address: str) -> str:
    """The interface that has an IPv4 address: by the host's name gloo would find another machine's.

    Raises:
        OSError: If none has it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise OSError(f"no interface has the address {address}")


def join(config: Mapping[str, Any]) -> None:
    """Enter the process group."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(config["address"])
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{config['first_address']}:{PORT}",
        rank=config["rank"],
        world_size=config["world_size"],
    )


def receive(specs: Sequence[TensorSpec], source: int) -> list[torch.Tensor]:
    """Tensors from a rank; waits for as long as the process group does."""
    tensors = [torch.empty(spec.shape, dtype=spec.torch_dtype) for spec in specs]
    for tensor in tensors:
        dist.recv(tensor, src=source)
    return tensors


def send(tensors: Sequence[torch.Tensor], target: int) -> None:
    """Tensors to a rank."""
    for tensor in tensors:
        dist.send(tensor.contiguous(), dst=target)


def worker(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of a stage's process.

    Args:
        config: ``host``, ``address``, ``first_address`` (of rank 0), ``rank``, ``world_size``, ``package``,
            ``first_op`` and ``last_op``.
        fds: The socket for events.
    """
    report = reporter(fds)
    package = Package(Path(config["package"]))
    first, last = config["first_op"], config["last_op"]
    program = StageProgram.from_json(package.parcel(first, last).program)
    executor = warmed_up(StageExecutor(program, stage_weights(package, first, last)))
    try:
        join(config)
        rank, following = config["rank"], (config["rank"] + 1) % config["world_size"]
        while True:
            send(executor.run(receive(program.inputs, rank - 1)), following)
    except (RuntimeError, OSError) as error:
        tell_error(report, config["host"], error)
        raise


def asker(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of rank 0.

    Args:
        config: As that of `worker`, with the last stage's operations, and what
            :class:`~benchmarks.peers.asking.Asker` wants.
        fds: The socket for events, and the pipe that tells the start.
    """
    report = reporter(fds[:1])
    program = Package(Path(config["package"])).parcel(config["first_op"], config["last_op"]).program
    outputs = StageProgram.from_json(program).outputs
    asking = Asker(config, report, config["host"])
    join(config)
    last = config["world_size"] - 1

    def take_answers() -> None:
        try:
            while True:
                asking.take(receive(outputs, last))
        except (RuntimeError, OSError) as error:
            asking.fail(error)

    threading.Thread(target=take_answers, name="answers", daemon=True).start()
    asking.run(fds[1], lambda inputs: send(inputs, 1))
    os._exit(0)  # what hangs in gloo must not keep the process
