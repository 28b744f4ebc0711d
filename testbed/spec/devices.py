"""Real devices as hosts: published inference times, each with its source, and what they make of this machine.

A profile holds times of whole models as somebody measured and published them on the device, with the framework that the
testbed itself uses. `python -m testbed calibrate` measures the same models here, on one thread of one otherwise idle
core, and a host's share is the geometric mean of (time here ÷ time there): the share of a core at which this machine is
as slow as the device.

How comparable that is: model, input size and framework are the same; the version of the framework and the instruction
set differ, and the device used all of its cores (that is PyTorch's default, and how such a device would be used) while
a host here has one thread. So a host stands for a whole board, not for one of its cores. Ratios differ from model to
model by the factor that `calibrate` prints, which is the accuracy of the mapping.

A device is here only if its figure says all of: board, framework, model, input, precision, batch of one. Boards for
which only scores of other programs are published (CoreMark in VIoLET's device_types.json: Raspberry Pi 2B, 3B, 3B+,
Jetson TX1), other frameworks (TensorFlow Lite) or accelerators are left out: such scores order boards well but are off
by factors for convolutions. Give such a host its share as `cpu`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.errors import MachineError

if TYPE_CHECKING:
    from testbed.spec.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Device:
    """A board.

    Attributes:
        name: As the file says it.
        memory_bytes: Of the board that was measured.
        model_s: Seconds of one inference by model of the zoo: 224 × 224 pixels, batch of one, 32-bit floats, all cores.
        source: Where the figures were published.
        power_w: What it draws at the plug with all cores busy.
        power_source: Where that was published.
    """

    name: str
    memory_bytes: int
    model_s: Mapping[str, float]
    source: str
    power_w: float
    power_source: str


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="raspberry-pi-4",
            memory_bytes=4 * 2**30,
            model_s={"resnet18": 0.1003, "resnet50": 0.2252},
            source="PyTorch tutorials, Real Time Inference on Raspberry Pi 4, table «Raspberry Pi 4 Benchmark "
            "Results», column «Model Time», models without quantisation: "
            "https://docs.pytorch.org/tutorials/intermediate/realtime_rpi.html (Raspberry Pi 4 Model B, 4 GB)",
            power_w=6.4,
            power_source="Pidramble, Power Consumption Benchmarks, Raspberry Pi 4 B, «400% CPU load (stress --cpu 4)», "
            "1280 mA: https://www.pidramble.com/wiki/benchmarks/power-consumption",
        ),
    )
}


def device_named(name: str) -> Device:
    """The profile of a device.

    Raises:
        ValueError: If there is none; names those that there are.
    """
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; devices: {', '.join(DEVICES)}; any other host is given as cpu: 0.1")
    return DEVICES[name]


def reference_models() -> tuple[str, ...]:
    """Models that a calibration has to time."""
    return tuple(sorted({model for device in DEVICES.values() for model in device.model_s}))


def share_of(device: Device, here_s: Mapping[str, float]) -> float:
    """The share of a core at which this machine is as slow as a device.

    Args:
        device: Its profile.
        here_s: Seconds of each reference model here, on one thread of a whole core.
    """
    ratios = [math.log(here_s[model] / there_s) for model, there_s in device.model_s.items()]
    return math.exp(math.fsum(ratios) / len(ratios))


def spread_of(device: Device, here_s: Mapping[str, float]) -> float:
    """The largest of the ratios of a device's models over their geometric mean; 1 is perfect agreement."""
    share = share_of(device, here_s)
    return max(max(ratio, 1 / ratio) for m, there_s in device.model_s.items() if (ratio := here_s[m] / there_s / share))


def as_shares(experiment: Experiment, here_s: Mapping[str, float]) -> Experiment:
    """The experiment with every device's share of this machine's core as its host's `cpu`, and its memory.

    Args:
        experiment: With hosts that may be devices.
        here_s: As for :func:`share_of`.

    Raises:
        MachineError: If a device is faster than a core of this machine and `compute.mode` is `real`.
    """
    hosts = {}
    for name, host in experiment.hosts.items():
        if host.device is None:
            hosts[name] = host
            continue
        device = device_named(host.device)
        share = share_of(device, here_s)
        if share > 1 and experiment.compute.mode == "real" and experiment.compute.time_scale < share:
            raise MachineError(
                f"hosts.{name}: a {device.name} is {share:.2f} times as fast as a core of this machine",
                remedy="set compute.mode to calibrated, or compute.time_scale to at least "
                f"{math.ceil(share)}, or use a faster machine",
            )
        memory = device.memory_bytes if host.memory_bytes is None else host.memory_bytes
        power_w = device.power_w if host.power_w is None else host.power_w
        hosts[name] = host.model_copy(update={"cpu": share, "memory_bytes": memory, "power_w": power_w})
    return experiment.model_copy(update={"hosts": hosts})
