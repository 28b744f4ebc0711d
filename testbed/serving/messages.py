"""What the threads of the dispatcher post to the one that controls everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.planning.plan import Plan
from testbed.serving.connection import Arrival, Writer
from testbed.serving.wire import Frame

if TYPE_CHECKING:
    from testbed.serving.couriers import Courier
    from testbed.serving.journal import Recovered
    from testbed.serving.members import Member


@dataclass(frozen=True, slots=True)
class Joined:
    """A node answered the greeting."""

    member: Member


@dataclass(frozen=True, slots=True)
class Gone:
    """A node can't be reached, has closed its connection, or has been silent for too long.

    ``member`` is the connection that this is about; news of one that was replaced since doesn't count. None where the
    node had not joined, and for its heartbeats.
    """

    host: str
    how: str
    detail: str
    member: Member | None = None


@dataclass(frozen=True, slots=True)
class FromNode:
    """A node sent a frame on its control connection."""

    host: str
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class FromClient:
    """A client submitted a request."""

    client: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class ClientJoined:
    """A client has connected."""

    name: str
    writer: Writer


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A client's connection has ended; the client may have another one by now."""

    name: str
    writer: Writer


@dataclass(frozen=True, slots=True)
class Answered:
    """The last node of a pipeline sent an answer."""

    arrival: Arrival


@dataclass(frozen=True, slots=True)
class Planned:
    """Planning has ended: with a plan, or with the reason why there is none.

    With a ``change`` it is a proposal to replace the plan of an epoch that serves; otherwise it is for an epoch that
    has none yet.
    """

    epoch: int
    plan: Plan | None
    reason: str
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of plan that isn't forced would bring.

    Attributes:
        present: The plan that serves, as its hosts and paths are measured now; None if it isn't possible any more.
        moved_bytes: Weights that would have to move.
        move_s: How long that takes.
        pays: Whether it is worth it.
        forced: Whether it has to be, because a host wants to leave.
    """

    present: Plan | None
    moved_bytes: int
    move_s: float
    pays: bool
    forced: bool = False


@dataclass(frozen=True, slots=True)
class PipelineOpened:
    """The connection into an epoch's first stage stands, or failed."""

    epoch: int
    host: str
    writer: Writer | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Supplied:
    """A courier has ended; ``detail`` says why it failed, if it did."""

    courier: Courier
    host: str
    sent_bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class JournalOpened:
    """The journal is open, with what an earlier dispatcher left in it; epochs up to ``epoch_limit`` may be used."""

    recovered: Recovered
    epoch_limit: int


@dataclass(frozen=True, slots=True)
class JournalUnready:
    """The journal can't be opened; that is tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class EpochsReserved:
    """Epochs up to this one may be used."""

    limit: int


@dataclass(frozen=True, slots=True)
class Journalled:
    """Requests are in the journal."""

    request_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unjournalled:
    """A request could not be journalled."""

    request_id: int
    reason: str


JournalNews = JournalOpened | JournalUnready | EpochsReserved | Journalled | Unjournalled
Message = (
    Joined
    | Gone
    | FromNode
    | FromClient
    | ClientJoined
    | ClientGone
    | Answered
    | Planned
    | PipelineOpened
    | Supplied
    | JournalNews
)
Post = Callable[[Message], None]
