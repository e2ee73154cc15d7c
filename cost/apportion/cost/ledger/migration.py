"""The schema's revisions: a new ledger gets the newest, an old one only when somebody asks.

Revisions are numbered 0001, 0002, ... and each first only adds, so that an agent works with its
own revision and the next: two releases can share one database. An agent makes a new ledger from
the tables as they are declared, without the way there; a test holds both to the same schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, MetaData, String, Table, inspect, text

from apportion.core.errors import SchemaMismatch
from apportion.cost.ledger.engine import (
    WRITES,
    is_file,
    is_postgres,
    ledger_errors,
    ledger_url,
    make_file,
    open_engine,
    shown,
)
from apportion.cost.ledger.expected_sizes import tell_sizes
from apportion.cost.ledger.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

REVISION: Final = "0002"
"""The newest revision in migrations/versions, which this release writes."""

ADVISORY_LOCK: Final = 4_870_326_119_004_516_001
"""Any number that nobody else uses."""
LOCK_TIMEOUT_MS: Final = 10_000

MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "migrations"

_STAMP: Final = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), primary_key=True)
)
"""Where Alembic looks for a ledger's revision."""


def migrate(path_or_url: str | Path) -> tuple[str | None, str]:
    """Bring a ledger to this release's schema, or create it; the revisions (before, after).

    All steps are one transaction: a migration that fails or is killed leaves the ledger as it
    was. An agent that runs meanwhile waits, and so does a second migration.

    Raises:
        SchemaMismatch: the ledger is newer than this release.
        LedgerUnavailable: it is locked or out of reach.
    """
    url = ledger_url(path_or_url)
    if is_file(url):
        make_file(url)
    engine = open_engine(url)
    try:
        with ledger_errors(shown(url), "be migrated"):
            return _upgrade(engine, shown(url))
    finally:
        engine.dispose()


def check_schema(engine: Engine, name: str, *, create: bool) -> None:
    """See that the schema is one to work with. A ledger with no table at all is made, if asked.

    Raises:
        SchemaMismatch: it is older, too new, or no ledger; the message names the command.
    """
    with engine.connect() as connection:
        revision = revision_of(connection)
        empty = revision is None and not inspect(connection).get_table_names()
    if empty and create:
        _create(engine)
        return
    if empty and is_postgres(engine.url):
        message = f"ledger {name} has no tables yet: run `apportion ledger migrate --ledger {name}`"
        raise SchemaMismatch(message)
    if empty:
        message = f"ledger {name} is empty: no agent has written to it yet"
        raise SchemaMismatch(message)
    if revision is None:
        message = f"{name} is a database, but no ledger: give another path"
        raise SchemaMismatch(message)
    if not revision.isdecimal() or int(revision) > int(REVISION) + 1:
        message = (
            f"ledger {name} has schema {revision}, this release knows {REVISION} and the next: "
            "use a newer release of apportion"
        )
        raise SchemaMismatch(message)
    if int(revision) < int(REVISION):
        message = (
            f"ledger {name} has schema {revision}, this release needs {REVISION}: "
            f"run `apportion ledger migrate --ledger {name}`"
        )
        raise SchemaMismatch(message)


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None: there is no schema of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _create(engine: Engine) -> None:
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        if revision_of(connection) is not None:  # another agent was faster
            return
        metadata.create_all(connection, checkfirst=False)
        tell_sizes(connection)
        _STAMP.create(connection)
        connection.execute(_STAMP.insert().values(version_num=REVISION))


def _upgrade(engine: Engine, name: str) -> tuple[str | None, str]:
    # Here and not above: an agent never loads Alembic.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        if is_postgres(engine.url):
            _wait_for_others(connection)
        before = revision_of(connection)
        if before is not None and (not before.isdecimal() or int(before) > int(REVISION)):
            message = (
                f"ledger {name} has schema {before}, newer than this release's {REVISION}: "
                "nothing was changed"
            )
            raise SchemaMismatch(message)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, REVISION


def _wait_for_others(connection: Connection) -> None:
    """One migration at a time, and none that stands in everybody's way.

    A change of a table waits for whoever uses it, and all who come later wait behind it: rather
    than that it gives up, and is tried again.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
