"""Connections to a ledger, SQLite's or PostgreSQL's, and their errors in our words."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from apportion.core.errors import LedgerError, LedgerUnavailable, SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Generator
    from sqlite3 import Connection as SqliteConnection

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
DEFAULT_BUSY_TIMEOUT_MS: Final = 5_000
WRITES: Final = "apportion_writes"
"""Execution option of a connection whose transaction takes SQLite's write lock at once."""
CONNECT_TIMEOUT_S: Final = 5

_REMEDIES: Final = (
    ("locked", "another process holds its write lock; the same batch is tried again"),
    ("full", "free space on its disk; the same batch is tried again"),
    ("disk i/o", "its disk does not answer; look at the kernel's log"),
    ("readonly", "make the file and its directory writable for the agent"),
    ("unable to open", "see that its directory exists and that the agent may use it"),
)
"""What SQLite says when a ledger is out of reach for now, and what to do about it."""

_UNRELEASED: Final = re.compile(
    r"no such (column|table)|has no column named|(column|relation) .* does not exist"
)
_START_ANEW: Final = (
    "its tables are those of no release, an unreleased build made it, and `apportion ledger "
    "migrate` cannot know them: report or export with that build what you need, then move the "
    "ledger away and let the agent make a new one"
)

_SECRET_PARAMETER: Final = re.compile(r"(?i)pass|secret|token|key")
_POSTGRES: Final = "postgresql"
_AWAY: Final = {
    "08": "the connection was lost",
    "25006": "the server takes no writes: it is a standby",
    "40": "another transaction was in the way",
    "53": "the server has no room: see its disk, its memory and max_connections",
    "55": "another session holds a lock that this needs",
    "57": "the server is going down, coming up, or ended the statement",
    "58": "the server's system failed: see its log",
}
"""How SQLSTATEs begin that pass by themselves, or once somebody has seen to the server."""
_REFUSED: Final = (
    (r"authentication|pg_hba", "see the user, the password and the server's pg_hba.conf"),
    (r"permission denied", "grant the role what docs/shared-ledger.md lists"),
    (r'(database|role) "[^"]*" does not exist', "see the names in the URL"),
)
"""What PostgreSQL says when a person has to change something."""


# For each None that it is given, Python's sqlite3 looks whether something adapts it, and not
# finding anything takes five times as long as binding a number; most rows of `span` have a dozen.
_NOTHING: Final[dict[None, None]] = {}
sqlite3.register_adapter(type(None), _NOTHING.get)


def ledger_url(path_or_url: str | Path) -> URL:
    """A SQLAlchemy URL; a plain path is a SQLite file.

    Raises:
        LedgerError: it looks like a URL but is none.
    """
    text = str(path_or_url)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # Neither the text nor the cause, which quotes it: there may be a password in it.
        scheme = text.partition("://")[0]
        message = (
            f"{scheme}://... is no database URL: give a path, sqlite:///PATH or "
            "postgresql://USER@HOST/DATABASE"
        )
        raise LedgerError(message) from error
    if url.drivername.partition("+")[0] in {_POSTGRES, "postgres"}:
        return url.set(drivername=f"{_POSTGRES}+psycopg")
    return url


def is_file(url: URL) -> bool:
    """Is it a SQLite database in a file, and not in memory or on a server?"""
    return url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}


def is_postgres(url: URL) -> bool:
    """Is it a PostgreSQL database, which many agents may share?"""
    return url.get_backend_name() == _POSTGRES


def shown(url: URL) -> str:
    """The ledger's name for messages: a path, or the URL with nothing secret in it."""
    if is_file(url):
        return str(url.database)
    secret = {name: "***" for name in url.query if _SECRET_PARAMETER.search(name)}
    if is_postgres(url):
        url = url.set(drivername=_POSTGRES)
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def make_file(url: URL) -> None:
    """Create the file of a SQLite `url` with the ledger's rights; an existing one stays.

    Its -wal and -shm files get the same rights from SQLite.

    Raises:
        LedgerUnavailable: the file or its directory cannot be made.
        LedgerError: a file was moved away without its -wal.
    """
    path = Path(str(url.database))
    if path.exists():
        return
    left = Path(f"{path}-wal")
    if left.exists() and left.stat().st_size:
        message = (
            f"{left} is there without its ledger, and has what the ledger lacks: put {path.name} "
            "back beside it, or move the two away together"
        )
        raise LedgerError(message)
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
        if is_postgres(url):
            return _postgres(url, read_only=read_only)
        if url.get_backend_name() != "sqlite":
            return create_engine(url)
        return _sqlite(url, read_only=read_only, busy_timeout_ms=busy_timeout_ms)
    except ModuleNotFoundError as error:
        remedy = "pip install 'apportion[postgresql]'" if is_postgres(url) else str(error)
        message = f"ledger {shown(url)}: no driver for {url.drivername} is installed: {remedy}"
        raise LedgerError(message) from error
    except SQLAlchemyError as error:
        message = f"ledger {shown(url)}: no driver for {url.drivername} is installed ({error})"
        raise LedgerError(message) from error


def _postgres(url: URL, *, read_only: bool) -> Engine:
    """What the URL's query says (sslmode, options, ...) goes to libpq as it is."""
    arguments: dict[str, object] = {
        "application_name": "apportion",
        "connect_timeout": CONNECT_TIMEOUT_S,
        # Statements are few and long: nothing is won, and some connection poolers stumble.
        "prepare_threshold": None,
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    engine = create_engine(url, connect_args=arguments, poolclass=NullPool)
    if not read_only:
        return engine

    def begin(connection: Connection) -> None:
        # Whatever is read joins whole tables. One that was not analysed yet looks nearly empty to
        # the planner, which would compare each span with all lines of its agent: only hash joins.
        connection.exec_driver_sql(
            "SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off"
        )

    event.listen(engine, "begin", begin)
    # Whatever one transaction reads is of one moment, as in SQLite.
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


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
        cause = " ".join(str(error.orig).split())
        kind, remedy = _judged(cause, error.orig)
        message = f"ledger {name} could not {doing} ({cause})"
        raise kind(f"{message}: {remedy}" if remedy else message) from error


def _judged(cause: str, error: BaseException | None) -> tuple[type[LedgerError], str]:
    if _UNRELEASED.search(cause):
        return SchemaMismatch, _START_ANEW
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(cause)
    return _of_postgres(cause, getattr(error, "sqlstate", None))


def _of_sqlite(cause: str) -> tuple[type[LedgerError], str]:
    for sign, remedy in _REMEDIES:
        if sign in cause.lower():
            return LedgerUnavailable, remedy
    if "malformed" in cause or "not a database" in cause:
        return LedgerError, (
            "the file is damaged; stop the agent, keep the file aside, and restore a backup or "
            "start a new ledger"
        )
    return LedgerError, ""


def _of_postgres(cause: str, state: str | None) -> tuple[type[LedgerError], str]:
    """`state` is None where no session came about, or it broke off."""
    for sign, remedy in _REFUSED:
        if re.search(sign, cause):
            return LedgerError, remedy
    if state is None:
        return LedgerUnavailable, "see that the server runs and can be reached from this host"
    for known, meaning in _AWAY.items():
        if state.startswith(known):
            return LedgerUnavailable, meaning
    return LedgerError, ""
