"""The SQL of a commit.

Rows go to the driver as tuples, untouched: that is four times as fast as dictionaries, so the
texts are made here, once for each table and agent. Names and the agent's id are our own, every
value is bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.cost.ledger.schema import accrual
from apportion.cost.ledger.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Table

POSTED: Final = frozenset(
    {"charge", "settlement", "settlement_part", "repricing", "price_rule", "span"}
)
"""Tables whose rows are never written over."""
KEPT_ONCE: Final = frozenset({"span", "reading", "iteration", "method"})
"""Tables where a row that is there already is the same fact, read again or written by another
agent."""
MOVES_ON: Final = frozenset({"evidence"})
"""Tables where an inserted row of a known key replaces it."""

KEPT: Final = " ON CONFLICT DO NOTHING"
"""The end of an INSERT that leaves a row whose key is there as it is."""


class Statements:
    """Texts for one agent. Its id is part of them, so that no row has to be rebuilt for it.

    The texts are those of SQLite and of PostgreSQL; `mark` is how the driver wants a value marked.
    """

    def __init__(self, agent_id: int, mark: str = "?") -> None:
        self._agent_id = agent_id
        self._mark = mark
        self._inserts: dict[tuple[str, tuple[str, ...] | None], str] = {}
        self._upserts: dict[tuple[str, tuple[str, ...] | None], str] = {}
        keys = " AND ".join(f'"{name}" = {mark}' for name in key_columns(accrual))
        own = f'"agent_id" = {agent_id}'
        self.delete_accrual: Final = f"DELETE FROM accrual WHERE {own} AND {keys}"  # noqa: S608
        settled = f'"device_key" = {mark} AND "time_ns" < {mark}'
        self.delete_readings: Final = f"DELETE FROM reading WHERE {own} AND {settled}"  # noqa: S608
        settled = f'"ring_key" = {mark} AND "end_ns" <= {mark}'
        self.delete_iterations: Final = f"DELETE FROM iteration WHERE {own} AND {settled}"  # noqa: S608

    def insert(self, table: str, columns: tuple[str, ...] | None = None) -> str:
        """Append rows to `table`. `columns` are those that the rows have; all without agent_id."""
        known = self._inserts.get((table, columns))
        if known is None:
            found = table_named(table)
            known = self._insert(found, columns) + on_conflict(found, columns)
            self._inserts[table, columns] = known
        return known

    def upsert(self, table: str, columns: tuple[str, ...] | None = None) -> str:
        """Write rows of `table` over those of the same key.

        Raises:
            LedgerError: what stands in `table` is posted and never edited.
        """
        known = self._upserts.get((table, columns))
        if known is None:
            if table in POSTED:
                message = f"rows of {table} are posted and never edited: post a reallocation"
                raise LedgerError(message)
            found = table_named(table)
            known = self._insert(found, columns) + overwrite(found, columns)
            self._upserts[table, columns] = known
        return known

    def _insert(self, table: Table, columns: Sequence[str] | None) -> str:
        names = list(row_columns(table) if columns is None else columns)
        values = [self._mark] * len(names)
        if "agent_id" in table.c:
            names.insert(0, "agent_id")
            values.insert(0, str(self._agent_id))
        return f"INSERT INTO {table.name} ({listed(names)}) VALUES ({', '.join(values)})"  # noqa: S608


def table_named(name: str) -> Table:
    """The ledger's table of that name.

    Raises:
        LedgerError: there is none.
    """
    table = metadata.tables.get(name)
    if table is None:
        message = f"the ledger has no table {name!r}"
        raise LedgerError(message)
    return table


def row_columns(table: Table) -> list[str]:
    """The columns of a `Row`: all but agent_id, in the table's order."""
    return [column.name for column in table.c if column.name != "agent_id"]


def key_columns(table: Table) -> list[str]:
    """The columns of a table's key, without agent_id."""
    return [column.name for column in table.primary_key if column.name != "agent_id"]


def on_conflict(table: Table, columns: Sequence[str] | None = None) -> str:
    """What becomes of an inserted row whose key is there: the end of an INSERT."""
    if table.name in KEPT_ONCE:
        return KEPT
    return overwrite(table, columns) if table.name in MOVES_ON else ""


def overwrite(table: Table, columns: Sequence[str] | None = None) -> str:
    """The end of an INSERT that writes over a row whose key is there."""
    keys = [column.name for column in table.primary_key]
    values = ", ".join(
        f'"{name}" = excluded."{name}"'
        for name in columns or row_columns(table)
        if name not in keys
    )
    return f" ON CONFLICT ({listed(keys)}) DO UPDATE SET {values}" if values else KEPT


def listed(names: Iterable[str]) -> str:
    """Names of columns as SQL has them."""
    return ", ".join(f'"{name}"' for name in names)
