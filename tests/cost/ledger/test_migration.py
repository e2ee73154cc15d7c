"""The schema's revisions: what a ledger is made by, and which ones an agent works with."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from tests.postgres import PostgresServer

from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError, SchemaMismatch
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.migration import MIGRATIONS, REVISION, migrate
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.tables import metadata


def open_ledger(path: Path) -> Ledger:
    return Ledger.open(
        path, node="n", cluster=None, currency=None, version="0", clock=ManualClock()
    )


def pretend(path: Path, revision: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.commit()
    connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """Where there is no ledger yet: a path, or the URL of an empty database."""
    if request.param == "sqlite":
        yield tmp_path / "ledger.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as name:
        yield server.url(name)


def test_revisions_make_the_schema(place: Path | str) -> None:
    """What Alembic builds is what the code uses: no table or column is in one of them only."""
    migrate(place)
    with LedgerReader.of(place) as ledger, ledger.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def schema_of(path: Path) -> dict[str, object]:
    """Everything that SQLite knows of a file's tables and indexes, but the words of their making.

    Among it is what Alembic's comparison cannot see: WITHOUT ROWID, the order of columns, and the
    sizes that queries are planned for.
    """
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("PRAGMA table_list").fetchall()
        names = sorted(row[1] for row in tables)
        found: dict[str, object] = {"tables": sorted(tables)}
        sizes = connection.execute("SELECT * FROM sqlite_stat1").fetchall()
        found["expected sizes"] = sorted(sizes)
        for name in names:
            for pragma in ("table_xinfo", "foreign_key_list"):
                rows = connection.execute(f"PRAGMA {pragma}({name})").fetchall()
                found[f"{name} {pragma}"] = rows
            for row in connection.execute(f"PRAGMA index_list({name})").fetchall():
                _, index, unique, origin, partial = row
                columns = connection.execute(f"PRAGMA index_xinfo({index})").fetchall()
                said = (unique, origin, partial, columns)
                found[f"{name} {index if origin == 'c' else origin}"] = said
        return found


def test_a_new_ledger_is_as_a_migrated_one(tmp_path: Path) -> None:
    """An agent makes its ledger without Alembic; the revisions lead to the same, to the column."""
    open_ledger(tmp_path / "made.db").close()
    migrate(tmp_path / "migrated.db")

    assert schema_of(tmp_path / "made.db") == schema_of(tmp_path / "migrated.db")
    assert migrate(tmp_path / "made.db") == (REVISION, REVISION)


def test_hot_tables_are_stored_in_the_order_of_their_key(tmp_path: Path) -> None:
    """What is declared WITHOUT ROWID is made so."""
    migrate(tmp_path / "ledger.db")
    with LedgerReader.of(tmp_path / "ledger.db") as ledger, ledger.read() as connection:
        query = "SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%' ORDER BY name"
        found = connection.exec_driver_sql(query).scalars().all()
    wanted = [
        table.name
        for table in metadata.sorted_tables
        if table.dialect_options["sqlite"]["with_rowid"] is False
    ]
    assert sorted(wanted) == list(found)


def test_newest_revision_is_named() -> None:
    """The agent knows the head without loading Alembic; the constant and the files agree."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [REVISION]
    numbers = sorted(int(revision.revision) for revision in script.walk_revisions())
    assert numbers == list(range(1, len(numbers) + 1))


def test_schema_compiles_for_postgresql() -> None:
    """The same tables are valid DDL for a shared PostgreSQL."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert "ROWID" not in text
        for index in table.indexes:
            assert "INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_migrate_creates_and_repeats(place: Path | str) -> None:
    """The command makes a ledger or leaves a current one alone."""
    assert migrate(place) == (None, REVISION)
    assert migrate(place) == (REVISION, REVISION)
    LedgerReader.of(place).close()


def test_older_schema_names_the_command(tmp_path: Path) -> None:
    """Agents never migrate on their own: the error says what a person has to run."""
    path = tmp_path / "ledger.db"
    migrate(path)
    pretend(path, "0000")
    with pytest.raises(SchemaMismatch, match=f"apportion ledger migrate --ledger {path}"):
        open_ledger(path)


def test_every_revision_is_a_way_here(place: Path | str) -> None:
    """A ledger of any release before comes to this one's schema, step by step."""
    migrate(place)
    engine = open_engine(ledger_url(place))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    for number in range(1, int(REVISION)):
        with engine.connect() as connection, connection.begin():
            config.attributes["connection"] = connection
            command.downgrade(config, f"{number:04}")
        with pytest.raises(SchemaMismatch, match="run `apportion ledger migrate"):
            LedgerReader.of(place)
        assert migrate(place) == (f"{number:04}", REVISION)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_next_schema_works_newer_does_not(tmp_path: Path) -> None:
    """Two releases share a database while it is expanded; beyond that an agent stops."""
    path = tmp_path / "ledger.db"
    migrate(path)
    pretend(path, f"{int(REVISION) + 1:04}")
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE charge ADD COLUMN added_later TEXT")
    connection.close()
    with open_ledger(path) as ledger:
        assert ledger.load_state(0).next_charge_key == 1
    with pytest.raises(SchemaMismatch, match="nothing was changed"):
        migrate(path)
    pretend(path, f"{int(REVISION) + 2:04}")
    with pytest.raises(SchemaMismatch, match="newer release"):
        open_ledger(path)


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    """A path to somebody else's database is refused before anything is written."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaMismatch, match="no ledger"):
        open_ledger(path)
    connection = sqlite3.connect(path)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("recipes",)]


def test_failed_migration_leaves_nothing(tmp_path: Path) -> None:
    """All steps are one transaction: a failure half-way through leaves an empty file."""
    path = tmp_path / "ledger.db"
    program = """
import sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from apportion.cost.ledger.migration import migrate
@event.listens_for(Engine, "before_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if "CREATE TABLE settlement" in statement:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
migrate(sys.argv[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == -9, done.stderr
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    open_ledger(path).close()


def test_ordinary_start_does_not_load_alembic(tmp_path: Path) -> None:
    """An agent on a node pays memory and start-up time for migrations only when it needs one."""
    path = tmp_path / "ledger.db"
    migrate(path)
    program = """
import sys
from apportion.core.clock import ManualClock
from apportion.cost.ledger.ledger import Ledger
Ledger.open(sys.argv[1], node="n", cluster=None, currency=None, version="0", clock=ManualClock())
print("alembic" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "False\n"


def test_migrate_says_what_is_wrong(tmp_path: Path) -> None:
    """A damaged file is not migrated over."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database at all, only text" * 100)
    with pytest.raises(LedgerError, match="damaged"):
        migrate(path)
