"""Which hosts of an experiment have disks of their own."""

from __future__ import annotations

from testbed.spec.experiment import Experiment


def disk_sizes(experiment: Experiment, *, possible: bool) -> dict[str, int | None]:
    """Bytes for files of every host that gets a file system of its own; None for one that declares none.

    Those are the hosts with declared ``storage``. Where the machine can't make file systems, they have plain folders,
    and only the partition servers see to it that they keep within what is declared.

    Args:
        experiment: What is emulated.
        possible: Whether this machine can make file systems.
    """
    if not possible:
        return {}
    return {host: spec.storage_bytes for host, spec in experiment.hosts.items() if spec.storage_bytes is not None}
