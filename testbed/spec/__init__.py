"""The YAML file as frozen, validated objects."""

from testbed.spec.experiment import Experiment
from testbed.spec.faults import FaultSpec, KillFault, ThrottleFault
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec, PlacementSpec
from testbed.spec.links import LinkSpec
from testbed.spec.loader import load_experiment
from testbed.spec.network import Network, Route
from testbed.spec.recovery import RecoverySpec
from testbed.spec.schema import experiment_schema
from testbed.spec.workload import ClosedWorkload, OpenWorkload, WorkloadSpec

__all__ = [
    "ClosedWorkload",
    "ComputeSpec",
    "Experiment",
    "FaultSpec",
    "HostSpec",
    "KillFault",
    "LinkSpec",
    "ModelSpec",
    "Network",
    "OpenWorkload",
    "PlacementSpec",
    "RecoverySpec",
    "Route",
    "ThrottleFault",
    "WorkloadSpec",
    "experiment_schema",
    "load_experiment",
]
