"""What the ledger knows about a settled interval: read again when something is learnt late."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, select

from apportion.cost.ledger.schema import charge, evidence, settlement, span

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from apportion.cost.ledger.batch import Row


class RootRow(NamedTuple):
    """A root span as the ledger has it."""

    ring: int
    number: int
    kind: int
    entity: int | None
    start_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    end_ns: int


def roots_between(
    connection: Connection, agent_id: int, rings: Collection[int], start_ns: int, end_ns: int
) -> list[RootRow]:
    """Root spans of `rings` that meet [start_ns, end_ns)."""
    phase_kind = 3
    statement = select(
        span.c.ring_key,
        span.c.number,
        span.c.kind,
        span.c.entity_key,
        span.c.start_ns,
        span.c.scheduled_ns,
        span.c.first_token_ns,
        span.c.end_ns,
    ).where(
        and_(
            span.c.agent_id == agent_id,
            span.c.end_ns > start_ns,
            span.c.start_ns < end_ns,
            span.c.ring_key.in_(sorted(rings)),
            span.c.parent == 0,
            span.c.kind != phase_kind,
        )
    )
    return [RootRow(*row) for row in connection.execute(statement)]


def evidence_between(
    connection: Connection, agent_id: int, device: int, start_ns: int, end_ns: int
) -> list[Row]:
    """(start, end, category, entity keys, reason) of one device, clipped by nobody."""
    statement = select(
        evidence.c.start_ns,
        evidence.c.end_ns,
        evidence.c.category,
        evidence.c.entity_keys,
        evidence.c.reason,
    ).where(
        and_(
            evidence.c.agent_id == agent_id,
            evidence.c.device_key == device,
            evidence.c.end_ns > start_ns,
            evidence.c.start_ns < end_ns,
        )
    )
    return [tuple(row) for row in connection.execute(statement)]


class SettledPiece(NamedTuple):
    """One settlement of a device."""

    start_ns: int
    end_ns: int
    rate: int | None
    energy_mj: int | None


def settlements_between(
    connection: Connection, agent_id: int, device: int, start_ns: int, end_ns: int
) -> list[SettledPiece]:
    """The settlements of one device that meet [start_ns, end_ns), in order."""
    statement = (
        select(
            settlement.c.start_ns,
            settlement.c.end_ns,
            settlement.c.rate_key,
            settlement.c.energy_mj,
        )
        .where(
            and_(
                settlement.c.agent_id == agent_id,
                settlement.c.device_key == device,
                settlement.c.end_ns > start_ns,
                settlement.c.start_ns < end_ns,
            )
        )
        .order_by(settlement.c.start_ns)
    )
    return [SettledPiece(*row) for row in connection.execute(statement)]


def charges_of_span(connection: Connection, agent_id: int, ring: int, number: int) -> list[Row]:
    """The posted lines of one span, whole rows without agent_id.

    Only for spans that were lost, so a scan is affordable; the table keeps no index for it.
    """
    columns = [column for column in charge.c if column.name != "agent_id"]
    statement = select(*columns).where(
        and_(
            charge.c.agent_id == agent_id,
            charge.c.ring_key == ring,
            charge.c.number == number,
        )
    )
    return [tuple(row) for row in connection.execute(statement)]
