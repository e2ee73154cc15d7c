"""Rollups of days against those of their hours, and of weeks against those of their days."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_hours import by_hour, side_by_side, steps_by_hour
from apportion.cost.ledger.rollup_tables import (
    rollup_cost,
    rollup_meter,
    rollup_part,
    rollup_span,
    rollup_step,
)
from apportion.cost.ledger.rows import stream
from apportion.cost.rollups.marks import all_marks
from apportion.cost.rollups.sources import GRAINS
from apportion.cost.sums import joined, wide_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Subquery, Table

    from apportion.cost.audit_finding import Check, Names
    from apportion.cost.audit_hours import Hour, Row

_TABLES: Final = (rollup_cost, rollup_meter, rollup_part, rollup_span, rollup_step)
_NO_KEYS: Final = frozenset({"hours", "agent_id", "start_ns"})


def grains_check(connection: Connection, names: Names) -> Check:
    """Every day and week there is."""
    checker = Checker("longer", "days are the sum of their hours, weeks of their days", "rollups")
    agents = sorted(all_marks(connection))
    for finer, hours in pairwise(GRAINS):
        for table in _TABLES:
            accounts = _steps if table is rollup_step else _figures
            for agent_id in agents:
                made = accounts(connection, table, agent_id, finer, hours)
                held = accounts(connection, table, agent_id, hours, hours)
                for start_ns, expected, found in side_by_side(made, held):
                    wrong = next((k for k in expected if expected[k] != found.get(k)), None)
                    wrong = wrong or next((k for k in found if k not in expected), None)
                    checker.examine(
                        None
                        if wrong is None
                        else Finding(
                            names.node(agent_id),
                            f"{table.name} {wrong} of {hours} hours",
                            start_ns,
                            start_ns + hours * NS_PER_HOUR,
                            "figures",
                            str(expected.get(wrong)),
                            str(found.get(wrong)),
                        )
                    )
    return checker.done()


def _figures(
    connection: Connection, table: Table, agent_id: int, rows_of: int, hours: int
) -> Iterator[tuple[int, Hour]]:
    """Rows of one length added up to another, or the same."""
    row = _longer(table, agent_id, rows_of, hours)
    names = [column.name for column in table.primary_key if column.name not in _NO_KEYS]
    keys = [row.c.agent_id, row.c.longer_ns, *(row.c[name] for name in names)]
    columns = [column.name for column in table.c]
    figures = [name for name in columns if name not in {*_NO_KEYS, *names}]
    edges: dict[str, Callable[[Any], ColumnElement[Any]]] = {
        "first_ns": func.min,
        "last_ns": func.max,
    }
    sums = [edges.get(name, wide_sum)(row.c[name]) for name in figures]
    query = select(*keys, *sums).group_by(*keys).order_by(row.c.longer_ns)
    found = stream(connection, query)
    return by_hour((_whole(said, figures, len(keys)) for said in found), len(keys))


def _steps(
    connection: Connection, table: Table, agent_id: int, rows_of: int, hours: int
) -> Iterator[tuple[int, Hour]]:
    row = _longer(table, agent_id, rows_of, hours).c
    columns = (row.agent_id, row.longer_ns, row.entity_key, row.charged)
    query = select(*columns, row.first_step, row.last_step).order_by(row.longer_ns)
    return steps_by_hour(stream(connection, query))


def _longer(table: Table, agent_id: int, rows_of: int, hours: int) -> Subquery:
    """Rows of one length, and where the longer one starts that they lie in."""
    start_ns = table.c.start_ns
    longer_ns = (start_ns - start_ns % (hours * NS_PER_HOUR)).label("longer_ns")
    term = (table.c.hours == rows_of, table.c.agent_id == agent_id)
    return select(table, longer_ns).where(*term).subquery("row")


def _whole(row: Row, names: Sequence[str], width: int) -> Row:
    """The row with amounts that stand in two halves as one figure."""
    figures = dict(zip(names, row[width:], strict=True))
    return (
        *row[:width],
        *(
            joined(value, figures[name.replace("_high", "_low")]) if "_high" in name else value
            for name, value in figures.items()
            if not name.endswith("_low")
        ),
    )
