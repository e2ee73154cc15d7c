"""Connections to a ledger: SQLite as the ledger wants it, and its errors in our words."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from apportion.core.errors import LedgerError, LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from sqlite3 import Connection as SqliteConnection

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
DEFAULT_BUSY_TIMEOUT_MS: Final = 5_000
WRITES: Final = "apportion_writes"
"""Execution option of a connection whose transaction takes SQLite's write lock at once."""

_REMEDIES: Final = (
    ("locked", "another process holds its write lock; the same batch is tried again"),
    ("full", "free space on its disk; the same batch is tried again"),
    ("disk i/o", "its disk does not answer; look at the kernel's log"),
    ("readonly", "make the file and its directory writable for the agent"),
    ("unable to open", "see that its directory exists and that the agent may use it"),
)
"""What SQLite says when a ledger is out of reach for now, and what to do about it."""


# For each None that it is given, Python's sqlite3 looks whether something adapts it, and not
# finding anything takes five times as long as binding a number; most rows of `span` have a dozen.
sqlite3.register_adapter(type(None), cast("Callable[[None], None]", {}.get))


def ledger_url(path_or_url: str | Path) -> URL:
    """A SQLAlchemy URL; a plain path is a SQLite file.

    Raises:
        LedgerError: it looks like a URL but is none.
    """
    text = str(path_or_url)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        return make_url(text)
    except ArgumentError as error:
        message = f"{text!r} is no database URL ({error}): give a path or sqlite:///PATH"
        raise LedgerError(message) from error


def is_file(url: URL) -> bool:
    """Is it a SQLite database in a file, and not in memory or on a server?"""
    return url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}


def shown(url: URL) -> str:
    """The ledger's name for messages: a path, or the URL without its password."""
    return str(url.database) if is_file(url) else url.render_as_string(hide_password=True)


def make_file(url: URL) -> None:
    """Create the file of a SQLite `url` with the ledger's rights; an existing one stays.

    Its -wal and -shm files get the same rights from SQLite.

    Raises:
        LedgerUnavailable: the file or its directory cannot be made.
    """
    path = Path(str(url.database))
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
    except OSError as error:
        if path.exists():  # made by another process in between
            return
        message = f"ledger {path} cannot be created ({error.strerror}): make its directory writable"
        raise LedgerUnavailable(message) from error
    try:
        os.fchmod(descriptor, FILE_MODE)  # whatever the umask says
    finally:
        os.close(descriptor)


def open_engine(
    url: URL, *, read_only: bool = False, busy_timeout_ms: int = DEFAULT_BUSY_TIMEOUT_MS
) -> Engine:
    """An engine for `url`. Nothing is connected yet.

    Raises:
        LedgerError: no driver is installed for this kind of database.
    """
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url)
        return _sqlite(url, read_only=read_only, busy_timeout_ms=busy_timeout_ms)
    except (ModuleNotFoundError, SQLAlchemyError) as error:
        message = f"ledger {shown(url)}: no driver for {url.drivername} is installed ({error})"
        raise LedgerError(message) from error


def _sqlite(url: URL, *, read_only: bool, busy_timeout_ms: int) -> Engine:
    arguments = {"timeout": busy_timeout_ms / 1000, "check_same_thread": False}
    if not is_file(url):
        # One connection for everybody: each further one would be a database of its own.
        engine = create_engine(url, connect_args=arguments, poolclass=StaticPool)
    elif read_only:
        name = f"file:{quote(str(url.database))}"
        url = URL.create("sqlite", database=name, query={"mode": "ro", "uri": "true"})
        engine = create_engine(url, connect_args=arguments)
    else:
        engine = create_engine(url, connect_args=arguments)

    def configure(connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the module's own BEGIN comes too late for DDL
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


@contextmanager
def ledger_errors(name: str, doing: str) -> Generator[None]:
    """Raise what the database raises inside as a `LedgerError` that says what to do.

    `name` is the ledger's, `doing` completes "ledger NAME could not ...".
    """
    try:
        yield
    except DBAPIError as error:
        cause = str(error.orig)
        for sign, remedy in _REMEDIES:
            if sign in cause.lower():
                message = f"ledger {name} could not {doing} ({cause}): {remedy}"
                raise LedgerUnavailable(message) from error
        if "malformed" in cause or "not a database" in cause:
            message = (
                f"ledger {name} could not {doing} ({cause}): the file is damaged; stop the agent, "
                "keep the file aside, and restore a backup or start a new ledger"
            )
            raise LedgerError(message) from error
        if error.connection_invalidated:
            message = f"ledger {name} could not {doing} ({cause}): the connection was lost"
            raise LedgerUnavailable(message) from error
        message = f"ledger {name} could not {doing} ({cause})"
        raise LedgerError(message) from error
