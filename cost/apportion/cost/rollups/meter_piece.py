"""Settlements and their parts into `rollup_meter` and `rollup_part`, device by device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, delete, func, insert, or_, select

from apportion.cost.ledger.rollup_tables import rollup_meter, rollup_meter_mark, rollup_part
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import settlement, settlement_part, watermark
from apportion.cost.rollups import sources
from apportion.cost.rollups.grains import Grains
from apportion.cost.rollups.marks import NEVER_NS
from apportion.cost.rollups.piece import Piece, summed_up

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

    from apportion.cost.rollups.marks import Mark

METER: Final = Grains(rollup_meter)
PART: Final = Grains(rollup_part)


def meter_marks(connection: Connection, agent_id: int) -> dict[int, tuple[int, int]]:
    """By device: settlements that start before the first instant are in, up to the second none is.

    The second is the device's watermark; where it is not later, nothing is outside.
    """
    mark = rollup_meter_mark
    joined = watermark.outerjoin(
        mark,
        and_(mark.c.agent_id == watermark.c.agent_id, mark.c.device_key == watermark.c.device_key),
    )
    query = select(
        watermark.c.device_key, func.coalesce(mark.c.rolled_ns, NEVER_NS), watermark.c.settled_ns
    )
    mine = watermark.c.agent_id == agent_id
    return {row[0]: row[1:] for row in rows(connection, query.select_from(joined).where(mine))}


def meters(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """The next settlements of every device."""
    marks = {
        device: rolled_ns
        for device, (rolled_ns, settled_ns) in meter_marks(connection, agent_id).items()
        if rolled_ns < settled_ns
    }
    ends: dict[int, tuple[int, int]] = {}
    for device, rolled_ns in marks.items():
        mine = and_(
            settlement.c.agent_id == agent_id,
            settlement.c.device_key == device,
            settlement.c.start_ns >= rolled_ns,
        )
        query = select(settlement.c.start_ns, settlement.c.end_ns).where(mine)
        some = query.order_by(settlement.c.start_ns).offset(most // len(marks)).limit(1)
        last = query.order_by(settlement.c.start_ns.desc()).limit(1)
        found = rows(connection, some) or rows(connection, last)
        if found:
            start_ns, end_ns = found[0]
            ends[device] = start_ns, max(start_ns + 1, end_ns)
    if not ends:
        return None

    def term(table: Table) -> ColumnElement[bool]:
        edges = [
            and_(
                table.c.device_key == device,
                table.c.start_ns >= marks[device],
                table.c.start_ns <= start_ns,
            )
            for device, (start_ns, _) in ends.items()
        ]
        earliest = table.c.start_ns >= min(marks[device] for device in ends)
        known = table.c.device_key.in_(sorted(ends))
        return and_(table.c.agent_id == agent_id, known, earliest, or_(*edges))

    wholes = summed_up(connection, METER, sources.meters(term(settlement)))
    pieces = summed_up(connection, PART, sources.parts(term(settlement_part)))

    def write(connection: Connection) -> None:
        METER.add(connection, wholes)
        PART.add(connection, pieces)
        table = rollup_meter_mark
        place = and_(table.c.agent_id == agent_id, table.c.device_key.in_(sorted(ends)))
        connection.execute(delete(table).where(place))
        new = [
            {"agent_id": agent_id, "device_key": device, "rolled_ns": end_ns}
            for device, (_, end_ns) in ends.items()
        ]
        connection.execute(insert(table), new)

    return Piece(mark, write)
