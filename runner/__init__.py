"""Experiments: lifecycle, faults, workload, recording, verdict and report."""
