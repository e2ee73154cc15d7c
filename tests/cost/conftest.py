"""Modules that ask for `each_database` run twice: their ledgers in SQLite, and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cost.shipped import ShippedLedger
from tests.postgres import PostgresServer

from apportion.core.clock import Clock
from apportion.cost import testing
from apportion.cost.ledger.tables import metadata


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def each_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Builders' ledgers are SQLite's; or each commit is shipped, and reads come from there.

    The URL of the shared ledger, with the builders' last book in it; empty with SQLite.
    """
    if request.param == "sqlite":
        yield ""
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("ledger_template")
    folder = tmp_path_factory.mktemp("shipped")
    tables = ", ".join(table.name for table in metadata.sorted_tables)
    memory_ledger = testing.memory_ledger
    with server.database(template) as name, pytest.MonkeyPatch.context() as patch:

        def shipped(path: str | Path = "sqlite://", *, clock: Clock | None = None) -> ShippedLedger:
            if path == "sqlite://":
                for old in folder.iterdir():
                    old.unlink()
                path = folder / "ledger.db"
            server.execute(f"TRUNCATE {tables}", name)
            return ShippedLedger(memory_ledger(path, clock=clock), server.url(name))

        patch.setattr(testing, "memory_ledger", shipped)
        yield server.url(name)
