"""How the system under test notices failures, and what it does then."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from testbed.spec.quantities import Duration, HeartbeatInterval, Probability
from testbed.spec.section import Section

_KEYS_OF = {
    "wait_s": ("restart",),
    "otherwise": ("restart", "skip"),
    "replicas": ("standby",),
}
"""Keys that only some policies know."""


class RecoverySpec(Section):
    """How the system under test notices a failure and what it does then."""

    noun: ClassVar[str] = "recovery"

    policy: Annotated[
        Literal["replan", "restart", "standby", "skip"],
        Field(
            description="replan: plan anew on the survivors, moving as few weights as possible; restart: wait for the "
            "lost hosts and deploy the same plan again; standby: take over with copies of stages that other hosts keep "
            "in their storage; skip: serve on at once without the lost stages, where they are residual, with answers "
            "that are marked as degraded, until the whole model is back. In all of them hosts that come back are used "
            "again where that pays."
        ),
    ] = "replan"
    heartbeat_s: Annotated[
        HeartbeatInterval, Field(alias="heartbeat", description="Time between two heartbeats, 1ms to 60s.")
    ] = 0.1
    detector: Annotated[
        Literal["misses", "phi"],
        Field(
            description="misses: a host is taken for dead after a fixed number of missed heartbeats; phi: when its "
            "silence has become too unlikely, by how regularly its heartbeats came (phi-accrual, Hayashibara et al.)."
        ),
    ] = "misses"
    misses: Annotated[
        int, Field(ge=1, le=1_000, description="misses: so many missed heartbeats and a host is taken for dead.")
    ] = 3
    threshold: Annotated[
        float,
        Field(ge=1, le=15, description="phi: silence that occurs once in 10^threshold intervals is too unlikely."),
    ] = 8.0
    wait_s: Annotated[Duration, Field(alias="wait", description="restart: how long to wait for lost hosts.")] = 30.0
    otherwise: Annotated[
        Literal["replan", "unavailable"],
        Field(
            description="restart: what to do after that; skip: what to do where nothing can be left out: plan anew, or "
            "stay unavailable until the lost hosts are back."
        ),
    ] = "replan"
    replicas: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="standby: how many other hosts keep a copy of each stage, where there is storage for it.",
        ),
    ] = 1
    adaptive: Annotated[
        bool | None,
        Field(
            description="Whether a new plan is also considered when the measured rates, speeds or load change; when "
            "absent, only with the strategies that are made for it: dnnsplit and dynamic."
        ),
    ] = None
    drift: Annotated[
        Probability,
        Field(
            description="adaptive: a plan is considered once what the strategy is for (bottleneck, latency, cost), or "
            "the load, has changed by this much, relative."
        ),
    ] = 0.3
    horizon_s: Annotated[
        Duration,
        Field(
            alias="horizon",
            description="A change of plan that no loss forces must pay within this time, the transfer of its weights "
            "included: answer more requests, or sooner where the strategy is for latency.",
        ),
    ] = 60.0
    gain: Annotated[Probability, Field(description="Such a change must be better by this much, relative.")] = 0.1

    @model_validator(mode="after")
    def _keys_fit_the_policy(self) -> RecoverySpec:
        for name, policies in _KEYS_OF.items():
            if name in self.model_fields_set and self.policy not in policies:
                key = type(self).model_fields[name].alias or name
                known = f"the policy {policies[0]} knows" if len(policies) == 1 else f"{' and '.join(policies)} know"
                raise ValueError(f"has {key}, which only {known}, not {self.policy}")
        for name, detector in (("misses", "misses"), ("threshold", "phi")):
            if name in self.model_fields_set and self.detector != detector:
                raise ValueError(f"has {name}, which only the detector {detector} knows, not {self.detector}")
        return self
