"""One epoch's stages on their way to the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testbed.errors import ProtocolError
from testbed.planning.plan import Assignment, Plan, Stage
from testbed.serving.events import PlanAdopted, PlannedStage, now_s
from testbed.serving.package import Package, Parcel
from testbed.serving.wire import Frame, FrameKind


class Deployment:
    """What each host of a plan is sent, and which of them are ready.

    Attributes:
        epoch: The plan's epoch.
        plan: The plan.
        started_s: When the deployment began.
    """

    def __init__(self, epoch: int, plan: Plan, package: Package) -> None:
        self.epoch = epoch
        self.plan = plan
        self.started_s = now_s()
        self._package = package
        self._stages = {stage.host: stage for stage in plan.stages}
        self._parcels: dict[str, Parcel] = {
            stage.host: package.parcel(stage.first_op, stage.last_op) for stage in plan.stages
        }
        self._sent_bytes = dict.fromkeys(self._stages, 0)
        self._waiting = set(self._stages)

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts of the plan."""
        return frozenset(self._stages)

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """The plan's decision."""
        return tuple(Assignment(stage.host, stage.first, stage.last) for stage in self.plan.stages)

    def stage_of(self, host: str) -> Stage:
        """The stage on a host."""
        return self._stages[host]

    def sent_bytes(self, host: str) -> int:
        """Bytes of program and weights that were sent to a host so far."""
        return self._sent_bytes[host]

    def prepare(self, host: str, next_host: str, next_address: tuple[str, int]) -> Frame:
        """The frame that announces its stage to a host, which answers with the chunks it lacks."""
        parcel = self._parcels[host]
        manifest = parcel.manifest.to_json()
        self._sent_bytes[host] += len(parcel.program) + len(manifest)
        stage = self._stages[host]
        meta = {
            "stage": stage.index,
            "first_op": stage.first_op,
            "last_op": stage.last_op,
            "next_host": next_host,
            "next_address": list(next_address),
            "program_bytes": len(parcel.program),
        }
        return Frame(FrameKind.PREPARE, self.epoch, meta=meta, payload=(parcel.program, manifest))

    def chunks(self, host: str, wanted: Any) -> Iterator[Frame]:
        """The frames of the chunks that a host lacks, each read when its turn comes.

        Raises:
            ProtocolError: If it asks for anything but chunks of its stage.
        """
        legal = frozenset(self._parcels[host].chunk_ids)
        if not isinstance(wanted, list) or not all(isinstance(chunk_id, str) for chunk_id in wanted):
            raise ProtocolError("a list of chunks was expected")
        if not legal.issuperset(wanted):
            raise ProtocolError("asks for chunks that are not of its stage")
        return self._read_chunks(host, wanted)

    def _read_chunks(self, host: str, wanted: list[str]) -> Iterator[Frame]:
        for chunk_id in wanted:
            data = self._package.chunk(chunk_id)
            self._sent_bytes[host] += len(data)
            yield Frame(FrameKind.CHUNK, self.epoch, meta={"chunk": chunk_id}, payload=(data,))

    @property
    def waiting(self) -> frozenset[str]:
        """Hosts that are not ready."""
        return frozenset(self._waiting)

    def ready(self, host: str) -> bool:
        """A host is ready; tells whether all of them are now."""
        self._waiting.discard(host)
        return not self._waiting


def adopted(epoch: int, plan: Plan, reason: str) -> PlanAdopted:
    """The event that tells of a plan."""
    return PlanAdopted(
        t_s=now_s(),
        epoch=epoch,
        strategy=plan.strategy,
        reason=reason,
        stages=tuple(
            PlannedStage(
                stage=stage.index,
                host=stage.host,
                first_op=stage.first_op,
                last_op=stage.last_op,
                weights_bytes=stage.weights_bytes,
                memory_bytes=stage.memory_bytes,
                compute_s=stage.compute_s,
                transfer_bits=stage.transfer_bits,
                link_s=stage.link_s,
                is_bottleneck=stage.index == plan.bottleneck_stage,
            )
            for stage in plan.stages
        ),
        return_bits=plan.return_bits,
        return_s=plan.return_s,
        throughput_rps=plan.throughput_rps,
        latency_s=plan.latency_s,
        bottleneck=plan.bottleneck,
        gap=plan.gap,
        planning_s=plan.planning_s,
        skipped=plan.skipped,
    )
