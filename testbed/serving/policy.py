"""How the dispatcher recovers: the settings of the specification's ``recovery``, as the system under test gets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Name = Literal["replan", "restart", "standby", "skip"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do when hosts come and go; times are those of this system's clock.

    Attributes:
        name: ``replan``: plan anew for the hosts that are left; ``restart``: wait for the lost ones, then deploy the
            same plan; ``standby``: take over with the copies that other hosts keep; ``skip``: serve on without the lost
            stages where they are residual, and bring them back meanwhile.
        wait_s: How long ``restart`` waits.
        otherwise: What it does then, and ``skip`` where nothing may be left out: ``replan``, or ``unavailable`` until
            the hosts are back.
        replicas: How many other hosts keep a copy of each stage, for ``standby``.
        adaptive: Whether a measured change of rates or speeds leads to a new plan too.
        drift: The relative change of the plan's bottleneck, as measured, from which on that is considered.
        horizon_s: The time within which a change that isn't forced must pay.
        gain: By how much, relative, it must be ahead of no change.
        threshold: Of φ, at which a host is lost; None where a fixed number of missed heartbeats decides.
        settle_s: For so long an epoch serves at least before a change that isn't forced: until there are measurements.
            Longer where such changes follow each other (:mod:`testbed.serving.settling`).
    """

    name: Name = "replan"
    wait_s: float = 30.0
    otherwise: Literal["replan", "unavailable"] = "replan"
    replicas: int = 1
    adaptive: bool = False
    drift: float = 0.3
    horizon_s: float = 60.0
    gain: float = 0.1
    threshold: float | None = None
    settle_s: float = 5.0

    @property
    def waits_s(self) -> float | None:
        """How long lost hosts are waited for before ``otherwise``; None where nobody waits for them."""
        if self.name == "skip":
            return 0.0 if self.otherwise == "unavailable" else None
        return self.wait_s if self.name == "restart" else None

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """From plain data."""
        return cls(**plain)


POLICY = Policy()
"""What a dispatcher does unless told otherwise."""
