"""How far shipping is, as the node knows it, and what follows from where the other side is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple


class CopyReason(str, Enum):
    """Why the agent's rows are copied before the outbox is shipped."""

    FIRST = "first"
    """Shipping was switched on."""
    OVERFLOW = "overflow"
    """The outbox outgrew its bound."""
    LOST = "lost"
    """The shared ledger is new, or an old state of it was restored."""


class NextStep(Enum):
    """What there is to do, once it is known where the shared ledger is."""

    SEND = 1
    COPY = 2
    NOTE_ARRIVED = 3
    """What was being sent is there."""
    NOTE_LOST = 4
    """The shared ledger was set back: what had arrived is no longer there."""
    REFUSE = 5
    """It has commits that this ledger never made."""


class Mark(NamedTuple):
    """A place in an agent's sequence of commits. The id is random: it tells copies apart."""

    commit_no: int
    commit_id: int


NOTHING: Final = Mark(0, 0)
"""Before the first commit."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One commit in the outbox."""

    mark: Mark
    payload: bytes


@dataclass(frozen=True, slots=True)
class ShippingState:
    """What the node knows. `shipped` has arrived, `sending` may have; None: nothing ever was.

    `since_ns`: posted rows that start earlier have arrived; None: no row has.
    """

    last: Mark
    shipped: Mark | None
    sending: Mark | None
    copy_reason: CopyReason | None
    since_ns: int | None
    waiting_bytes: int
    oldest_unix_ns: int | None
    """When the first commit that waits was made."""

    @property
    def waiting(self) -> int:
        """How many commits have not arrived."""
        return self.last.commit_no - (NOTHING if self.shipped is None else self.shipped).commit_no

    def next_step(self, position: Mark | None) -> NextStep:
        """What to do where the shared ledger is at `position`; None: it knows no such agent."""
        if position is not None and position == self.sending:
            return NextStep.NOTE_ARRIVED
        if position == self.shipped:
            return NextStep.SEND if self.copy_reason is None else NextStep.COPY
        if self.shipped is not None and (
            position is None or position.commit_no < self.shipped.commit_no
        ):
            return NextStep.COPY if self.copy_reason is CopyReason.LOST else NextStep.NOTE_LOST
        return NextStep.REFUSE
