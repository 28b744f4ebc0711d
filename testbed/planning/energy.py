"""What a request costs in energy. A model, not a measurement: nothing here is read from a meter.

    energy = Σ over stages of (power of the host while it computes × time of the stage)
           + Σ over transfers of (bits × energy of a bit on the links of the way)

Idle hosts and idle links count nothing: the model compares plans, it doesn't tell what a cluster draws from the wall.

* Power: a host's own figure (``power`` in the file, or its device's), else ``DEFAULT_POWER_W``, a Raspberry Pi 4
  Model B with all cores busy: 6.4 W at the plug (1,280 mA; idle 2.7 W), as measured in
  https://www.pidramble.com/wiki/benchmarks/power-consumption.
* Bits: Ethernet transceivers as CNNParted has them (itiv-kit/cnn-parted): 0.2 W at 100 Mbit/s, 0.6 W at 1 Gbit/s,
  4 W at 10 Gbit/s while a transfer lasts, so 2, 0.6 and 0.4 nJ a bit. A link that is shaped to less is taken for the
  slowest kind that carries its rate, which sends as fast as it can and then rests.
"""

from __future__ import annotations

from testbed.planning.problem import Path, Worker

DEFAULT_POWER_W = 6.4

ETHERNET_W = ((100e6, 0.2), (1e9, 0.6), (10e9, 4.0))
"""Line rates in bit/s with the power of a transceiver that sends, ascending."""


def ethernet_j_per_bit(rate_bps: float) -> float:
    """Energy of a bit on a link of Ethernet that carries ``rate_bps``; more than 10 Gbit/s counts as 10 Gbit/s."""
    line_bps, power_w = next((kind for kind in ETHERNET_W if rate_bps <= kind[0]), ETHERNET_W[-1])
    return power_w / line_bps


def power_w(worker: Worker) -> float:
    """What a host draws while it computes."""
    return DEFAULT_POWER_W if worker.power_w is None else worker.power_w


def compute_energy_j(worker: Worker, compute_s: float) -> float:
    """Energy of a computation that takes ``compute_s`` on that host."""
    return power_w(worker) * compute_s


def j_per_bit(path: Path) -> float:
    """Energy of a bit on a path."""
    return ethernet_j_per_bit(path.rate_bps) if path.energy_j_per_bit is None else path.energy_j_per_bit


def transfer_energy_j(path: Path, bits: float) -> float:
    """Energy of sending ``bits`` over a path."""
    return bits * j_per_bit(path)
