"""How long the system waits for a peer before it takes it for gone; heartbeats apart, which are configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Patience:
    """Time-outs of connections.

    Attributes:
        connect_s: For each attempt to connect.
        greeting_s: For each step of the greeting.
        stall_s: For a frame under way to make progress: a peer may be slow, not stuck.
    """

    connect_s: float = 3.0
    greeting_s: float = 5.0
    stall_s: float = 30.0

    @classmethod
    def scaled(cls, time_scale: float) -> Self:
        """In an emulation where a second takes ``time_scale`` seconds."""
        usual = cls()
        return cls(usual.connect_s * time_scale, usual.greeting_s * time_scale, usual.stall_s * time_scale)


PATIENCE = Patience()
"""What real hosts have."""
