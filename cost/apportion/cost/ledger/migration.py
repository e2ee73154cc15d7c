"""The schema's revisions: a new ledger gets the newest, an old one only when somebody asks.

Revisions are numbered 0001, 0002, ... and each first only adds, so that an agent works with its
own revision and the next: two releases can share one database.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from apportion.core.errors import SchemaMismatch
from apportion.cost.ledger.engine import (
    WRITES,
    is_file,
    ledger_errors,
    ledger_url,
    make_file,
    open_engine,
    shown,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

REVISION: Final = "0002"
"""The newest revision in migrations/versions, which this release writes."""

MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "migrations"


def migrate(path_or_url: str | Path) -> tuple[str | None, str]:
    """Bring a ledger to this release's schema, or create it; the revisions (before, after).

    All steps are one transaction: a migration that fails or is killed leaves the ledger as it
    was. An agent that runs meanwhile waits.

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
        _upgrade(engine, name)
        return
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


def _upgrade(engine: Engine, name: str) -> tuple[str | None, str]:
    # Here and not above: an agent that finds its schema in order never loads Alembic.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
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
