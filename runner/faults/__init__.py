"""Fault kinds: each knows how to inject itself and how to heal.

Injecting returns only when the fault is in force, as read back (or as is confirmed soon after); healing restores the
*declared* state, whatever else is in force. A fault touches the emulation, never the system under test.
"""

from runner.faults.base import Fault, InForce, Lab
from runner.faults.compilation import fault_of, faults_of
from runner.faults.hosts import FaultOfHosts, Kill

__all__ = ["Fault", "FaultOfHosts", "InForce", "Kill", "Lab", "fault_of", "faults_of"]
