"""How long the system waits for a peer before it takes it for gone; heartbeats apart, which are configured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Patience:
    """Time-outs of connections.

    Attributes:
        connect_s: For each attempt to connect.
        greeting_s: For each step of the greeting.
        stall_s: For a frame under way to make progress: a peer may be slow, not stuck.
        cut_off_s: For any acknowledgement of what TCP keeps sending again, until the path is taken for broken.
        retry_s: Before the first further attempt to reach a node that was lost; it doubles from attempt to attempt…
        retry_most_s: … up to this.
        shun_s: For a path or a host that has failed while the host's heartbeats went on, until it is used again.
        leave_s: For a node's stage to be moved when the node wants to leave.
    """

    connect_s: float = 3.0
    greeting_s: float = 5.0
    stall_s: float = 30.0
    cut_off_s: float = 3.0
    retry_s: float = 0.05
    retry_most_s: float = 1.0
    shun_s: float = 5.0
    leave_s: float = 30.0

    @classmethod
    def scaled(cls, time_scale: float) -> Self:
        """In an emulation where a second takes ``time_scale`` seconds."""
        return cls(*(usual_s * time_scale for usual_s in dataclasses.astuple(cls())))


PATIENCE = Patience()
"""What real hosts have."""
