"""Migrations of a PostgreSQL that others use meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest
from tests.postgres import PostgresServer

from apportion.core.errors import LedgerUnavailable, SchemaMismatch
from apportion.cost.ledger import migration
from apportion.cost.ledger.migration import REVISION, migrate


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database."""
    with postgres.database() as name:
        yield postgres.url(name)


def tables(url: str) -> int:
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def test_two_migrations_at_once(url: str) -> None:
    """A rollout that runs the command on every node makes the tables once."""
    outcomes: list[tuple[str | None, str]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(migrate(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [
        (REVISION, REVISION),
        (REVISION, REVISION),
        (None, REVISION),
    ]


def test_killed_half_way(url: str) -> None:
    """All steps are one transaction: the database is as it was, and can be migrated."""
    program = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from apportion.cost.ledger.migration import migrate
@event.listens_for(Engine, "before_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if "CREATE TABLE settlement" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
migrate(sys.argv[1])
"""
    command = [sys.executable, "-c", program, url]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert tables(url) == 0
    assert migrate(url) == (None, REVISION)


def test_it_does_not_stand_in_everybodys_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a long transaction it gives up and says so, and whoever waits behind it goes on."""
    migrate(url)
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_MS", 200)
    with psycopg.connect(url) as other:
        other.execute("UPDATE alembic_version SET version_num = '0001'")
        other.commit()
        other.execute("SELECT count(*) FROM charge")
        with pytest.raises(LedgerUnavailable, match="another session holds a lock"):
            migrate(url)


def test_a_newer_schema_is_left_alone(url: str) -> None:
    """An old release on somebody's laptop does not touch what a newer one has made."""
    migrate(url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    before = tables(url)
    with pytest.raises(SchemaMismatch, match="newer than this release"):
        migrate(url)
    assert tables(url) == before
