"""What ``run.json`` holds of a run, and the row of ``runs.csv`` that is made of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from runner.checker.findings import Ruling
from runner.csvfile import Cell, Row
from runner.disturbances import DISK_VERBS
from runner.summary import Summary
from runner.verdict import Verdict

RUN_COLUMNS = (
    "run",
    "started_utc",
    "name",
    "seed",
    "outcome",
    "verdict",
    "reasons",
    "duration_s",
    "submitted",
    "ok",
    "lost",
    "wrong",
    "doubled",
    "rejected",
    "degraded",
    "throughput_rps",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "faults",
    "detection_ms_max",
    "recovery_s_max",
    "compute_mode",
    "time_scale",
    "spec_sha256",
    "git_commit",
    "git_dirty",
    "project_version",
    "torch_version",
    "kernel",
    "cpu_model",
    "cores",
)


def run_record(
    name: str,
    seed: int,
    started: datetime,
    summary: Summary,
    ruling: Ruling,
    verdict: Verdict,
    *,
    spec: Mapping[str, Any],
    spec_sha256: str,
    compute_mode: str,
    provenance: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    time_scale: float = 1.0,
    **more: Any,
) -> dict[str, Any]:
    """The content of ``run.json``; ``started`` is wall-clock time in UTC, ``more`` is added as it is."""
    return {
        "name": name,
        "seed": seed,
        "started_utc": f"{started:%Y-%m-%dT%H:%M:%SZ}",
        "outcome": ruling.outcome,
        "outcome_reasons": list(ruling.reasons),
        "verdict": verdict.level,
        "verdict_reasons": list(verdict.reasons),
        "compute_mode": compute_mode,
        "time_scale": time_scale,
        "summary": summary.to_dict(),
        "checker": ruling.to_dict(),
        "spec_sha256": spec_sha256,
        "spec": dict(spec),
        **provenance,
        "capabilities": dict(capabilities),
        **more,
    }


def run_row(run: str, record: Mapping[str, Any]) -> Row:
    """The row of ``runs.csv`` for a run's record."""
    summary, versions = record["summary"], record.get("versions", {})
    latency, faults = summary["latency"] or {}, summary["faults"]
    git, machine = record.get("git") or {}, record.get("machine", {})

    def worst(key: str, others: Collection[str] = ()) -> Cell:
        told = (fault[key] for fault in faults if fault["kind"] not in others)
        return max((figure for figure in told if figure is not None), default=None)

    return {
        "run": run,
        "started_utc": record["started_utc"],
        "name": record["name"],
        "seed": record["seed"],
        "outcome": record["outcome"],
        "verdict": record["verdict"],
        "reasons": "; ".join([*record["outcome_reasons"], *record["verdict_reasons"]]),
        "duration_s": summary["duration_s"],
        "submitted": summary["submitted"],
        **{outcome: summary["requests"][outcome] for outcome in ("ok", "lost", "wrong", "doubled", "rejected")},
        "degraded": (summary["degraded"] or {"answers": 0})["answers"],
        "throughput_rps": summary["throughput_rps"],
        **{f"latency_p{p}_ms": latency.get(f"p{p}_ms") for p in (50, 95, 99)},
        "faults": len(faults),
        "detection_ms_max": worst("detection_ms", DISK_VERBS),  # a disk is noticed when it is needed
        "recovery_s_max": worst("recovery_s"),
        "compute_mode": record["compute_mode"],
        "time_scale": record["time_scale"],
        "spec_sha256": record["spec_sha256"],
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "project_version": versions.get("edge-inference-testbed"),
        "torch_version": versions.get("torch"),
        "kernel": record.get("kernel", {}).get("release"),
        "cpu_model": machine.get("cpu_model"),
        "cores": machine.get("cores"),
    }
