"""One epoch's stages on their way to the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from testbed.errors import ProtocolError
from testbed.planning.plan import Assignment, Plan, Stage
from testbed.serving.events import PlanAdopted, PlannedStage, now_s
from testbed.serving.package import Package
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
        self._parcels = [package.parcel(stage.first_op, stage.last_op) for stage in plan.stages]
        self._sent_bytes = [0] * len(plan.stages)
        self._waiting = set(self.hosts)

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts of the plan."""
        return frozenset(stage.host for stage in self.plan.stages)

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """The plan's decision."""
        return tuple(Assignment(stage.host, stage.first, stage.last) for stage in self.plan.stages)

    def stages_of(self, host: str) -> tuple[Stage, ...]:
        """The stages on a host, in the pipeline's order."""
        return tuple(stage for stage in self.plan.stages if stage.host == host)

    def sent_bytes(self, stage: int) -> int:
        """Bytes of program and weights that were sent for a stage so far."""
        return self._sent_bytes[stage]

    def prepare(self, host: str, addresses: Mapping[str, tuple[str, int]], dispatcher: str) -> Frame:
        """The frame that announces its stages to a host, which answers with the chunks it lacks."""
        following = [*(stage.host for stage in self.plan.stages[1:]), dispatcher]
        told, payload = [], []
        for stage in self.stages_of(host):
            parcel = self._parcels[stage.index]
            manifest = parcel.manifest.to_json()
            self._sent_bytes[stage.index] += len(parcel.program) + len(manifest)
            payload += [parcel.program, manifest]
            next_host = following[stage.index]
            told.append(
                {
                    "stage": stage.index,
                    "first_op": stage.first_op,
                    "last_op": stage.last_op,
                    "next_host": next_host,
                    "next_address": list(addresses[next_host]),
                    "program_bytes": len(parcel.program),
                    "manifest_bytes": len(manifest),
                }
            )
        return Frame(FrameKind.PREPARE, self.epoch, meta={"stages": told}, payload=payload)

    def chunks(self, host: str, wanted: Any) -> Iterator[Frame]:
        """The frames of the chunks that a host lacks, each read when its turn comes.

        Raises:
            ProtocolError: If it asks for anything but chunks of its stages.
        """
        # What two stages of a host read is sent once, and counts as the first one's.
        stages = {
            chunk_id: stage.index
            for stage in reversed(self.stages_of(host))
            for chunk_id in self._parcels[stage.index].chunk_ids
        }
        if not isinstance(wanted, list) or not all(isinstance(chunk_id, str) for chunk_id in wanted):
            raise ProtocolError("a list of chunks was expected")
        if not stages.keys() >= set(wanted):
            raise ProtocolError("asks for chunks that are not of its stages")
        return self._read_chunks(wanted, stages)

    def _read_chunks(self, wanted: list[str], stages: Mapping[str, int]) -> Iterator[Frame]:
        for chunk_id in wanted:
            data = self._package.chunk(chunk_id)
            self._sent_bytes[stages[chunk_id]] += len(data)
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
