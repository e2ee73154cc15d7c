"""The doctor's look at the shared ledger: is it there, is it the right one, may we write to it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import Connection, func, select, text

from apportion.agent.doctor.finding import Finding, Level
from apportion.core.clock import Clock
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.engine import ledger_errors, ledger_url, open_engine
from apportion.cost.ledger.migration import check_schema
from apportion.cost.ledger.shipping_tables import NOT_SHIPPED, lease, shipped
from apportion.cost.ledger.tables import metadata

_CHECK: Final = "shared ledger"
OLDEST_SERVER: Final = 150_000
MOST_SKEW_NS: Final = 5 * NS_PER_SECOND
_PAGE: Final = "docs/shared-ledger.md"


def examine_shared_ledger(location: str, shown: str, clock: Clock) -> list[Finding]:
    """Whether an agent could ship to the PostgreSQL at `location`. Nothing is written.

    `shown` is the location without a password.
    """
    if find_spec("psycopg") is None:
        remedy = "pip install 'apportion[postgresql]'"
        return [Finding(_CHECK, Level.FAIL, "its driver is not installed", remedy)]
    try:
        engine = open_engine(ledger_url(location), read_only=True)
        try:
            with ledger_errors(shown, "be read"):
                check_schema(engine, shown, create=False)
                with engine.connect() as connection:
                    findings = list(_examine(connection, clock))
        finally:
            engine.dispose()
    except LedgerError as error:
        return [Finding(_CHECK, Level.FAIL, str(error), f"see the message, and {_PAGE}")]
    return findings or [Finding(_CHECK, Level.OK, f"{shown} can be written")]


def _examine(connection: Connection, clock: Clock) -> Iterator[Finding]:
    number = int(_ask(connection, "SHOW server_version_num"))
    if number < OLDEST_SERVER:
        found = f"the server is PostgreSQL {number // 10_000}"
        yield Finding(_CHECK, Level.FAIL, found, "take one of version 15 or newer")
    if _ask(connection, "SELECT pg_is_in_recovery()"):
        found = "the server is a standby and takes no writes"
        yield Finding(
            _CHECK,
            Level.FAIL,
            found,
            "name the primary, or add both and target_session_attrs=read-write",
        )
    missing = sorted(_missing(connection))
    if missing:
        found = f"this role may not: {', '.join(missing)}"
        yield Finding(_CHECK, Level.FAIL, found, f"grant what {_PAGE} lists")
    if not _ask(connection, _IS_PRIVATE):
        found = "the connection is not encrypted"
        yield Finding(
            _CHECK, Level.WARN, found, "add sslmode=verify-full and sslrootcert to the URL"
        )
    there_ns = int(_ask(connection, "SELECT extract(epoch FROM clock_timestamp()) * 1000000000"))
    skew_ns = there_ns - clock.realtime_ns()
    if abs(skew_ns) > MOST_SKEW_NS:
        found = f"the server's clock is {skew_ns / NS_PER_SECOND:+.1f} s from this host's"
        yield Finding(_CHECK, Level.WARN, found, "run NTP on both")


_IS_PRIVATE: Final = """
    SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
        OR coalesce(host(inet_client_addr()) = host(inet_server_addr()), true)
"""
"""Encrypted, or from this very host."""


def _missing(connection: Connection) -> Iterator[str]:
    """Rights that shipping needs and this role has not."""
    names = [table.name for table in metadata.sorted_tables if table.name not in NOT_SHIPPED]
    for name in (*names, shipped.name, lease.name):
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            query = select(func.has_table_privilege(name, right))
            if not connection.execute(query).scalar_one():
                yield f"{right} on {name}"
    query = select(func.has_database_privilege(func.current_database(), "TEMPORARY"))
    if not connection.execute(query).scalar_one():
        yield "TEMPORARY on the database"


def _ask(connection: Connection, query: str) -> Any:
    return connection.execute(text(query)).scalar_one()
