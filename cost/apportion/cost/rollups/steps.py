"""Sets of step numbers as ranges: what several ranks, hours or agents saw of the same steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, insert, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rollup_tables import rollup_step
from apportion.cost.ledger.rows import rows
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

Range = tuple[int, int]
"""First and last number; every one between them is in it."""


class StepsOf(NamedTuple):
    """Whose steps. `charged`: their cost is posted to the end."""

    entity: int
    charged: int


def united(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in the fewest ranges, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def size(ranges: Iterable[Range]) -> int:
    """How many different numbers there are."""
    return sum(last - first + 1 for first, last in united(ranges))


def replace_steps(
    connection: Connection,
    agent_id: int,
    hour_ns: int,
    found: Mapping[StepsOf, Sequence[Range]],
) -> None:
    """Write one hour's steps over those that are there, and unite what it is a part of."""
    table = rollup_step.c
    for hours, finer in zip(GRAINS, (0, *GRAINS), strict=False):
        length_ns = hours * NS_PER_HOUR
        start_ns = hour_ns - hour_ns % length_ns
        end_ns = start_ns + length_ns
        if finer:
            found = _within(connection, finer, agent_id, start_ns, end_ns)
        place = (table.hours == hours, table.agent_id == agent_id, table.start_ns == start_ns)
        connection.execute(delete(rollup_step).where(*place))
        new = [
            (hours, agent_id, start_ns, *whose, *numbers)
            for whose, ranges in found.items()
            for numbers in united(ranges)
        ]
        if new:
            names = rollup_step.c.keys()
            connection.execute(
                insert(rollup_step), [dict(zip(names, row, strict=True)) for row in new]
            )


def _within(
    connection: Connection, hours: int, agent_id: int, start_ns: int, end_ns: int
) -> dict[StepsOf, list[Range]]:
    table = rollup_step.c
    query = select(table.entity_key, table.charged, table.first_step, table.last_step).where(
        table.hours == hours,
        table.agent_id == agent_id,
        table.start_ns >= start_ns,
        table.start_ns < end_ns,
    )
    found: dict[StepsOf, list[Range]] = {}
    for entity, charged, first, last in rows(connection, query):
        found.setdefault(StepsOf(entity, charged), []).append((first, last))
    return found
