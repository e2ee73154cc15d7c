"""The SQL of a commit.

Rows go to the driver as tuples, untouched: that is four times as fast as dictionaries, so the
texts are made here, once for each table and agent. Names and the agent's id are our own, every
value is bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.cost.ledger.schema import accrual, metadata

if TYPE_CHECKING:
    from sqlalchemy import Table

POSTED: Final = frozenset(
    {"charge", "settlement", "settlement_part", "repricing", "price_rule", "span"}
)
"""Tables whose rows are never written over."""
KEPT_ONCE: Final = frozenset({"span", "reading", "method"})
"""Tables where a row that is there already is the same fact, read again or written by another
agent."""
MOVES_ON: Final = frozenset({"evidence"})
"""Tables where an inserted row of a known key replaces it."""


class Statements:
    """Texts for one agent. Its id is part of them, so that no row has to be rebuilt for it."""

    def __init__(self, agent_id: int) -> None:
        self._agent_id = agent_id
        self._inserts: dict[str, str] = {}
        self._upserts: dict[str, str] = {}
        keys = " AND ".join(f'"{name}" = ?' for name in key_columns(accrual))
        own = f'"agent_id" = {agent_id}'
        self.delete_accrual: Final = f"DELETE FROM accrual WHERE {own} AND {keys}"  # noqa: S608
        settled = '"device_key" = ? AND "time_ns" < ?'
        self.delete_readings: Final = f"DELETE FROM reading WHERE {own} AND {settled}"  # noqa: S608

    def insert(self, table: str) -> str:
        """Append rows to `table`."""
        known = self._inserts.get(table)
        if known is None:
            known = self._insert(table_named(table))
            if table in KEPT_ONCE:
                known += " ON CONFLICT DO NOTHING"
            elif table in MOVES_ON:
                known += _overwrite(table_named(table))
            self._inserts[table] = known
        return known

    def upsert(self, table: str) -> str:
        """Write rows of `table` over those of the same key.

        Raises:
            LedgerError: what stands in `table` is posted and never edited.
        """
        known = self._upserts.get(table)
        if known is None:
            if table in POSTED:
                message = f"rows of {table} are posted and never edited: post a reallocation"
                raise LedgerError(message)
            known = self._insert(table_named(table)) + _overwrite(table_named(table))
            self._upserts[table] = known
        return known

    def _insert(self, table: Table) -> str:
        columns = row_columns(table)
        names, values = list(columns), ["?"] * len(columns)
        if "agent_id" in table.c:
            names.insert(0, "agent_id")
            values.insert(0, str(self._agent_id))
        quoted = ", ".join(f'"{name}"' for name in names)
        return f"INSERT INTO {table.name} ({quoted}) VALUES ({', '.join(values)})"  # noqa: S608


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


def _overwrite(table: Table) -> str:
    keys = {column.name for column in table.primary_key}
    target = ", ".join(f'"{column.name}"' for column in table.primary_key)
    values = ", ".join(
        f'"{column.name}" = excluded."{column.name}"'
        for column in table.c
        if column.name not in keys
    )
    return f" ON CONFLICT ({target}) DO UPDATE SET {values}"
