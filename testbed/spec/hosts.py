"""Emulated hosts and how their compute is limited."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from testbed.spec.devices import device_named
from testbed.spec.quantities import CpuPeriod, Noise, Power, Size, TagName
from testbed.spec.section import Section


def _known_device(name: str) -> str:
    return device_named(name).name


class HostSpec(Section):
    """What an emulated host may use of this machine; exactly one of `cpu` and `device` is in the file.

    A device's share depends on this machine, so it is filled in from its calibration before anything is planned
    (`testbed.spec.devices.as_shares`); from then on `cpu` is set for every host.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["cpu"]}, {"required": ["device"]}]})
    noun: ClassVar[str] = "a host"

    cpu: Annotated[
        float | None, Field(gt=0, le=256, description="Share of one core of this machine; may exceed 1.")
    ] = None
    device: Annotated[
        str | None,
        AfterValidator(_known_device),
        Field(description="Instead of cpu: a real device, whose speed and memory it gets, such as raspberry-pi-4."),
    ] = None
    memory_bytes: Annotated[
        Size | None,
        Field(
            alias="memory",
            description="Memory of the processes on the host; when absent the device's, or else unlimited.",
        ),
    ] = None
    storage_bytes: Annotated[
        Size | None, Field(alias="storage", description="Disk for weights on the host; unlimited when absent.")
    ] = None
    power_w: Annotated[
        Power | None,
        Field(
            alias="power",
            description="What it draws while it computes, for the energy model; when absent the device's, or else 6.4W "
            "(a Raspberry Pi 4).",
        ),
    ] = None
    price_per_hour: Annotated[
        float, Field(ge=0, le=1e6, description="Money for an hour of its computing, in any one currency.")
    ] = 0.0
    tier: Annotated[
        Literal["device", "near-edge", "far-edge", "cloud"] | None,
        Field(
            description="Where it stands, for strategies with tiers; when absent in all hosts, slower hosts are nearer."
        ),
    ] = None

    tags: Annotated[
        tuple[TagName, ...], Field(description="Words by which faults strike all hosts that have them.")
    ] = ()

    @model_validator(mode="after")
    def _one_speed(self) -> HostSpec:
        if self.cpu is not None and self.device is not None:
            raise ValueError("has both cpu and device; a device brings its own speed")
        if self.cpu is None and self.device is None:
            raise ValueError(
                "the key 'cpu' is missing; a host needs it (a share of one core of this machine), or a device"
            )
        return self

    @property
    def share(self) -> float:
        """Its share of one core of this machine.

        Raises:
            ValueError: If it is a device whose share was not filled in yet.
        """
        if self.cpu is None:
            raise ValueError(f"the share of {self.device} on this machine isn't known yet")
        return self.cpu


class ComputeSpec(Section):
    """How an emulated CPU spends its time."""

    noun: ClassVar[str] = "compute"

    mode: Annotated[
        Literal["real", "calibrated"],
        Field(
            description="A stage takes the time that it took alone on a whole core, divided by the host's share. real: "
            "it computes each request under a kernel quota; calibrated: most outputs are looked up."
        ),
    ] = "real"
    period_s: Annotated[
        CpuPeriod | None,
        Field(
            alias="period",
            description="Period of the CPU quota, 1ms to 1s; from the stages' service times when absent.",
        ),
    ] = None
    time_scale: Annotated[
        float,
        Field(
            ge=1,
            le=1000,
            description="Run so many times slower than declared (rates and speeds divided, times multiplied); results "
            "are in the declared, virtual units.",
        ),
    ] = 1.0
    noise: Annotated[
        Noise,
        Field(description="calibrated: standard deviation of a stage's time, relative to it, seeded; such as 5%."),
    ] = 0.0
    verify_every: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="calibrated: every so many requests are computed anyway and compared."),
    ] = 20

    @model_validator(mode="after")
    def _mode_has_its_keys(self) -> ComputeSpec:
        if self.mode == "real":
            for key in ("noise", "verify_every"):
                if key in self.model_fields_set:
                    raise ValueError(
                        f"has {key}, which only mode calibrated knows; real computes everything as it comes"
                    )
        return self
