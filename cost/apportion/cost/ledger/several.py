"""Several ledgers read as one: SQLite files side by side, every statement unchanged.

The first file is opened, the others are attached, and each table is a temporary view of all of
them together. What cannot be added up is refused by name: ledgers in two currencies, or one agent
in two files, which are then a ledger and its copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import event, select

from apportion.core.clock import SystemClock
from apportion.core.errors import LedgerError
from apportion.cost.ledger.engine import is_file, ledger_url, open_engine, shown
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, rate
from apportion.cost.ledger.tables import metadata

if TYPE_CHECKING:
    from sqlite3 import Connection as SqliteConnection

    from sqlalchemy import Table
    from sqlalchemy.pool import ConnectionPoolEntry

    from apportion.core.clock import Clock

MOST_FILES: Final = 11
"""SQLite attaches ten databases to one, unless it was built otherwise."""
_TABLES: Final = tuple(metadata.sorted_tables)


def open_ledgers(locations: Sequence[str | Path], clock: Clock | None = None) -> LedgerReader:
    """One ledger as `LedgerReader.of`, or several as one.

    Raises:
        LedgerError: several are too many, no SQLite files, of several currencies, or have an
            agent in common.
    """
    if len(locations) == 1:
        return LedgerReader.of(locations[0], clock=clock)
    urls = [ledger_url(location) for location in locations]
    for url in urls:
        if not is_file(url):
            message = f"{shown(url)} is no SQLite file: several ledgers are read together only as "
            message += "files; a PostgreSQL already holds the ledgers of all agents that ship to it"
            raise LedgerError(message)
    if len(urls) > MOST_FILES:
        message = (
            f"{len(urls)} ledgers are more than the {MOST_FILES} files that SQLite reads "
            "together: report on some at a time, or let the agents ship to a PostgreSQL"
        )
        raise LedgerError(message)
    names = [shown(url) for url in urls]
    _refuse_what_cannot_be_added(names)
    engine = open_engine(urls[0], read_only=True)
    event.listen(engine, "connect", _Beside(names[1:]))
    return LedgerReader(engine, ", ".join(names), clock or SystemClock())


def _refuse_what_cannot_be_added(names: Sequence[str]) -> None:
    owners: dict[int, str] = {}
    currencies: dict[str, str] = {}
    for name in names:
        with LedgerReader.of(name) as ledger, ledger.read() as connection:
            agents = rows(connection, select(agent.c.agent_id, agent.c.node, agent.c.currency))
            priced = rows(connection, select(rate.c.currency).distinct())
        for agent_id, node, _ in agents:
            if agent_id in owners:
                message = (
                    f"the agent of node {node} is in {owners[agent_id]} and in {name}: one is a "
                    "copy of the other, and its cost would be added twice; give only one of them"
                )
                raise LedgerError(message)
            owners[agent_id] = name
        for currency in {row[-1] for row in (*agents, *priced)} - {None}:
            currencies.setdefault(currency, name)
        if len(currencies) > 1:
            (one, where), (other, there) = list(currencies.items())[:2]
            message = (
                f"{where} is in {one} and {there} in {other}, which cannot be added: report on "
                "each of them"
            )
            raise LedgerError(message)


class _Beside:
    """Attaches the other files to each new connection, and lays views over the tables."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
        schemas = ["main"]
        for number, name in enumerate(self._names, 1):
            schemas.append(f"beside_{number}")
            place = f"file:{quote(name)}?mode=ro"
            connection.execute(f"ATTACH DATABASE ? AS {schemas[-1]}", (place,))
        for table in _TABLES:
            connection.execute(f"CREATE TEMPORARY VIEW {table.name} AS {_together(table, schemas)}")


def _together(table: Table, schemas: Sequence[str]) -> str:
    columns = ", ".join(f'"{column.name}"' for column in table.c)
    parts = [f"SELECT {columns} FROM {schema}.{table.name}" for schema in schemas]  # noqa: S608
    if "agent_id" in table.c:
        return " UNION ALL ".join(parts)
    return " UNION ".join(parts)  # rows that no agent owns are the same in each
