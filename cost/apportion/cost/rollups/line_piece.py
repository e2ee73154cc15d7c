"""Lines into `rollup_cost`: those of a range of keys, added to what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, func, select

from apportion.cost.ledger.rollup_tables import rollup_cost
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge
from apportion.cost.rollups import sources
from apportion.cost.rollups.grains import Grains
from apportion.cost.rollups.hours import flag_stale, hours_of, write_hours
from apportion.cost.rollups.marks import Mark, hours_of_late_lines
from apportion.cost.rollups.piece import Piece, summed_up

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

COST: Final = Grains(rollup_cost)


def lines_up(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """The agent's own lines, which are numbered upwards."""
    key = charge.c.charge_key
    beyond = key > mark.last_key
    last_key = _end(connection, agent_id, beyond, key, func.max(key), most)
    if last_key is None:
        return None
    term = and_(beyond, key <= last_key)
    return _piece(connection, agent_id, mark, mark._replace(last_key=last_key), term)


def lines_down(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """The lines that commands have posted, which are numbered downwards."""
    key = charge.c.charge_key
    beyond = key < mark.first_key
    first_key = _end(connection, agent_id, beyond, key.desc(), func.min(key), most)
    if first_key is None:
        return None
    term = and_(beyond, key >= first_key)
    return _piece(connection, agent_id, mark, mark._replace(first_key=first_key), term)


def _end(
    connection: Connection,
    agent_id: int,
    beyond: ColumnElement[bool],
    outward: ColumnElement[int],
    outermost: ColumnElement[int],
    most: int,
) -> int | None:
    """The key of the last of the next `most` lines; None where there is no line."""
    mine = and_(charge.c.agent_id == agent_id, beyond)
    query = select(charge.c.charge_key).where(mine).order_by(outward).limit(1).offset(most - 1)
    found = connection.execute(query).scalar()
    return found or connection.execute(select(outermost).where(mine)).scalar()


def _piece(
    connection: Connection, agent_id: int, mark: Mark, after: Mark, lines: ColumnElement[bool]
) -> Piece:
    mine = and_(charge.c.agent_id == agent_id, lines)
    found = summed_up(connection, COST, sources.lines(mine))
    late = hours_of_late_lines(connection, agent_id, mark, lines)
    hour_ns = sources.hour_of(charge.c.start_ns).label("hour_ns")
    line = select(hour_ns, charge.c.charge_key, charge.c.posted_ns).where(mine).subquery("line")
    first, last = func.min(line.c.charge_key), func.max(line.c.charge_key)
    facts = rows(
        connection,
        select(line.c.hour_ns, first, last, func.max(line.c.posted_ns)).group_by(line.c.hour_ns),
    )

    def write(connection: Connection) -> None:
        COST.add(connection, found)
        known = hours_of(connection, agent_id, (row[0] for row in facts))
        write_hours(
            connection, agent_id, {row[0]: known[row[0]].with_lines(*row[1:]) for row in facts}
        )
        flag_stale(connection, agent_id, late)

    return Piece(after, write)
