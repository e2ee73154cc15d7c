"""The ledger of one agent: each tick is one transaction, whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.cost.ledger.agents import agent_of
from apportion.cost.ledger.batch import LedgerState
from apportion.cost.ledger.engine import (
    DEFAULT_BUSY_TIMEOUT_MS,
    WRITES,
    is_file,
    ledger_errors,
    ledger_url,
    make_file,
    open_engine,
    shown,
)
from apportion.cost.ledger.migration import check_schema
from apportion.cost.ledger.outbox import Outbox
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.rollup_tables import rollup_mark
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, charge, span, watermark
from apportion.cost.ledger.statements import Statements, key_columns, row_columns, table_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Table
    from typing_extensions import Self

    from apportion.core.clock import Clock
    from apportion.cost.ledger.batch import Row, TickBatch

STATE_TABLES: Final = (
    "boot",
    "wall_offset",
    "device",
    "device_group",
    "device_share",
    "rate",
    "entity",
    "method",
    "ring",
    "ring_position",
    "binding",
    "lost_work",
    "accrual",
    "watermark",
    "idle_power",
    "reading",
    "iteration",
)
"""What `LedgerState.tables` holds whole."""


class Ledger(LedgerReader):
    """One agent's book in a SQLite file: where exactly-once is decided.

    One thread at a time may write; others may read meanwhile.
    """

    def __init__(self, engine: Engine, name: str, clock: Clock, agent_id: int) -> None:
        super().__init__(engine, name, clock)
        self.agent_id: Final = agent_id
        self.outbox: Final = Outbox(engine, name, agent_id, clock)
        self._statements = Statements(agent_id)
        self._inode = _inode(name)

    @classmethod
    def open(
        cls,
        path_or_url: str | Path,
        *,
        node: str,
        cluster: str | None,
        currency: str | None,
        version: str,
        clock: Clock,
        busy_timeout_ms: int = DEFAULT_BUSY_TIMEOUT_MS,
    ) -> Self:
        """Open or create the ledger of the agent on `node`; `sqlite://` lives in memory.

        A new file gets the newest schema. An agent that was here before keeps its id.
        `currency` None: no device has a price yet.

        Raises:
            LedgerUnavailable: locked, full, or its directory cannot be used.
            SchemaMismatch: an older or too new schema; the message names the command.
            LedgerError: no SQLite, a damaged file, or a ledger in another currency.
        """
        url = ledger_url(path_or_url)
        name = shown(url)
        if url.get_backend_name() != "sqlite":
            message = (
                f"an agent writes to SQLite on its own node, not to {name}: give a path; the "
                "agent's `shared_ledger` may be a PostgreSQL"
            )
            raise LedgerError(message)
        if is_file(url):
            make_file(url)
        engine = open_engine(url, busy_timeout_ms=busy_timeout_ms)
        try:
            with ledger_errors(name, "be opened"):
                check_schema(engine, name, create=True)
                writing = engine.connect().execution_options(**{WRITES: True})
                with writing as connection, connection.begin():
                    identity = _Identity(node, cluster, currency, version)
                    agent_id = identity.settle(connection, name, clock)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, name, clock, agent_id)

    @classmethod
    def beside(
        cls,
        path_or_url: str | Path,
        *,
        node: str,
        clock: Clock,
        busy_timeout_ms: int = DEFAULT_BUSY_TIMEOUT_MS,
    ) -> Self:
        """The ledger of the agent on `node`, for a command that adds to it while the agent runs.

        Raises:
            LedgerUnavailable: there is no such file, or it is out of reach.
            SchemaMismatch: its schema is not one that this release can use.
            LedgerError: no SQLite, or that node has no agent in it.
        """
        url = ledger_url(path_or_url)
        name = shown(url)
        if url.get_backend_name() != "sqlite":
            message = f"{name} gets what agents ship: give the SQLite ledger on the node itself"
            raise LedgerError(message)
        if is_file(url) and not Path(name).is_file():
            message = f"ledger {name} does not exist: give the path that the agent's config names"
            raise LedgerUnavailable(message)
        engine = open_engine(url, busy_timeout_ms=busy_timeout_ms)
        try:
            with ledger_errors(name, "be opened"):
                check_schema(engine, name, create=False)
                with engine.connect() as connection:
                    agent_id = agent_of(connection, name, node).agent_id
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, name, clock, agent_id)

    def commit(self, batch: TickBatch) -> None:
        """Write a tick: everything in `batch` or nothing. After an error it can be given again.

        Raises:
            LedgerUnavailable: locked, full, moved or gone for now.
            LedgerError: a row contradicts what is posted: above all a second settlement of a
                device from the same instant, which would charge its time twice.
        """
        if self._inode is not None and _inode(self.name) != self._inode:
            # SQLite would go on writing to the moved file's -wal, where nobody looks for it.
            message = (
                f"ledger {self.name} was moved or deleted while it is in use: put it back, or "
                "restart the agent with another one"
            )
            raise LedgerUnavailable(message)
        try:
            with ledger_errors(self.name, "commit a tick"):
                writing = self._engine.connect().execution_options(**{WRITES: True})
                with writing as connection, connection.begin():
                    self._write(connection, batch)
        except _Conflict as conflict:
            # Looked up after the rollback: before it, the batch's own rows are found too.
            raise LedgerError(self._explain(conflict)) from conflict

    def _write(self, connection: Connection, batch: TickBatch) -> None:
        statements = self._statements
        for table, new in batch.inserted.items():
            self._many(connection, table, statements.insert(table), new)
        for table, newer in batch.replaced.items():
            self._many(connection, table, statements.upsert(table), newer)
        removed, changed = batch.accruals_removed, batch.accruals_changed
        self._many(connection, "accrual", statements.delete_accrual, removed)
        self._many(connection, "accrual", statements.upsert("accrual"), changed)
        before = list(batch.readings_before.items())
        self._many(connection, "reading", statements.delete_readings, before)
        before = list(batch.iterations_before.items())
        self._many(connection, "iteration", statements.delete_iterations, before)
        self.outbox.record(connection, batch)

    def _many(
        self, connection: Connection, table: str, statement: str, values: Sequence[Row]
    ) -> None:
        if not values:
            return
        try:
            connection.exec_driver_sql(statement, list(values))
        except IntegrityError as error:
            raise _Conflict(table, values, str(error.orig)) from error
        except OverflowError as error:
            message = f"a value for {table} does not fit 64 bits: {error}"
            raise LedgerError(message) from error
        except DBAPIError as error:
            if "binding" in str(error.orig):
                columns = row_columns(table_named(table))
                message = f"a row for {table} does not fit its columns {columns}: {error.orig}"
                raise LedgerError(message) from error
            raise

    def _explain(self, conflict: _Conflict) -> str:
        """Which of the rows has the key of one that is posted, or of another in its batch."""
        table, cause = conflict.table, conflict.cause
        target = table_named(table)
        columns, keys = row_columns(target), key_columns(target)
        places = [columns.index(key) for key in keys]
        seen: set[Row] = set()
        culprit: Row = ()
        with self.read() as connection:
            for row in conflict.rows:
                key = tuple(row[place] for place in places)
                if key in seen or self._has(connection, target, keys, key):
                    culprit = key
                    break
                seen.add(key)
        named = ", ".join(f"{name}={value}" for name, value in zip(keys, culprit, strict=False))
        hint = " its time would be charged twice;" if table == "settlement" else ""
        return (
            f"ledger {self.name} refused a row of {table} ({named or 'see the cause'}):{hint} "
            f"the tick was rolled back ({cause}). Does another agent write to this ledger?"
        )

    def _has(self, connection: Connection, table: Table, keys: Sequence[str], key: Row) -> bool:
        query = select(func.count()).select_from(table)
        query = query.where(
            *(table.c[name] == value for name, value in zip(keys, key, strict=True))
        )
        if "agent_id" in table.c:
            query = query.where(table.c.agent_id == self.agent_id)
        return connection.execute(query).scalar_one() > 0

    def load_state(self, margin_ns: int) -> LedgerState:
        """What settlement goes on from: the small tables, and the spans it may still need.

        Those ended less than `margin_ns` before the oldest watermark, or since; where nothing
        is settled yet, they are all.
        """
        with self.read() as connection:
            tables = {name: self._rows(connection, name) for name in STATE_TABLES}
            oldest_ns = connection.execute(
                select(func.min(watermark.c.settled_ns)).where(
                    watermark.c.agent_id == self.agent_id
                )
            ).scalar()
            columns = (span.c[name] for name in row_columns(span))
            query = select(*columns).where(span.c.agent_id == self.agent_id)
            if oldest_ns is not None:
                query = query.where(span.c.end_ns > oldest_ns - margin_ns)
            # Ordered here: asked for by key, SQLite would go through all spans in its order.
            spans = sorted(rows(connection, query), key=lambda row: row[:2])
            return LedgerState(self.agent_id, tables, spans, self._next_key(connection))

    def _next_key(self, connection: Connection) -> int:
        """The first key for lines that no line has, or had before it was deleted."""
        posted = select(func.max(charge.c.charge_key)).where(charge.c.agent_id == self.agent_id)
        rolled = select(rollup_mark.c.last_key).where(rollup_mark.c.agent_id == self.agent_id)
        known = (connection.execute(query).scalar() for query in (posted, rolled))
        return max(0, *(key or 0 for key in known)) + 1

    def _rows(self, connection: Connection, name: str) -> list[Row]:
        table = table_named(name)
        query = select(*(table.c[column] for column in row_columns(table)))
        if "agent_id" in table.c:
            query = query.where(table.c.agent_id == self.agent_id)
        order = [table.c[column] for column in key_columns(table)]
        return rows(connection, query.order_by(*order))


def _inode(name: str) -> int | None:
    """Which file has that name now; None: there is none, or the ledger lies in memory."""
    try:
        return Path(name).stat().st_ino
    except OSError:
        return None


class _Conflict(Exception):
    """A row has the key of another one, or a wrong value. It never leaves this module."""

    def __init__(self, table: str, rows: Sequence[Row], cause: str) -> None:
        super().__init__(cause)
        self.table = table
        self.rows = rows
        self.cause = cause


class _Identity:
    """Who writes: found in the ledger again, or written there for the first time."""

    def __init__(self, node: str, cluster: str | None, currency: str | None, version: str) -> None:
        self._node = node
        self._cluster = cluster
        self._currency = currency
        self._version = version

    def settle(self, connection: Connection, name: str, clock: Clock) -> int:
        """The agent's id."""
        known = connection.execute(
            select(agent.c.agent_id, agent.c.currency)
            .where(agent.c.node == self._node)
            .order_by(agent.c.created_unix_ns, agent.c.agent_id)
            .limit(1)
        ).first()
        if known is None:
            agent_id = secrets.randbits(63)
            values = {
                "agent_id": agent_id,
                "cluster": self._cluster,
                "node": self._node,
                "version": self._version,
                "created_unix_ns": clock.realtime_ns(),
                "currency": self._currency,
            }
            connection.execute(insert(agent).values(values))
            return agent_id
        if None not in {known.currency, self._currency} and known.currency != self._currency:
            message = (
                f"ledger {name} is in {known.currency}, the prices are in {self._currency}: "
                "one ledger has one currency; give the new prices a ledger of their own"
            )
            raise LedgerError(message)
        connection.execute(
            update(agent)
            .where(agent.c.agent_id == known.agent_id)
            .values(
                cluster=self._cluster,
                version=self._version,
                currency=self._currency or known.currency,
            )
        )
        return int(known.agent_id)
