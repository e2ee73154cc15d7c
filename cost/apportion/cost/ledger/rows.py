"""What a statement answers, as plain tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Executable

ROWS_AT_ONCE: Final = 10_000


def rows(connection: Connection, statement: Executable) -> list[tuple[Any, ...]]:
    """Everything that `statement` answers."""
    return [tuple(row) for row in connection.execute(statement).all()]


def stream(connection: Connection, statement: Executable) -> Iterator[tuple[Any, ...]]:
    """The same row by row, without holding them all."""
    found = connection.execute(statement, execution_options={"yield_per": ROWS_AT_ONCE})
    return (tuple(row) for row in found)
