"""How many rows SQLite is to expect by each index of the large tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import column, insert, table, text

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SIZES: Final = table("sqlite_stat1", column("tbl"), column("idx"), column("stat"))
_EXPECTED: Final = (
    {"tbl": "span", "idx": "span", "stat": "10000000 10000000 100000 1"},
    {"tbl": "span", "idx": "span_end", "stat": "10000000 10000000 1"},
    {"tbl": "span", "idx": "span_late", "stat": "100 100 1"},
    {"tbl": "charge", "idx": "charge", "stat": "10000000 10000000 1"},
)
"""`stat`: rows of the table, then rows that share the first column, the first two, ..."""


def tell_sizes(connection: Connection) -> None:
    """Tell them to a SQLite ledger that has its tables; any other database counts on its own.

    Until told it takes every table for small, and compares each span with each line.
    """
    if connection.dialect.name != "sqlite":
        return
    # Makes the table of sizes, and looks at no other.
    connection.execute(text("ANALYZE sqlite_master"))
    connection.execute(insert(_SIZES), list(_EXPECTED))
