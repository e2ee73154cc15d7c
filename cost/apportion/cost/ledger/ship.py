"""One step of shipping: the node's outbox on one side, the shared ledger on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from apportion.core.errors import LedgerDiverged
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.lease import held
from apportion.cost.ledger.rows import rows, stream
from apportion.cost.ledger.schema import agent, settlement
from apportion.cost.ledger.shipment import Shipment, referred_rows
from apportion.cost.ledger.shipping_state import NOTHING, CopyReason, NextStep
from apportion.cost.ledger.shipping_tables import NOT_SHIPPED
from apportion.cost.ledger.statements import POSTED, row_columns
from apportion.cost.ledger.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Table

    from apportion.cost.ledger.batch import Row
    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.ledger.outbox import Outbox
    from apportion.cost.ledger.shared import Arrival, SharedLedger
    from apportion.cost.ledger.shipping_state import Mark

MOST_COMMITS: Final = 64
MOST_BYTES: Final = 8 << 20
"""Of payloads in one transaction: what waited through a long outage arrives in many."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a step brought over. `copied`: why all was copied. `done`: nothing waits any more."""

    commits: int = 0
    rows: int = 0
    copied: CopyReason | None = None
    disowned: int = 0
    """Hours of devices that had become another agent's."""
    done: bool = False


def ship(ledger: Ledger, shared: SharedLedger) -> Shipped:
    """Bring the shared ledger on by at most one transaction.

    Killed anywhere and called again, it goes on where it was: the shared ledger's position says
    what arrived, and the node notes beforehand what may.

    Raises:
        LedgerUnavailable: one of the two is out of reach for now.
        LedgerDiverged: the shared ledger has commits of this agent that it never made.
        LedgerError: one of the two refuses.
    """
    outbox = ledger.outbox
    state = outbox.state()
    if state.copy_reason is None and not state.waiting:
        return Shipped(done=True)
    with shared.receiving(outbox.agent_id) as arrival:
        step = state.next_step(arrival.position())
        if step is NextStep.SEND:
            mark = _send(ledger, arrival)
        elif step is NextStep.COPY:
            mark = _copy(outbox, arrival)
        elif step is NextStep.NOTE_ARRIVED:
            mark = state.sending
        elif step is NextStep.NOTE_LOST:
            mark = None
        else:
            message = (
                f"ledger {shared.name} has commits of agent {outbox.agent_id} that ledger "
                f"{ledger.name} never made: a copy of its state directory is in use elsewhere, "
                "or an old one was restored here; nothing is shipped (docs/shared-ledger.md)"
            )
            raise LedgerDiverged(message)
    if mark is None:
        outbox.lost()
        return Shipped()
    outbox.arrived(mark)
    before = NOTHING if state.shipped is None else state.shipped
    copied = state.copy_reason if step is NextStep.COPY else None
    commits = mark.commit_no - before.commit_no
    return Shipped(commits, arrival.rows, copied, arrival.disowned)


def _send(ledger: Ledger, arrival: Arrival) -> Mark | None:
    """The next commits, in order; None where the outbox does not have them."""
    outbox = ledger.outbox
    commits = outbox.first(MOST_COMMITS, MOST_BYTES)
    if not commits:
        return None
    mark = commits[-1].mark
    outbox.sending(mark)
    with ledger.read() as connection:
        columns = row_columns(agent)
        named = select(*(agent.c[name] for name in columns))
        mine = named.where(agent.c.agent_id == outbox.agent_id)
        arrival.replace(agent.name, tuple(columns), rows(connection, mine))
        for commit in commits:
            shipment = Shipment.decode(commit.payload)
            arrival.apply(shipment)
            arrival.disown(shipment.epochs, shipment.settled_hours())
            for table, names, found in referred_rows(connection, outbox.agent_id, shipment):
                arrival.append(table, names, found)
    arrival.reach(mark)
    return mark


def _copy(outbox: Outbox, arrival: Arrival) -> Mark:
    """Everything of one moment that may be missing there; what is there already stays."""
    with outbox.copying() as (connection, state):
        outbox.sending(state.last)
        arrival.forget_accruals()
        for table in metadata.sorted_tables:
            if table.name not in NOT_SHIPPED:
                found = _rows_since(connection, table, outbox.agent_id, state.since_ns)
                arrival.merge(table.name, table.c.keys(), found)
        if state.copy_reason is CopyReason.OVERFLOW and state.since_ns is not None:
            # Otherwise it is history: who held what then is not known any more.
            hours = _settled_hours(connection, outbox.agent_id, state.since_ns)
            arrival.disown(held(connection, outbox.agent_id), hours)
        arrival.reach(state.last)
    return state.last


def _settled_hours(connection: Connection, agent_id: int, since_ns: int) -> list[Row]:
    hour_ns = settlement.c.start_ns - settlement.c.start_ns % NS_PER_HOUR
    query = select(settlement.c.device_key, hour_ns).distinct()
    return rows(
        connection,
        query.where(settlement.c.agent_id == agent_id, settlement.c.start_ns >= since_ns),
    )


def _rows_since(
    connection: Connection, table: Table, agent_id: int, since_ns: int | None
) -> Iterator[Row]:
    query = select(table)
    if "agent_id" in table.c:
        query = query.where(table.c.agent_id == agent_id)
    if since_ns is not None and table.name in POSTED:
        query = query.where(table.c.start_ns >= since_ns)
    return stream(connection, query)
